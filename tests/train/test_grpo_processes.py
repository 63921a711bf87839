"""GRPO as two processes over gloo equals one: every reward (ranking over both ranks, its memory, temporal), KL, dynamic
sampling, a lost clip that leaves a rank without prompts, two updates on a rollout, groups cut into packs, completions
of different lengths; under DDP, ZeRO-2 and ZeRO-3. The real model with every part trained, under ZeRO-3 with
a reference.

Plain SGD, so that weights differ by rounding alone. AdamW divides by the size of the gradient, and where that is
rounding itself (the bias of keys has no gradient in exact arithmetic: softmax ignores it) steps differ by up to the
learning rate on any two machines.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import grpo_clips
import grpo_toy
import pytest
import torch

from vqa2.model.tune import PARTS

TOY, CLIPS = (Path(__file__).with_name(f"grpo_{name}.py") for name in ("toy", "clips"))
SHARED = {
    "learning_rate": 0.3,
    "max_steps": 3,
    "memory": 3,
    "num_iterations": 2,
    "lost": [2, 5],
    "options": {"resample_rounds": 1},
}
ZERO = {
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
}
STAGES = {
    "zero2": {"stage": 2},
    # Every parameter is partitioned, small ones too.
    "zero3": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True, "stage3_param_persistence_threshold": 0},
}


def start(script: Path, out: Path, settings: dict) -> list[subprocess.Popen]:
    """A script's run as two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    ranks = [os.environ | shared | {"RANK": str(r), "LOCAL_RANK": str(r)} for r in range(2)]
    command = [sys.executable, str(script), str(out), json.dumps(settings)]
    return [subprocess.Popen(command, env=e, stderr=subprocess.PIPE, text=True) for e in ranks]


def finished(out: Path, settings: dict, script: Path = TOY) -> Path:
    """The folder of a run of two processes; a hang is a failure."""
    out.mkdir()
    processes = start(script, out, settings)
    try:
        for process in processes:
            _, err = process.communicate(timeout=300)
            assert process.returncode == 0, err[-3000:]
    finally:
        for process in processes:
            process.kill()
    return out


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """One process: two micro-batches of a prompt in place of one on each rank, no group cut."""
    out = tmp_path_factory.mktemp("one")
    finish = pytest.MonkeyPatch()
    finish.setattr("vqa2.train._grpo_collect.words", grpo_toy.spelled)
    grpo_toy.main(out, {"gradient_accumulation_steps": 4, "max_tokens": 4096, **SHARED})
    finish.undo()
    return out


def assert_same_completions(two: Path, one: Path) -> None:
    found = [
        {(r["step"], r["prompt_id"], r["completion"], r["reward"]) for r in grpo_toy.table(out)} for out in (two, one)
    ]
    assert found[0] == found[1]


def equal(two: Path, one: Path) -> None:
    """Completions, rewards, log and weights; and the run had in it what it is about."""
    assert_same_completions(two, one)
    logs = [json.loads((out / "log.json").read_text()) for out in (two, one)]
    for left, right in zip(*logs, strict=True):
        known = left.keys() - {"total_flos"}  # counted from partitions under ZeRO-3
        assert {k: left[k] for k in known} == pytest.approx({k: right[k] for k in known}, rel=1e-4, abs=1e-5)
    weights = [torch.load(out / "weights.pt", weights_only=True) for out in (two, one)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=0.0, atol=1e-6)
    steps = [row for row in logs[1] if "loss" in row]
    assert max((value - grpo_toy.toy().state_dict()[name]).abs().max() for name, value in weights[1].items()) > 1e-2
    assert sum(row["broken_clips"] for row in steps) >= 2
    assert max(row["opponents"] for row in steps) > 3
    assert steps[-1]["kl"] > 0
    assert max(row["clip_ratio/region_mean"] for row in steps) > 0
    assert min(row["completions/min_length"] for row in steps) < 8
    assert {r["rewards"]["temporal"] for r in grpo_toy.table(one)} == {0.0, 0.3}


def test_two_processes_equal_one(alone, tmp_path):
    equal(finished(tmp_path / "two", {"gradient_accumulation_steps": 2, "max_tokens": 14, **SHARED}), alone)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_zero_equals_one_process(stage, alone, tmp_path):
    engine = {"deepspeed": ZERO | {"zero_optimization": STAGES[stage]}}
    settings = {"gradient_accumulation_steps": 2, "max_tokens": 14, **SHARED, **engine}
    equal(finished(tmp_path / "two", settings), alone)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["full", "lora"])
def test_the_real_model_and_its_reference_run_in_step(policy, tmp_path):
    """ZeRO-3 and KL. One rank has clips of two lengths, the other of one: where every part trains, the motion blocks of
    the policy, and of the reference in shards, run twice here and once there for the clips alone. With LoRA the
    reference is the model without its adapter."""
    parts = dict.fromkeys(PARTS, "full") if policy == "full" else {"lm": "lora", "vision": "lora"}
    change = {"learning_rate": 0.05, "max_steps": 2, "beta": 0.1, "optim": "sgd", "max_grad_norm": 1e9, "parts": parts}
    change |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    engine = {"deepspeed": ZERO | {"zero_optimization": STAGES["zero3"]}}
    two, one = finished(tmp_path / "two", change | engine, CLIPS), tmp_path / "one"
    one.mkdir()
    grpo_clips.main(one, change | {"gradient_accumulation_steps": 2})
    assert_same_completions(two, one)
    weights = [torch.load(out / "weights.pt", weights_only=True) for out in (two, one)]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=0.0, atol=1e-6)
    assert json.loads((two / "log.json").read_text())[1]["kl"] > 0
