"""stage=router from training to the predictor, on the small model and experts that are quick."""

import json
from pathlib import Path

import pytest
from small import SMALL_MODEL

from vqa2.core.config import build, decode
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.records import Instruction, Query, read_jsonl
from vqa2.experts.measure import ExpertsRun
from vqa2.experts.measure import run as measure_experts
from vqa2.launch import composed
from vqa2.model.build import build as build_model
from vqa2.model.gate import GateCard, load, save
from vqa2.train.common import set_texts
from vqa2.train.plan import train

TOOLS = ("sharpness", "noise", "contrast")


def only(prefix: str) -> list[str]:
    """Overrides that leave TOOLS of the shipped pool, run in this process."""
    tools = composed("experts", [])["experts"]["tools"]
    return [f"~{prefix}.tools.{name}" for name in tools if name not in TOOLS] + [f"{prefix}.isolation=none"]


@pytest.fixture(scope="module")
def backbone(model_spec, data_root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("backbone") / "scoring" / "model"
    model, processor = build_model(model_spec, set_texts(data_root))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def experts(data_root, tmp_path_factory) -> Path:
    """Readings and calibrations, as `python -m vqa2.experts` leaves them."""
    out = tmp_path_factory.mktemp("experts")
    more = [f"root={data_root}", f"out={out}", f"experts.calibration={out}/calibration", "bootstrap=0", "fit_limit=30"]
    more += ["forms=[linear,isotonic]", *only("experts")]
    measure_experts(decode(ExpertsRun, composed("experts", more), "experts"), lambda *_: None)
    return out


def overrides(data_root, out, backbone, experts, *more) -> list[str]:
    return [
        *SMALL_MODEL, f"data.root={data_root}", f"out={out}", f"stage.init_from={backbone}",
        f"stage.experts.calibration={experts}/calibration", f"stage.readings={experts}/readings.jsonl",
        "stage.limit=30", "stage.fit.epochs=3", "stage.bootstrap=20", *only("stage.experts"), *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(data_root, backbone, experts, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("router")
    train("router", overrides(data_root, out, backbone, experts), composed, say_done=True)
    return out / "tiny" / "router"


def router(trained: Path, experts: Path, tmp_path: Path, *more: str):
    chosen = ["predictor=router", "decider@predictor.decider=learned", f"predictor.decider.gate={trained / 'model'}"]
    chosen += [f"predictor.experts.calibration={experts}/calibration", f"predictor.traces={tmp_path}/traces"]
    values = composed("eval", [*chosen, *only("predictor.experts"), *more])["predictor"]
    return build("predictor", values, "predictor").open()


def test_the_stage_saves_a_gate_and_what_it_is_worth(trained, backbone):
    gate, card = load(trained / "model")
    done = json.loads((trained / "done.json").read_text())
    assert set(gate.shape.experts) <= set(TOOLS)
    assert done["better"] == card.better
    assert card.backbone == str(backbone)
    assert done["trained_on"] + card.validation["clips"] == done["rows"]
    assert card.better == (card.validation["srcc_over_best"]["value"] > 0)


def score(predictor, data_root: Path):
    row = read_jsonl(data_root / "scoring_ugc.test.jsonl", Instruction)[0]
    (answer,) = predictor.score([Query(id=row.id, path=data_root / row.media, kind=row.kind)])
    return answer


@pytest.mark.parametrize("better", [True, False])
def test_the_predictor_follows_the_gate_or_the_expert_that_beat_it(trained, experts, data_root, tmp_path, better):
    gate, card = load(trained / "model")
    made = GateCard(**{**vars(card), "better": better})
    save(gate, made, tmp_path / "model")
    answer = score(router(tmp_path, experts, tmp_path), data_root)
    assert answer.error is None
    (path,) = (tmp_path / "traces").glob("*.json")
    trace = json.loads(path.read_text())
    assert trace["working"]["decision"]["by"] == "gate"
    ran = [step["request"]["expert"] for step in trace["steps"] if step["kind"] == "tool"]
    if better:
        assert sum(trace["working"]["decision"]["weights"].values()) == pytest.approx(1)
        assert trace["result"]["uncertainty"] > 0
        assert len(ran) == min(card.shape.top_k, len(card.shape.experts))
    else:
        assert ran == [card.best]
        assert f"not better than {card.best}" in trace["notes"][0]


def test_a_gate_is_bound_to_its_experts_and_its_model(trained, experts, tmp_path):
    gate, card = load(trained / "model")
    save(gate, GateCard(**{**vars(card), "curves": dict.fromkeys(card.curves, "x")}), tmp_path / "a" / "model")
    with pytest.raises(ConfigError, match="or its calibration has changed; train stage=router again"):
        router(tmp_path / "a", experts, tmp_path)
    save(gate, GateCard(**{**vars(card), "checkpoint": "x"}), tmp_path / "b" / "model")
    with pytest.raises(ConfigError, match="has changed since; train stage=router again"):
        router(tmp_path / "b", experts, tmp_path)


def test_without_calibrations_the_stage_names_the_command(data_root, backbone, experts, tmp_path):
    more = [f"stage.experts.calibration={tmp_path}"]
    with pytest.raises(DataError, match="run `python -m vqa2.experts` first"):
        train("router", overrides(data_root, tmp_path, backbone, experts, *more), composed, say_done=True)
