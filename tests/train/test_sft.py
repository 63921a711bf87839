"""Supervised stages: 1x4 equals 4x1, resumed equals uninterrupted, part routing, the chain and its plan."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small import SMALL_MODEL
from transformers.utils import is_bitsandbytes_available

from vqa2.core.errors import ConfigError, DataError, MediaError
from vqa2.core.records import Instruction, read_jsonl, write_jsonl
from vqa2.data.dataset import ClipCache, Collator
from vqa2.launch import composed
from vqa2.train.callbacks import RichProgress
from vqa2.train.plan import EngineSpec, check_device, execute, plan, train

FAST = [
    *SMALL_MODEL,
    "stage.optim.max_steps=4",
    "stage.optim.batch_size=4",
    "stage.optim.save_every=2",
    "stage.optim.warmup=0.0",
    "log.every=1",
]


def overrides(data_root, out, *more):
    return [*FAST, f"data.root={data_root}", f"out={out}", *more]


def run(stage, data_root, out, *more) -> Path:
    train(stage, overrides(data_root, out, *more), composed, say_done=True)
    return Path(out) / "tiny" / stage


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [r["loss"] for r in rows if "loss" in r]


@pytest.fixture(scope="module")
def base(data_root, tmp_path_factory) -> Path:
    return run("base", data_root, tmp_path_factory.mktemp("base"))


def scoring(data_root, out, base, *more) -> Path:
    # A ratio of one learning rate for all parts keeps AdamW's first steps comparable.
    return run("scoring", data_root, out, f"stage.init_from={base / 'model'}", *more)


def test_one_batch_of_four_equals_four_of_one(data_root, tmp_path, base):
    whole = scoring(data_root, tmp_path / "a", base)
    parts = scoring(data_root, tmp_path / "b", base, "stage.optim.batch_size=1", "stage.optim.accumulate=4")
    assert losses(whole) == pytest.approx(losses(parts), rel=1e-4)
    a, b = weights(whole), weights(parts)
    moved = max((a[k] - weights(base)[k]).abs().max() for k in a)
    apart = max((a[k] - b[k]).abs().max() for k in a)
    assert moved > 1e-3
    assert apart < 0.05 * moved


LORA = ("stage.tune.parts.lm=lora", "stage.tune.lora.rank=2", "stage.tune.lora.dropout=0.1")


@pytest.mark.parametrize("more", [pytest.param((), marks=pytest.mark.slow), LORA], ids=["full", "lora"])
def test_a_killed_run_continues_to_the_same_weights(more, data_root, tmp_path, base, monkeypatch):
    straight = scoring(data_root, tmp_path / "a", base, *more)

    def killed(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RichProgress, "on_step_end", killed)
        with pytest.raises(KeyboardInterrupt):
            scoring(data_root, tmp_path / "b", base, *more)
    broken = tmp_path / "b" / "tiny" / "scoring"
    assert not (broken / "done.json").exists()
    assert (broken / "checkpoint-2").is_dir()
    resumed = scoring(data_root, tmp_path / "b", base, *more)
    a, b = weights(straight), weights(resumed)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert losses(resumed) == losses(straight)


def test_a_stage_starts_from_an_adapter_and_leaves_its_own(data_root, tmp_path, base):
    """The second run's base is the first one's, not its merged model; an adapter of another rank does not fit."""
    more = (*LORA[:2], "stage.optim.max_steps=2")
    first = scoring(data_root, tmp_path / "a", base, *more)
    second = run("scoring", data_root, tmp_path / "b", f"stage.init_from={first / 'model' / 'adapter'}", *more)
    one, two = (load_file(f / "model" / "adapter" / "adapter_model.safetensors") for f in (first, second))
    assert one.keys() == two.keys()
    assert not any(torch.equal(one[k], two[k]) for k in one if "lora_B" in k)
    config = json.loads((second / "model" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base / "model")
    changed = {k for k, v in weights(first).items() if not torch.equal(v, weights(second)[k])}
    assert any("q_proj" in k for k in changed)
    init = f"stage.init_from={first / 'model' / 'adapter'}"
    with pytest.raises(ConfigError, match=r"adapter and stage.tune do not fit at .*where it is merged"):
        run("scoring", data_root, tmp_path / "c", init, "stage.tune.lora.rank=3", LORA[0])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "^stage.tune.parts.lm: full, but model.quantize leaves 4 bits"),
        (LORA[:1], "^model.quantize: nf4 needs the bitsandbytes package"),
        ((*LORA[:1], "engine=zero3", "engine.device=cpu"), "^model.quantize: ZeRO-3 cannot partition"),
    ],
)
def test_quantized_weights_that_cannot_train_are_one_line(more, message, data_root, tmp_path, base):
    if is_bitsandbytes_available() and "bitsandbytes" in message:
        pytest.skip("this machine has bitsandbytes")
    with pytest.raises(ConfigError, match=message):
        scoring(data_root, tmp_path, base, "model.quantize=nf4", *more)


def test_stage_one_trains_the_tower_on_images_and_the_motion_path_on_videos(data_root, tmp_path, base):
    init = f"stage.init_from={base / 'model'}"
    moved = {}
    for kind in ("spatial", "temporal"):
        other = {"spatial": "temporal", "temporal": "spatial"}[kind]
        made = weights(run("distortion", data_root, tmp_path / kind, init, f"~stage.sets.distortion_{other}",
                           "stage.optim.weight_decay=0.0"))  # fmt: skip
        before = weights(base)
        moved[kind] = {k for k in before if not torch.equal(before[k], made[k])}
    assert any("vision_tower" in k for k in moved["spatial"])
    assert not any("motion" in k for k in moved["spatial"])
    assert any("motion_tower.feature" in k for k in moved["temporal"])
    assert not any("vision_tower" in k or "multi_modal" in k for k in moved["temporal"])
    assert not any("language_model" in k for k in moved["spatial"] | moved["temporal"])


def test_an_empty_learn_from_means_all_kinds(data_root, tmp_path, base):
    made = weights(run("distortion", data_root, tmp_path, f"stage.init_from={base / 'model'}",
                       "~stage.sets.distortion_spatial", "stage.tune.learn_from={vision: [], motion: []}"))  # fmt: skip
    moved = {k for k, v in weights(base).items() if not torch.equal(v, made[k])}
    assert any("vision_tower.embeddings.patch" in k for k in moved)
    assert any("motion_tower.feature" in k for k in moved)


def test_missing_predecessors_are_planned_in_tiny_and_named_in_paper(data_root, tmp_path):
    def compose(*more):
        return lambda label: composed("train", [f"stage={label}", *overrides(data_root, tmp_path, *more)])

    assert [j.label for j in plan("grpo", compose("train_missing=true"))[:-1]] == [
        "base", "distortion", "scoring", "understanding",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="scoring starts from distortion.*train.py stage=distortion preset=tiny"):
        plan("scoring", compose("train_missing=false"))


def test_a_finished_run_is_kept_and_another_configuration_is_refused(data_root, tmp_path, base, capsys):
    folder = scoring(data_root, tmp_path, base)
    kept = [folder / name for name in ("model/model.safetensors", "config.json", "environment.json")]
    stamps = [path.stat().st_mtime_ns for path in kept]
    scoring(data_root, tmp_path, base)
    assert [path.stat().st_mtime_ns for path in kept] == stamps, "what made it is told by its record"
    assert "already done" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"another configuration \(first difference: seed: 0 -> 1\)"):
        scoring(data_root, tmp_path, base, "seed=1")


def test_a_run_folder_tells_configuration_versions_git_and_seed(base):
    record = json.loads((base / "config.json").read_text())
    assert record["config"]["stage"]["optim"]["max_steps"] == 4
    environment = json.loads((base / "environment.json").read_text())
    assert environment["seed"] == 0
    assert environment["versions"]["torch"] == torch.__version__.split("+")[0] or "torch" in environment["versions"]
    assert "commit" in environment["git"]


def test_an_unreadable_clip_stops_the_run_once_and_is_left_out_then(data_root, tmp_path, base, monkeypatch):
    shutil.copytree(data_root, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    root = Path("data")
    row = read_jsonl(root / "scoring_ugc.train.jsonl", Instruction)[0]
    (root / row.media).write_bytes(b"")
    more = ("stage.optim.epochs=1", "stage.optim.max_steps=-1")
    with pytest.raises(MediaError, match=r"empty file \(0 bytes\)"):
        scoring(root, tmp_path / "out", base, *more)
    listed = (root / "quarantine.jsonl").read_text()
    assert row.media in listed
    done = json.loads((scoring(root, tmp_path / "out", base, *more) / "done.json").read_text())
    assert done["quarantined"] == 1


def test_rows_whose_media_leaves_the_data_root_are_refused(data_root, tmp_path, base):
    root = tmp_path / "data"
    shutil.copytree(data_root, root)
    rows = read_jsonl(root / "scoring_ugc.train.jsonl", Instruction)
    outside = Instruction(**{**vars(rows[0]), "media": "../../secret.mp4"})
    write_jsonl(root / "scoring_ugc.train.jsonl", [outside] * 8)
    with pytest.raises(DataError, match="leaves the data root"):
        scoring(root, tmp_path / "out", base)


def test_a_gpu_that_is_not_there_is_one_line(data_root, tmp_path, base):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    jobs = plan(
        "base", lambda label: composed("train", [f"stage={label}", *overrides(data_root, tmp_path, "engine=ddp")])
    )
    with pytest.raises(ConfigError, match="cuda is asked for but no GPU is visible"):
        execute(jobs, {})


def test_one_process_with_several_gpus_is_one_line(monkeypatch):
    engine = EngineSpec(device="cuda", precision="bf16", longest_first=True, deepspeed=None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(ConfigError, match="one process and 4 GPUs; start with torchrun --nproc_per_node 4"):
        check_device(engine)
    monkeypatch.setenv("WORLD_SIZE", "4")
    check_device(engine)


def test_stills_clips_and_text_in_one_batch_equal_one_by_one(small, model_spec, data_root):
    """Padded right, masked right: every row's logits and losses are its own."""
    model, processor = small
    model.eval()
    collator = Collator(processor, data_root, model_spec.video, side="right", clips=ClipCache(64))
    sets = ("distortion_spatial", "scoring_ugc", "base")
    rows = [r for s in sets for r in read_jsonl(data_root / f"{s}.train.jsonl", Instruction)[:2]]
    assert [r.kind for r in rows] == ["image", "image", "video", "video", "text", "text"]

    def tensors(some):
        return {k: v for k, v in collator.collate(some).items() if torch.is_tensor(v)}

    still = collator.read(rows[0])
    assert len(still.key) == 1
    assert still.motion.shape[0] == 4
    assert (still.motion == still.motion[:1]).all(), "a still is a clip of four equal frames"
    with torch.no_grad():
        batch = tensors(rows)
        labels = batch.pop("labels")
        together = model(**batch).logits
        losses = []
        for k, row in enumerate(rows):
            one = tensors([row])
            own = one.pop("labels")
            alone = model(**one).logits[0]
            assert torch.allclose(together[k, : len(alone)], alone, atol=1e-5)
            assert torch.equal(labels[k, : len(alone)], own[0])
            assert (labels[k, len(alone) :] == -100).all()
            losses.append(model(**one, labels=own, num_items_in_batch=1).loss)
        total = model(**batch, labels=labels, num_items_in_batch=1).loss
    assert torch.allclose(total, sum(losses), rtol=1e-5)
