"""docs/paper.md from its first command to a table, on made-up miniatures of everything that is published: the paths,
file names and settings are those of preset=paper; counts, steps and the sizes of model and clips are not."""

import json
import shlex
import shutil

import pytest
import torch
from published import slowfast_state, write_dataset, write_llava_onevision
from rich.console import Console
from typer.testing import CliRunner

from data_prep.extend import ExtendRun, extend
from data_prep.run import DataPrepRun, prepare
from vqa2.cli import app
from vqa2.core.config import decode
from vqa2.core.errors import ConfigError, DataError
from vqa2.evaluate import EvalRun, evaluate
from vqa2.launch import composed
from vqa2.tables import main as table
from vqa2.train.data import DataSpec, ensure_data
from vqa2.train.plan import train

PARTS = ["koniq_10k", "kadid_10k", "live_qualcomm", "lsvq_train", "lsvq_1080p", "lsvq_test", "waterloo_sqoe_1",
         "waterloo_sqoe_3", "live_nflx_2", "live_vqc", "videofeedback", "lsvq_1080p_2575", "live_vqc_88"]  # fmt: skip
COUNTS = {
    "distortion_spatial": {"koniq_10k.count": 4, "kadid_10k.count": 3},
    "distortion_temporal": {"live_qualcomm.count": 2, "live_qualcomm.cuts": 3, "lsvq_train.count": 2,
                            "lsvq_train.cuts": 3},
    "understanding": {"lsvq_train.count": 3, "lsvq_1080p.count": 2, "live_vqc.count": 2, "videofeedback.count": 2},
}  # fmt: skip
FEW = [
    f"source.sets.{name}.train.{key}={count}" for name, values in COUNTS.items() for key, count in values.items()
] + ["source.sets.grpo.test.lsvq_test.count=2", "workers=1"]
CHAIN = ["distortion", "scoring", "scoring_streaming", "understanding", "grpo"]
SMALL = ["preset=paper", "engine=cpu", "stage.optim.max_steps=1", "stage.optim.workers=0"]


def prepared(command: str, *more: str) -> None:
    """A documented `python -m data_prep ...`."""
    words = shlex.split(command)[3:]
    prepare(decode(DataPrepRun, composed("data_prep", [*words, *more]), "data_prep"), progress=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder in which all relative paths of preset=paper are."""
    home = tmp_path_factory.mktemp("paper")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        yield home


@pytest.fixture(scope="module")
def data(home):
    """Step 1 of the page. LSVQ lies elsewhere, behind a link."""
    root = home / "data" / "vqa2"
    root.mkdir(parents=True)
    elsewhere = home / "storage" / "LSVQ"
    elsewhere.mkdir(parents=True)
    (root / "LSVQ").symlink_to(elsewhere)
    write_dataset(root, PARTS)
    prepared("python -m data_prep source=vqa2_leakfree set=vqa2 out=data/vqa2", *FEW)
    prepared("python -m data_prep source=vqa2_leakfree set=depict out=data/vqa2", *FEW)
    told = [json.loads(line) for line in (root / "depict.train.jsonl").read_text().splitlines()]
    written = [
        {**row, "overall": "The video is blurry and noisy.", "in_context": ["At the end the camera shakes."]}
        for row in told
    ]
    (home / "depictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))
    values = composed("extend", ["depictions=depictions.jsonl", "out=data/extended"])
    extend(decode(ExtendRun, values, "extend"), Console(quiet=True))
    prepared("python -m data_prep source=vqa2_leakfree set=understanding_extended out=data/vqa2 "
             "sets.understanding.file=data/extended/extended.jsonl",
             "sets.understanding.quotas=[{sources: [lsvq_train, lsvq_1080p, live_vqc], rows: 12}, "
             "{sources: [videofeedback], rows: 3}]", *FEW)  # fmt: skip
    return root


@pytest.fixture(scope="module")
def start(home):
    """Step 2: the published checkpoints, put together by `vqa2 convert`."""
    write_llava_onevision(home / "llava")
    torch.save({"model_state": slowfast_state()}, home / "SLOWFAST_8x8_R50.pyth")
    command = ["convert", "llava", "checkpoints/start", "--slowfast", "SLOWFAST_8x8_R50.pyth"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def trained(home, data, start):
    """Step 4: every stage at one step."""
    for stage in CHAIN:
        more = ["stage.policy.max_completion_length=24"] if stage == "grpo" else []
        train(stage, [*SMALL, *more], composed)
    return home / "runs" / "paper"


def test_doctor_finds_the_data_whole(data):
    with pytest.raises(DataError, match=r"0 of 146 files missing, 16 broken"):
        CliRunner().invoke(app, ["doctor", "data=vqa2_leakfree", "out=data/vqa2", "workers=1"], catch_exceptions=False)


def test_what_data_prep_writes_is_what_the_stages_read(data):
    for stage in CHAIN:
        sets = composed("train", [f"stage={stage}", "preset=paper"])["stage"]["sets"]
        for name in sets:
            assert (data / f"{name}.train.jsonl").is_file(), f"{stage} reads {name}"
    assert len((data / "grpo.test.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_every_stage_of_the_paper_trains_from_the_one_before(trained):
    for stage in CHAIN:
        done = json.loads((trained / stage / "done.json").read_text())
        assert done["steps"] == 1
        assert (trained / stage / "model" / "model.safetensors").is_file()
    assert {"reward", "SRCC"} <= set(done["held_out_before"])
    config = json.loads((trained / "grpo" / "model" / "config.json").read_text())
    assert config["layout"] == "interleaved"


@pytest.mark.slow
def test_the_published_benchmarks_and_a_table(trained, home, capsys):
    roots = {"lsvq-test": ["vqathinker_lsvq_test"], "konvid-1k": ["konvid_1k"], "waterloo-iv": ["waterloo_sqoe_4"]}
    for name, sources in roots.items():
        write_dataset(home / "data" / name, sources)
        prepared(composed("eval", [f"benchmark={name}"])["benchmarks"][name]["prepare"], "workers=1")

    def ensure(stage: str) -> None:
        raise AssertionError(f"{stage} is trained")

    for name in roots:
        values = composed("eval", [f"benchmark={name}", "run=paper", "samples=0"])
        (report,) = evaluate(decode(EvalRun, values, "eval"), ensure)
        assert report.n_scored == report.n_expected == 5
    capsys.readouterr()
    table(["table=vqa2-2", "preset=paper"])
    shown = capsys.readouterr().out
    assert "not comparable" in shown, "five items are not the published number"
    trained_on = (home / "data" / "vqa2" / "scoring_streaming.train.jsonl").read_text()
    asked = (home / "data" / "waterloo-iv" / "scoring_streaming.test.jsonl").read_text()
    for text in ("total stalling duration of this video", "how would you evaluate the quality"):
        assert text in trained_on
        assert text in asked


def test_a_missing_start_says_how_to_make_it(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="checkpoints/start: no model to start stage distortion from; `vqa2 convert`"):
        train("distortion", [*SMALL, f"data.root={data}"], composed)


@pytest.mark.slow
def test_grpo_without_held_out_prompts_says_so_at_once(data, trained, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(data, root, symlinks=True)
    (root / "grpo.test.jsonl").unlink()
    options = [*SMALL, f"data.root={root}", f"out={tmp_path}", f"stage.init_from={trained / 'scoring' / 'model'}",
               "stage.policy.max_completion_length=24"]  # fmt: skip
    with pytest.raises(DataError, match=r"grpo.test.jsonl: no such file; .* or set stage.eval_prompts=0"):
        train("grpo", options, composed)
    train("grpo", [*options, "stage.eval_prompts=0", "overwrite=true"], composed)
    assert "held_out_before" not in json.loads((tmp_path / "paper" / "grpo" / "done.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["distortion", "grpo"])
def test_a_dry_run_of_the_7b_model_needs_no_download(data, tmp_path, monkeypatch, capsys, stage):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("COLUMNS", "200")
    train(stage, ["preset=paper", f"out={tmp_path}", f"data.root={data}", "dry_run=true",
                  *(["stage.init_from=auto"] if stage == "distortion" else [])], composed)  # fmt: skip
    shown = capsys.readouterr().err
    assert "by its YAML" in shown
    trained = {"distortion": "0", "grpo": "7,616,075,264"}[stage]
    assert f" {trained} train of 7,616,075,264 " in shown.split("parameters, lm")[-1]
    assert list(tmp_path.iterdir()) == []


def test_weights_that_cannot_be_had_are_one_line(data, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"model.tokenizer: llava-hf/.*: no such folder.*hf download.*HF_HUB_OFFLINE"):
        train("distortion", [*SMALL, f"data.root={data}", f"out={tmp_path}", "stage.init_from=auto"], composed)


def test_training_on_what_the_tables_are_measured_on_is_refused(data, tmp_path):
    """Clips of LSVQ-1080p and LIVE-VQC that the mixture draws itself, not those that the released lists leave."""
    root = tmp_path / "vqa2"
    shutil.copytree(data, root, symlinks=True)
    drawn = [f.replace("lsvq_1080p.count=2", "lsvq_1080p.count=5").replace("live_vqc.count=2", "live_vqc.count=5")
             for f in FEW]  # fmt: skip
    prepared(f"python -m data_prep source=vqa2 set=depict out={root}", *drawn)
    (root / "depict.train.jsonl").rename(root / "understanding.train.jsonl")
    values = composed("train", ["stage=scoring", "preset=paper", f"data.root={root}"])["data"]
    held = r"4 training clips .*LSVQ/yfcc-batch2/3.mp4 is in .*LIVE-VQC/Video/A004.mp4 is in .*live_VQC"
    with pytest.raises(DataError, match=held):
        ensure_data(decode(DataSpec, values, "data"), composed)
