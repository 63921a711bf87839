"""stage=router from training to the predictor, on the small model and experts that are quick."""

import json
from pathlib import Path

import pytest
import torch
from router_parts import TOOLS, only, overrides

from vqa2.core.config import build, decode
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.records import Clip, Instruction, Query, read_jsonl
from vqa2.experts.measure import rated
from vqa2.launch import composed
from vqa2.model.gate import GateCard, load, save
from vqa2.model.predict import Inference, ModelPredictor
from vqa2.train._routed import RouterTrainer
from vqa2.train._router import split
from vqa2.train.plan import TrainRun, train


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


@pytest.mark.slow
def test_kept_hidden_states_equal_those_computed_anew(data_root, backbone, experts, tmp_path):
    """Adapters with a rate that moves nothing: every batch passes the whole model, padded, in training. Without
    clipping, which would see the adapters' gradients."""

    def run(name: str, *more: str):
        free = [f"name={name}", "stage.optim.max_grad_norm=1e9", *more]
        train("router", overrides(data_root, tmp_path, backbone, experts, *free), composed, say_done=True)
        return load(tmp_path / name / "router" / "model")

    kept, card = run("kept")
    anew, again = run("anew", "stage.tune.parts.lm=lora", "stage.tune.lr.lm=1e-30")
    for name, value in kept.state_dict().items():
        torch.testing.assert_close(anew.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    for key in ("mean_error", "mean_uncertainty"):
        assert again.validation[key] == pytest.approx(card.validation[key], rel=1e-3)


@pytest.mark.slow
def test_an_adapted_backbone_is_saved_as_it_was_validated(data_root, backbone, experts, tmp_path):
    """The numbers of the card, again from what is on disk; the predictor looks through that model."""
    lora = ["stage.tune.parts.lm=lora", "stage.tune.parts.projector=lora", "stage.tune.lr.lm=1e-2"]
    settings = overrides(data_root, tmp_path, backbone, experts, *lora)
    train("router", settings, composed, say_done=True)
    home = tmp_path / "tiny" / "router"
    gate, card = load(home / "model")
    assert Path(card.backbone) == home / "backbone"
    assert (home / "backbone" / "adapter" / "adapter_model.safetensors").is_file()
    items = rated(data_root, "scoring_ugc.train.jsonl", 30)
    content = {clip.id: clip.content for clip in read_jsonl(data_root / "clips.jsonl", Clip)}
    held = [items[i].media for i in split([content[i.media.id] for i in items], 0.3, 0)[1]]
    video = decode(TrainRun, composed("train", ["stage=router", *settings]), "train").model.video
    seen = {}
    for folder in (backbone, home / "backbone"):
        eyes = ModelPredictor.load(folder, Inference(video=video, device="cpu", max_new_tokens=1, workers=0))
        seen[folder] = torch.stack([eyes.hidden(Query(id=m.id, path=m.path, kind=m.kind)) for m in held])
    before, after = (gate(x).uncertainty.mean().item() for x in seen.values())
    assert len(held) == card.validation["clips"]
    assert after == pytest.approx(card.validation["mean_uncertainty"], rel=1e-4)
    assert after != pytest.approx(before, rel=1e-3)
    assert score(router(home, experts, tmp_path), data_root).error is None


def test_a_killed_run_resumes_to_the_same_gate(trained, data_root, backbone, experts, tmp_path, monkeypatch):
    settings = overrides(data_root, tmp_path, backbone, experts)
    step = RouterTrainer.training_step

    def broken(self, *args):
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(RouterTrainer, "training_step", broken)
        with pytest.raises(KeyboardInterrupt):
            train("router", settings, composed, say_done=True)
    assert (tmp_path / "tiny" / "router" / "checkpoint-4").is_dir()
    train("router", settings, composed, say_done=True)
    straight, resumed = (load(f / "model")[0].state_dict() for f in (trained, tmp_path / "tiny" / "router"))
    assert all(torch.equal(resumed[name], value) for name, value in straight.items())


@pytest.mark.parametrize(
    ("override", "say"),
    [
        ("stage.tune.parts.lm=full", "stage.tune.parts.lm: full, but the router's backbone is frozen or takes lora"),
        ("stage.tune.motion_batchnorm=train", "stage.tune: a router's parts learn from all rows"),
    ],
)
def test_what_a_router_cannot_train_is_refused_before_anything_runs(override, say):
    with pytest.raises(ConfigError, match=say):
        build("stage", composed("train", ["stage=router", override])["stage"], "stage")


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
