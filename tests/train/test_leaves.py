"""ZeRO-3 leaves: which modules are marked, and that a mixture of which each process uses another expert trains."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import leaves_toy
import pytest
import torch
from deepspeed.utils import get_z3_leaf_modules
from torch import nn

from vqa2.model.gate import Gate, Shape
from vqa2.train._leaves import mark_leaves, mixtures
from vqa2.train.plan import EngineSpec

TOY = Path(__file__).with_name("leaves_toy.py")
ZERO3 = {
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
    "zero_optimization": {
        "stage": 3,
        "stage3_gather_16bit_weights_on_model_save": True,
        "stage3_param_persistence_threshold": 0,
    },
}


def engine(stage: int) -> EngineSpec:
    return EngineSpec(
        device="cpu", precision="fp32", longest_first=False, deepspeed={"zero_optimization": {"stage": stage}}
    )


def test_mixtures_are_marked_under_zero3_alone(small):
    toy = nn.Sequential(leaves_toy.Toy(), leaves_toy.Toy())
    mark_leaves(toy, engine(2))
    assert get_z3_leaf_modules(toy) == []
    mark_leaves(toy, engine(3))
    assert get_z3_leaf_modules(toy) == [toy[0].mixture, toy[1].mixture]
    gate = Gate(Shape(width=4, hidden=4, top_k=1, experts=("a", "b"), types=("x",)))
    assert mixtures(small[0]) == mixtures(gate) == []


def trained(out: Path, processes: int, made: dict, timeout: int) -> dict[str, torch.Tensor]:
    out.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    shared |= {"OMP_NUM_THREADS": "1"}
    ranks = [os.environ | shared | {"RANK": str(r), "LOCAL_RANK": str(r)} for r in range(processes)]
    command = [sys.executable, str(TOY), str(out), json.dumps(made)]
    started = [subprocess.Popen(command, env=e, stderr=subprocess.PIPE, text=True) for e in ranks]
    try:
        for process in started:
            _, err = process.communicate(timeout=timeout)
            assert process.returncode == 0, err[-3000:]
    finally:
        for process in started:
            process.kill()
    return torch.load(out / "weights.pt", weights_only=True)


@pytest.mark.slow
def test_processes_that_use_different_experts_equal_one_process(tmp_path):
    one = tmp_path / "one"
    one.mkdir()
    leaves_toy.main(one, {"deepspeed": None, "marked": False, "rows": 2})
    wanted = torch.load(one / "weights.pt", weights_only=True)
    found = trained(tmp_path / "two", 2, {"deepspeed": ZERO3, "marked": True, "rows": 1}, 240)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
