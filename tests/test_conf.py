"""Every YAML under conf/ composes and decodes, counted against the files on disk; wrong settings are one line."""

from functools import cache
from pathlib import Path

import pytest
import yaml

from data_prep.agentic import AgenticRun
from data_prep.agentic_eval import AgenticEvalRun
from data_prep.check import CheckRun
from data_prep.extend import ExtendRun
from data_prep.leaks import LeaksRun
from data_prep.run import DataPrepRun
from data_prep.sources.labelled import Labelled
from data_prep.sources.mixture import Mixture
from vqa2.agents.compare import CompareRun
from vqa2.core.config import build, decode
from vqa2.core.errors import ConfigError
from vqa2.evaluate import EvalRun
from vqa2.experts.localization.train import LocalizationRun
from vqa2.experts.measure import ExpertsCommand
from vqa2.launch import composed, conf_dir, options, split_arguments
from vqa2.tables import TableRun
from vqa2.train.plan import TrainRun

CONF = conf_dir()


def train(*overrides: str) -> TrainRun:
    made = decode(TrainRun, composed("train", overrides), "train")
    build("stage", made.stage, "stage")
    return made


def benchmarks(choices: list[str]) -> set[str]:
    """Names of the benchmarks that these choices of the group make, each built."""
    made = decode(EvalRun, composed("eval", [f"benchmark=[{','.join(choices)}]"]), "eval").benchmarks
    for key, values in made.items():
        build("benchmark", values, key)
    return set(made)


@cache
def together() -> set[str]:
    """The benchmarks that have a file of their own, all chosen at once."""
    names = [path.stem for path in (CONF / "benchmark").glob("*.yaml")]
    return benchmarks([name for name in names if name not in ("all", "scoring")])


def check(path: Path) -> None:
    """Composes the root configuration that uses this file, with it chosen, and decodes everything."""
    group, _, name = path.relative_to(CONF).with_suffix("").as_posix().rpartition("/")
    if group.startswith("hparams/ablation"):
        train("stage=distortion", f"hparams@stage=ablation/{name}")
    elif group.startswith("hparams/"):
        train(f"stage={name}", f"preset={group.split('/')[1]}")
    elif group in ("stage", "model", "data", "engine", "preset", "evaluation"):
        train(*([f"stage={name}"] if group == "stage" else ["stage=scoring", f"{group}={name}"]))
    elif group == "reward":
        given = train("stage=grpo").stage["rewards"]
        needs = {
            "expert": f"stage.rewards.expert.file={CONF.parent / 'tests' / 'rewards' / 'recorded.jsonl'}",
            "function": "stage.rewards.function.source=math:fsum",
        }
        more = [f"+reward@stage.rewards.{name}={name}", *([needs[name]] if name in needs else [])]
        rewards = given if name in given else train("stage=grpo", *more).stage["rewards"]
        build("reward", rewards[name], f"stage.rewards.{name}")
    elif group in ("tools", "wording"):
        decode(AgenticRun, composed("agentic", ["depictions=x", f"{group}={name}"]), "agentic")
    elif group == "lexicon":
        decode(ExtendRun, composed("extend", ["depictions=x", f"lexicon={name}"]), "extend")
    elif group == "llm":
        build("llm", yaml.safe_load(path.read_text(encoding="utf-8")), "llm")
    elif group == "benchmark/form":
        values = composed("eval", ["benchmark=scoring"])["benchmarks"]["konvid-1k"]
        assert values["name"] == name, f"{path}: no test composes this file"
    elif group == "benchmark":
        assert name in together() or benchmarks([name]), f"{path}: chooses no benchmark"
    elif group == "predictor":
        extra = ["predictor.answers=x"] if name == "saved" else []
        made = decode(EvalRun, composed("eval", [f"{group}={name}", *extra]), "eval")
        build("predictor", made.predictor, "predictor")
    elif group in ("table", "table/tiny"):
        chosen = f"table={path.relative_to(CONF / 'table').with_suffix('').as_posix()}"
        decode(TableRun, composed("table", [chosen, "name=x"]), "table")
    elif group in ("source", "set", "recipe"):
        extra = ["root=clips"] if name == "folder" else []
        # One quick set beside a source; the sets have their turn.
        extra += ["set=grpo"] if group == "source" else []
        chosen = [] if (group, name) in {("set", "base"), ("recipe", "tiny")} else [f"{group}={name}"]
        made = decode(DataPrepRun, composed("data_prep", [*chosen, *extra]), "data_prep")
        source = build("source", made.source, "source")
        if isinstance(source, Mixture):
            source.plan()
        if isinstance(source, Labelled):
            assert source.variant == name, "a dataset is known by the name of its file"
            build("reader", source.reader, "source.reader")
        for key, values in made.sets.items():
            build("set", values, f"sets.{key}")
    elif group in ("priors", "voice", "summary", "localize", "decider"):
        where = {"priors": "router.priors", "summary": "router.summary"}.get(group, group)
        values = composed("eval", ["predictor=router", f"{group}@predictor.{where}={name}"])
        if (group, name) == ("priors", "fitted"):
            # Read at once, so that it is refused where nothing has been fitted.
            values["predictor"]["router"]["priors"] = {"file": "nowhere"}
            with pytest.raises(ConfigError, match="nowhere: no fitted priors; `python -m vqa2.agents`"):
                build("predictor", values["predictor"], "predictor")
        else:
            build("predictor", values["predictor"], "predictor")
    elif group == "expert":
        # Each is composed as part of the pools; alone it needs no composition.
        build("expert", yaml.safe_load(path.read_text(encoding="utf-8")), f"experts.tools.{name}")
    elif group == "experts":
        made = decode(ExpertsCommand, composed("experts", [f"experts={name}"]), "experts")
        assert made.experts.tools
        for key, values in made.experts.tools.items():
            build("expert", values, f"experts.tools.{key}")
            assert values.get("timeout_s", 0) < made.experts.timeout_s, f"{key}: the pool would end it first"
    else:
        roots = {
            "train": lambda: train("stage=base"),
            "eval": lambda: composed("eval", []),
            "data_prep": lambda: composed("data_prep", []),
            "experts": lambda: composed("experts", []),
            "routing": lambda: decode(CompareRun, composed("routing", []), "routing").programs(),
            "localization": lambda: decode(LocalizationRun, composed("localization", []), "localization"),
            "table": lambda: composed("table", ["table=vqa2-2", "name=x"]),
            "agentic": lambda: decode(AgenticRun, composed("agentic", ["depictions=x"]), "agentic"),
            "agentic_eval": lambda: decode(AgenticEvalRun, composed("agentic_eval", []), "agentic_eval"),
            "extend": lambda: decode(ExtendRun, composed("extend", ["depictions=x"]), "extend"),
            "check": lambda: decode(CheckRun, composed("check", ["out=x"]), "check"),
            "leaks": lambda: decode(LeaksRun, composed("leaks", ["a=x", "b=y"]), "leaks"),
        }
        assert not group, f"{path}: no test composes this file"
        assert name in roots, f"{path}: no test composes this file"
        roots[name]()


GROUPS = sorted({path.relative_to(CONF).parts[0] for path in CONF.rglob("*.yaml")})


@pytest.mark.parametrize("group", GROUPS)
def test_every_yaml_composes_and_decodes(group):
    """A folder of conf/, or one of the files beside them."""
    for path in [CONF / group] if group.endswith(".yaml") else sorted((CONF / group).rglob("*.yaml")):
        check(path)


def test_the_groups_are_found():
    assert len(GROUPS) >= 30, "conf/ was searched"


def test_every_stage_has_values_in_both_presets():
    for stage in options("stage"):
        presets = ["tiny"] if stage == "base" else ["tiny", "paper"]
        for preset in presets:
            assert (CONF / "hparams" / preset / f"{stage}.yaml").is_file()


@pytest.mark.parametrize(
    ("overrides", "say"),
    [
        (["stage=distorton"], "stage=distorton: no such stage (did you mean 'distortion'?)"),
        (["stage=scoring", "sed=1"], "sed: unknown key (did you mean 'seed'?)"),
        (["stage=scoring", "model.layot=official"], "model.layot: unknown key (did you mean 'layout'?)"),
        (["stage=scoring", "+model.layot=official"], "train.model.layot: unknown key (did you mean 'layout'?)"),
        (["stage=scoring", "model.layout=offical"], "train.model.layout: input should be 'interleaved' or 'official'"),
        (["stage=scoring", "seed=-1"], "train.seed: input should be greater than or equal to 0, got -1"),
        (["stage=scoring", "seed=one"], "train.seed: input should be a valid integer, got 'one'"),
        (["stage=scoring", "~seed"], "train.seed: required and missing"),
        (["stage=scoring", "engine=zero5"], "engine=zero5: no such engine (did you mean 'zero3'?)"),
    ],
)
def test_a_wrong_setting_names_the_path_and_the_nearest_name(overrides, say):
    with pytest.raises(ConfigError) as caught:
        train(*overrides)
    assert say in str(caught.value)
    assert "\n" not in str(caught.value)


def test_stage_and_reward_settings_are_strict():
    def stage(**changes):
        values = composed("train", ["stage=grpo"])["stage"]
        return build("stage", {**values, **changes}, "stage")

    with pytest.raises(ConfigError, match=r"stage.name: no stage called 'grp'.*did you mean 'grpo'"):
        stage(name="grp")
    with pytest.raises(ConfigError, match=r"stage.group_size: unknown key"):
        stage(group_size=4)
    with pytest.raises(ConfigError, match=r"rewards.bell.sgma: unknown key \(did you mean 'sigma'\?\)"):
        build("reward", {"name": "regression", "weight": 1.0, "sgma": 0.5}, "rewards.bell")


@pytest.mark.parametrize(
    ("override", "say"),
    [
        ("stage.policy.num_generations=1", "stage.policy.num_generations: input should be greater than or equal to 2"),
        (
            "stage.policy.loss_type=drgrpo",
            "stage.policy.loss_type: input should be 'grpo', 'dr_grpo',",
        ),
        ("stage.policy.max_completion_length=5", "stage.policy.max_completion_length: 5 tokens cannot hold an answer"),
        ("stage.policy.epsilon_high=0.0", "stage.policy.epsilon_high: input should be greater than 0"),
        ("stage.rewards.format.weight=-1.0", "stage.rewards.format.weight: input should be greater than or equal to 0"),
        (
            "stage.rewards.format.name=formt",
            "stage.rewards.format.name: no reward called 'formt' (did you mean",
        ),
        ("stage.rewards.temporal.variant=nov", "stage.rewards.temporal.variant: input should be 'fixed'"),
        ("stage.control.resample_rounds=-1", "stage.control.resample_rounds"),
        ("stage.packing.rollout_tokens=0", "stage.packing.rollout_tokens: input should be greater than or equal to 1"),
        ("~stage.rewards.regression", "stage.rewards.temporal.sigma: taken from a setting that is not there"),
        ("~stage.rewards", "stage.rewards: required and missing"),
    ],
)
def test_grpo_settings_are_checked_before_any_stage_trains(override, say):
    with pytest.raises(ConfigError) as caught:
        build("stage", composed("train", ["stage=grpo", override])["stage"], "stage")
    assert say in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rewards_are_a_mapping():
    made = train("stage=grpo", "stage.rewards.regression.sigma=0.3", "~stage.rewards.format")
    assert set(made.stage["rewards"]) == {"regression", "ranking", "temporal"}
    assert made.stage["rewards"]["regression"]["sigma"] == made.stage["rewards"]["temporal"]["sigma"] == 0.3


def test_launchers_local_rank_is_tolerated_and_other_options_are_not():
    assert split_arguments(["--local_rank=1", "stage=base"]) == ["stage=base"]
    with pytest.raises(ConfigError, match="--stage: unknown option"):
        split_arguments(["--stage"])
    with pytest.raises(ConfigError, match="grpo: settings are key=value"):
        split_arguments(["grpo"])
