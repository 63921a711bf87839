"""--dry-run: the numbers are those of the run it stands for, and nothing is written."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from small import SMALL_MODEL

from vqa2.core.errors import DataError
from vqa2.core.records import Instruction, read_jsonl
from vqa2.core.run import rank
from vqa2.data.dataset import ClipCache, Collator
from vqa2.launch import composed, split_arguments
from vqa2.model.memory import Shape, activation_bytes, blank, kept_bytes
from vqa2.model.tune import count_parameters
from vqa2.train._lengths import Length, RowOrder, lengths
from vqa2.train.common import usable_rows
from vqa2.train.plan import EngineSpec, plan
from vqa2.train.preview import estimate, longest, preview, steps


def jobs(data_root, out, *more):
    overrides = [*SMALL_MODEL, f"data.root={data_root}", f"out={out}", "stage.optim.batch_size=4", *more]
    return plan("scoring", lambda label: composed("train", [f"stage={label}", *overrides]))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_those_of_a_real_step(small, data_root, tmp_path, model_spec, checkpointing):
    model, processor = small
    job = jobs(data_root, tmp_path)[-1]
    rows, _ = usable_rows(job.context(ClipCache(0), {}), job.stage.sets, "train")
    shape = longest(max(lengths(rows, data_root, processor, 4, Console(quiet=True))), job.stage)
    made = blank(model.config, torch.float32)
    reader = Collator(processor, data_root, model_spec.video, side="right", clips=ClipCache(64))
    row = max(rows, key=lambda r: len(processor.example(r.turns, reader.read(r), r.id).input_ids))
    batch = reader.collate([row] * 4)
    batch = {k: v for k, v in batch.items() if k not in ("rows", "dropped_key_frames")}
    assert shape.tokens == batch["input_ids"].shape[1]
    for network in (model, made):
        if checkpointing:
            network.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    with kept_bytes(model) as real:
        loss = model(**batch).loss
    assert loss.requires_grad
    assert activation_bytes(made, shape) == pytest.approx(real[0], rel=0.1)


@pytest.mark.parametrize("use_motion", [True, False])
@pytest.mark.parametrize("room", [4096, 60])
def test_lengths_are_those_of_the_batches_that_train(small, data_root, model_spec, use_motion, room):
    """From headers alone; also where rows lose key frames and where motion tokens are left out."""
    _, processor = small
    processor.use_motion, processor.max_length = use_motion, room
    reader = Collator(processor, data_root, model_spec.video, side="right", clips=ClipCache(64))
    names = ("scoring_ugc", "distortion_spatial") + (("base",) if room > 60 else ())
    rows = [r for n in names for r in read_jsonl(data_root / f"{n}.train.jsonl", Instruction)[:8]]
    dropped = 0
    for row, found in zip(rows, lengths(rows, data_root, processor, 4, Console(quiet=True)), strict=True):
        batch = reader.collate([row])
        dropped += batch["dropped_key_frames"]
        keys, motion = batch["clip_sizes"][0].tolist() if row.media else (0, 0)
        answer = int((batch["labels"] != -100).sum())
        assert found == Length(tokens=batch["input_ids"].shape[1], keys=keys, motion=motion, answer=answer)
    assert bool(dropped) == (room == 60 and use_motion)


def test_the_longest_rows_come_first_and_every_row_once():
    found = [Length(tokens=t, keys=0, motion=0, answer=1) for t in (5, 90, 7, 80, 80, 6)]
    order = RowOrder(found, 3, seed=0, grouped=False)
    first, again = list(order), list(order)
    assert first[:3] == [1, 3, 4]
    assert sorted(first) == list(range(6))
    assert first == again
    orders = set()
    for epoch in range(8):
        order.set_epoch(epoch)
        orders.add(tuple(order))
    assert len(orders) > 1
    assert len(order) == 6


def test_grouped_rows_share_batches_of_like_lengths_and_the_longest_comes_first():
    rng = np.random.default_rng(0)
    found = [Length(tokens=int(t), keys=0, motion=0, answer=1) for t in rng.integers(40, 400, 803)]
    order = RowOrder(found, 8, seed=0, grouped=True)
    first = list(order)
    assert sorted(first) == list(range(803))
    assert first == list(order)
    tokens = np.array([f.tokens for f in found])
    assert tokens[first[:8]].max() == tokens.max()

    def padding(rows):
        batches = [tokens[rows[i : i + 8]] for i in range(0, len(rows), 8)]
        return sum(len(b) * b.max() for b in batches) / tokens.sum()

    assert padding(first) < 1.1 < 1.5 < padding(list(RowOrder(found, 8, seed=0, grouped=False)))
    # Long and short batches alternate at random, so that the end of an epoch is no lesson of its own.
    middle = tokens[first[8:800]].reshape(-1, 8).mean(1)
    assert abs(np.corrcoef(middle, np.arange(len(middle)))[0, 1]) < 0.3
    order.set_epoch(1)
    assert list(order) != first


def test_the_engine_decides_what_a_process_holds(small, monkeypatch):
    model, _ = small
    made, parts = blank(model.config, torch.float32), count_parameters(model)
    total = sum(t for _, t in parts.values())
    shape = Shape(rows=1, keys=1, motion=4, tokens=20, answer=2)

    def memory(stage, precision="fp32", **more):
        deepspeed = None if stage is None else {"zero_optimization": {"stage": stage, **more}}
        engine = EngineSpec(device="cuda", precision=precision, longest_first=True, deepspeed=deepspeed)
        return estimate(made, parts, shape, engine)

    monkeypatch.setenv("WORLD_SIZE", "8")
    assert rank() == 0
    assert [memory(s).weights for s in (None, 2, 3)] == [4 * total, 4 * total, 4 * total // 8]
    assert [memory(s).gradients for s in (None, 2, 3)] == [4 * total, 4 * total // 8, 4 * total // 8]
    # AdamW's moments; DeepSpeed also keeps a copy of the weights and widens the gradients for the update.
    assert [memory(s).optimizer for s in (None, 2, 3)] == [8 * total, total // 8 * 12, total // 8 * 12]
    assert [memory(s).update for s in (None, 2, 3)] == [0, total // 8 * 4, total // 8 * 4]
    assert memory(None).host == memory(3).host == 0
    device = {"device": "cpu"}
    away = memory(3, offload_optimizer=device, offload_param=device)
    assert (away.weights, away.optimizer, away.update) == (0, 0, 0)
    assert away.host == total // 8 * 16 + 4 * total // 8
    assert memory(2, offload_optimizer=device, offload_param=device).weights == 4 * total, "ZeRO-2 keeps its weights"
    big = memory(3)
    assert big.total == big.weights + big.gradients + big.optimizer + max(big.activations, big.update)
    half = memory(3, "bf16")
    assert (half.weights, half.gradients, half.optimizer) == (2 * total // 8, 2 * total // 8, total // 8 * 12)


def test_a_dry_run_shows_every_stage_that_would_run_and_writes_nothing(data_root, tmp_path):
    console = Console(record=True, width=120, file=io.StringIO())
    preview(jobs(data_root, tmp_path / "out"), console)
    text = console.export_text()
    assert "base (new) -> distortion (new) -> scoring (new)" in text
    assert text.count("memory, total") == 3
    assert "29 video" in text
    assert text.count("no (engine.longest_first=true)") == 3
    assert not (tmp_path / "out").exists()
    assert split_arguments(["stage=base", "--dry-run"]) == ["stage=base", "dry_run=true"]
    with pytest.raises(DataError, match="no prepared data to look at"):
        preview(jobs(tmp_path / "none", tmp_path / "out"), console)


@pytest.mark.parametrize("policy", ["frozen", "lora"])
def test_a_dry_run_of_the_router_counts_memory_where_the_backbone_adapts(data_root, tmp_path, policy):
    more = [f"data.root={data_root}", f"out={tmp_path}", f"stage.tune.parts.lm={policy}", "stage.init_from=none"]
    console = Console(record=True, width=120, file=io.StringIO())
    preview(plan("router", lambda label: composed("train", [f"stage={label}", *SMALL_MODEL, *more])), console)
    text = console.export_text()
    assert ("the gate alone" in text) == (policy == "frozen")
    assert ("memory, total" in text) == (policy == "lora")


def test_steps_are_counted_as_the_trainer_counts(data_root, tmp_path):
    optim = jobs(data_root, tmp_path, "stage.optim.epochs=3.0", "stage.optim.accumulate=2")[-1].stage.optim
    assert steps(29, optim) == 12  # 8 batches of 4, 4 optimizer steps an epoch
    assert steps(29, replace(optim, max_steps=5)) == 5
