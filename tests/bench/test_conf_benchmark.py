"""Every benchmark YAML decodes, composes, and fits what data_prep writes."""

import json
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from data_prep._degrade import NAMES, SPATIAL, TEMPORAL
from data_prep._questions import SEVERITIES
from data_prep.sets.benchmark import Benchmark
from vqa2.bench._runner import run
from vqa2.core.config import build, names
from vqa2.core.records import Clip, Distortion
from vqa2.launch import composed, options

CONF = Path(__file__).parents[2] / "conf"
GROUPS = ("all", "scoring")
QUESTIONS = ("qbench-video-dev", "qbench-video-test", "qbench-image-dev", "qbench-image-test", "agenticiqa-eval")
FILES = sorted(p.stem for p in (CONF / "benchmark").glob("*.yaml") if p.stem not in GROUPS)


def load(label):
    return composed("eval", [f"benchmark={label}"])["benchmarks"][label]


@pytest.mark.parametrize("label", FILES)
def test_every_yaml_decodes_under_its_own_label(label):
    values = load(label)
    assert build("benchmark", values, f"benchmarks.{label}").label == label
    assert values["name"] in names("benchmark")


def test_published_scoring_sets_name_the_sources_that_their_command_reads():
    for label, values in composed("eval", ["benchmark=scoring"])["benchmarks"].items():
        assert set(values["sources"]) <= set(options("source")), label
        assert values["prepare"] is None or f"source={values['sources'][0]} " in values["prepare"], label


@pytest.mark.parametrize("name", ["constant"])
def test_predictor_yaml_decodes(name):
    assert build("predictor", yaml.safe_load((CONF / "predictor" / f"{name}.yaml").read_text()), "predictor").open()


def test_the_groups_compose_every_benchmark_into_a_mapping(tmp_path):
    (tmp_path / "root.yaml").write_text("defaults:\n  - benchmark: all\n  - _self_\n")
    (tmp_path / "benchmark").symlink_to(CONF / "benchmark")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        embedded = set(compose("root")["benchmarks"])
        published = set(compose("root", overrides=["benchmark=scoring"])["benchmarks"])
        assert embedded == {"synthetic", "synthetic-streaming", "distortion", "qbench-video"}
        assert embedded | published == {f for f in FILES if f not in QUESTIONS}
    picked = composed("eval", ["benchmark=qbench-video", "llm=http", "llm.model=m", "judge.rounds=3"])["benchmarks"]
    assert list(picked) == ["qbench-video"]
    assert picked["qbench-video"]["judge"]["rounds"] == 3
    assert picked["qbench-video"]["judge"]["llms"]["first"]["model"] == "m"


def test_names_are_those_of_the_embedded_data():
    distortion, words = load("distortion"), load("qbench-video")["vocabulary"]
    assert (tuple(distortion["spatial"]), tuple(distortion["temporal"])) == (SPATIAL, TEMPORAL)
    assert (tuple(words["distortions"]), tuple(words["severities"])) == (NAMES, SEVERITIES)


def test_the_embedded_benchmark_is_read_and_a_perfect_predictor_is_perfect(tmp_path, scripted, quiet):
    clips = [
        Clip(id=f"t{n}", path=f"media/test/t{n}.mp4", dataset="d", split="test", content=f"k{n}", kind="video",
             mos=5.0 + 3 * n, distortions=(Distortion(name=name, strength=0.1 + 0.06 * n),) if name else (),
             tags={"origin": "natural", "camera": "pan"})
        for n, name in enumerate([*NAMES, ""])
    ]  # fmt: skip
    records = Benchmark(questions={"yes-or-no": 40, "what/how": 40, "open_ended": 40}).records(clips, seed=0)
    (tmp_path / "q.json").write_text(json.dumps(records))
    values = load("qbench-video") | {"file": str(tmp_path / "q.json"), "video_root": str(tmp_path), "bootstrap": 0}
    made = build("benchmark", values, "benchmarks.q")
    replies = {i.query.id: i.target["reference"] for i in made.items()}
    report = run(made, scripted(replies), tmp_path / "o", quiet)
    assert [m.value for m in report.metrics] == [1.0, 1.0, 1.0, 1.0]
    assert (report.n_scored, report.n_expected) == (120, 120)
