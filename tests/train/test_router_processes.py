"""stage=router as two processes over gloo equals one, with a frozen and with an adapted backbone."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from router_parts import overrides
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
CPU = ["engine.device=cpu", "engine.precision=fp32"]
ENGINES = {
    "ddp": ["engine=ddp", *CPU],
    "zero2": ["engine=zero2", *CPU],
    "zero3": ["engine=zero3", *CPU, "+engine.deepspeed.zero_optimization.stage3_param_persistence_threshold=0"],
}
# Within one epoch, whose last batch is cut differently for two processes. At AdamW's usual rates the rounding of
# gradients that are nearly zero grows.
STEPS = ["stage.optim.max_steps=4", "stage.optim.save_every=100", "stage.fit.dense_epochs=0", "log.every=1"]
LORA = ["stage.tune.parts.lm=lora", "stage.tune.parts.motion_projector=lora"]
LORA += ["stage.tune.lr.lm=1e-5", "stage.tune.lr.motion_projector=1e-5"]


def run(processes: int, out: Path, *settings: str) -> Path:
    """The finished run's folder; a hang is a failure."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", str(port)]
    command = [sys.executable, *(launcher if processes > 1 else []), "train.py", "stage=router", *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return out / "tiny" / "router"


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def equal(two: Path, one: Path) -> None:
    """Losses, gate, adapters, and the verdict on the validation clips."""
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert len(losses(two)) == 4
    for name in ("model/gate.safetensors", "backbone/adapter/adapter_model.safetensors"):
        assert (two / name).is_file() == (one / name).is_file()
        if (one / name).is_file():
            a, b = (load_file(folder / name) for folder in (two, one))
            assert a.keys() == b.keys()
            apart = torch.cat([(a[k] - b[k]).flatten() for k in a]).norm()
            assert apart < 1e-3 * torch.cat([b[k].flatten() for k in b]).norm(), name
    found, wanted = (json.loads((folder / "done.json").read_text()) for folder in (two, one))
    assert (found["rows"], found["trained_on"], found["best"]) == (wanted["rows"], wanted["trained_on"], wanted["best"])
    for key in ("srcc", "mean_error", "mean_uncertainty"):
        assert found["validation"][key] == pytest.approx(wanted["validation"][key], rel=1e-3), key


@pytest.mark.slow
@pytest.mark.parametrize("tune", [[], LORA], ids=["frozen", "lora"])
def test_processes_and_zero_equal_one_process(tune, data_root, backbone, experts, tmp_path):
    def settings(out: Path, rows: int) -> list[str]:
        return overrides(data_root, out, backbone, experts, *STEPS, *tune, f"stage.optim.batch_size={rows}")

    run(1, tmp_path / "fill", *overrides(data_root, tmp_path / "fill", backbone, experts, "stage.optim.max_steps=1"))
    one = run(1, tmp_path / "one", *settings(tmp_path / "one", 4))
    for name, engine in ENGINES.items():
        equal(run(2, tmp_path / name, *settings(tmp_path / name, 2), *engine), one)


@pytest.mark.slow
def test_several_processes_ask_no_expert(data_root, backbone, experts, tmp_path):
    settings = overrides(data_root, tmp_path, backbone, experts, f"stage.readings={tmp_path}/none.jsonl")
    with pytest.raises(AssertionError, match="run `python -m vqa2.experts` on them first"):
        run(2, tmp_path, *settings, *ENGINES["ddp"])
