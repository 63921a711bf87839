"""--dry-run: the numbers are those of the run it stands for, and nothing is written."""

import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from small import SMALL_MODEL

from vqa2.core.errors import DataError
from vqa2.core.run import rank
from vqa2.data.dataset import ClipCache, Collator
from vqa2.launch import composed, split_arguments
from vqa2.model.memory import Shape, activation_bytes, blank, kept_bytes
from vqa2.model.tune import count_parameters
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
    rows, _ = usable_rows(job.context(ClipCache(0)), job.stage.sets, "train")
    shape = longest(rows, data_root, processor, job, Console(quiet=True))
    made = blank(model.config, torch.float32)
    reader = Collator(processor, data_root, model_spec.video, side="right", clips=ClipCache(64))
    row = max(rows, key=lambda r: len(processor.example(r.turns, reader.read(r), r.id).input_ids))
    batch = reader.collate([row] * 4)
    batch = {k: v for k, v in batch.items() if k not in ("rows", "dropped_key_frames")}
    assert abs(shape.tokens - batch["input_ids"].shape[1]) <= 12, "the prompt's role headers are counted generously"
    exact = replace(shape, tokens=batch["input_ids"].shape[1])
    for network in (model, made):
        if checkpointing:
            network.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    with kept_bytes(model) as real:
        loss = model(**batch).loss
    assert loss.requires_grad
    assert activation_bytes(made, exact) == pytest.approx(real[0], rel=0.1)


def test_zero_partitions_what_it_says(small, monkeypatch):
    model, _ = small
    made, parts = blank(model.config, torch.float32), count_parameters(model)
    total = sum(t for _, t in parts.values())
    shape = Shape(rows=1, keys=1, motion=4, tokens=20, answer=2)

    def memory(stage, **more):
        deepspeed = None if stage is None else {"zero_optimization": {"stage": stage, **more}}
        return estimate(made, parts, shape, EngineSpec(device="cuda", precision="fp32", deepspeed=deepspeed))

    monkeypatch.setenv("WORLD_SIZE", "8")
    assert rank() == 0
    assert [memory(s).weights for s in (None, 2, 3)] == [4 * total, 4 * total, 4 * total // 8]
    assert [memory(s).gradients for s in (None, 2, 3)] == [4 * total, 4 * total // 8, 4 * total // 8]
    assert [memory(s).optimizer for s in (None, 2, 3)] == [8 * total, total, total]
    assert memory(3, offload_optimizer={"device": "cpu"}).optimizer == 0


def test_a_dry_run_shows_every_stage_that_would_run_and_writes_nothing(data_root, tmp_path):
    console = Console(record=True, width=120, file=io.StringIO())
    preview(jobs(data_root, tmp_path / "out"), console)
    text = console.export_text()
    assert "base (new) -> distortion (new) -> scoring (new)" in text
    assert text.count("memory, total") == 3
    assert "29 video" in text
    assert not (tmp_path / "out").exists()
    assert split_arguments(["stage=base", "--dry-run"]) == ["stage=base", "dry_run=true"]
    with pytest.raises(DataError, match="no prepared data to look at"):
        preview(jobs(tmp_path / "none", tmp_path / "out"), console)


def test_steps_are_counted_as_the_trainer_counts(data_root, tmp_path):
    optim = jobs(data_root, tmp_path, "stage.optim.epochs=3.0", "stage.optim.accumulate=2")[-1].stage.optim
    assert steps(29, optim) == 12  # 8 batches of 4, 4 optimizer steps an epoch
    assert steps(29, replace(optim, max_steps=5)) == 5
