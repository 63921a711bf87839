"""The front of the entry points: what a user mistypes, asks for help with, or cannot write to."""

import errno
import sqlite3

import pytest
import yaml

from vqa2.core.errors import ConfigError
from vqa2.launch import composed, conf_dir, exit_code, guarded, usage

NEEDED = {"table": ["table=vqa2-2", "name=x"], "extend": ["depictions=x"], "agentic": ["depictions=x"],
          "leaks": ["a=x", "b=y"], "check": ["out=x"]}  # fmt: skip
CONFIGS = sorted(p.stem for p in conf_dir().glob("*.yaml"))


def settings_of(config: str) -> dict:
    return yaml.safe_load((conf_dir() / f"{config}.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("config", "override", "say"),
    [
        ("train", "sed=1", "sed: unknown key (did you mean 'seed'?)"),
        ("train", "stage.optimm.lr=1", "stage.optimm: unknown key (did you mean 'optim'?)"),
        ("train", "stage.optim.batchsize=1", "stage.optim.batchsize: unknown key (did you mean 'batch_size'?)"),
        ("train", "seed.x=1", "seed.x: unknown key"),
        ("train", "~stage.setz.base", "stage.setz: unknown key (did you mean 'sets'?)"),
        ("train", "hparams@stage=ablation/motio", "no such hparams (did you mean 'ablation/motion'?)"),
        ("train", "+reward@stage.rewards.x=overlog", "no such reward (did you mean 'overlong'?)"),
        ("train", "seed=1,2", "seed=1,2: one value is needed"),
        ("train", "ö=1", "ö: no setting is called so; write key=value"),
        ("train", "+seed=1", "seed: is there already; write it without +"),
        ("eval", "second_llm=http", "choose one of the group with llm@second_llm=http"),
        ("extend", "promt=x", "promt: unknown key (did you mean 'prompt'?)"),
        ("extend", "seed=1", "depictions: required and missing; set depictions=..."),
    ],
)
def test_what_is_mistyped_is_one_line_with_the_nearest_name(config, override, say):
    with pytest.raises(ConfigError) as caught:
        composed(config, [override])
    assert say in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_misspelt_key_stops_every_entry_point(config):
    known = settings_of(config)
    key = next(k for k in known if k != "defaults" and len(k) > 2 and k[:-1] not in known)
    with pytest.raises(ConfigError, match=rf"^{key[:-1]}: unknown key \(did you mean '{key}'\?\)"):
        composed(config, [*NEEDED.get(config, []), f"{key[:-1]}=1"])


@pytest.mark.parametrize("value", ["/data/Größe 1/中文 (2)", 'say "x"', "C:\\x ü\\", "a=b c", "[1"])
def test_a_value_that_the_grammar_cannot_read_is_taken_as_text(value):
    assert composed("train", [f"out={value}"])["out"] == value


@pytest.mark.parametrize("config", CONFIGS)
def test_help_tells_choices_and_settings(config, capsys):
    def main(overrides):
        raise AssertionError("help runs nothing")

    guarded(main, config, ["--help"])
    shown = capsys.readouterr().out
    assert __doc__ in shown
    settings = settings_of(config)
    for entry in settings.pop("defaults", []):
        if entry != "_self_":
            (group,) = entry
            assert f"\n  {group.removeprefix('override ').lstrip('/')}: " in shown
    for key in settings:
        assert f"\n  {key}:" in shown
    assert "defaults:" not in shown


def test_cfg_job_shows_what_would_be_used(capsys):
    guarded(lambda _: None, "train", ["stage=grpo", "seed=7", "--cfg", "job"])
    assert yaml.safe_load(capsys.readouterr().out) == composed("train", ["stage=grpo", "seed=7"])


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["-m", "seed=1,2"], "-m: no sweeps here"),
        (["--sed", "1"], "--sed: unknown option"),
        (["grpo"], "grpo: settings are key=value"),
        (["--cfg", "hydra"], "--cfg: write --cfg job"),
    ],
)
def test_options_that_there_are_not(words, say, capsys):
    with pytest.raises(SystemExit, match="2"):
        guarded(lambda _: None, "train", words)
    assert capsys.readouterr().err.startswith(f"error: {say}")


@pytest.mark.parametrize(
    ("problem", "say"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), "error: runs/x: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "error: /x: Permission denied"),
        (sqlite3.OperationalError("database or disk is full"), "error: disk full: database or disk is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "error: disk full: I/O error"),
    ],
)
def test_a_disk_that_cannot_be_written_is_one_line(problem, say, capsys):
    def work():
        raise problem

    assert exit_code(work) == 2
    assert capsys.readouterr().err.startswith(say)


def test_a_fault_of_ours_keeps_its_traceback():
    def work():
        raise OSError(errno.EBADF, "Bad file descriptor")

    with pytest.raises(OSError, match="Bad file"):
        exit_code(work)


def test_ctrl_c_is_one_line(capsys):
    def work():
        raise KeyboardInterrupt

    assert exit_code(work) == 130
    assert capsys.readouterr().err == "interrupted; the same command continues\n"


def test_usage_leaves_out_the_parts_that_nobody_chooses():
    assert "form/scoring" not in usage("eval", "")
    assert "tiny/grpo" in usage("train", "")
