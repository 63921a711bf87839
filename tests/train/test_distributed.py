"""Processes over gloo on the CPU: DDP, ZeRO-2 and ZeRO-3 equal one process; mixed rows, resume and export under ZeRO-3.

ZeRO-3 keeps small parameters whole by default; here its threshold is 0, so that every parameter is partitioned.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from small import SMALL_MODEL
from transformers import AutoModelForImageTextToText

from vqa2.model.tune import PARTS, part_of

ROOT = Path(__file__).parents[2]
FAST = [*SMALL_MODEL, "stage.optim.warmup=0.0", "log.every=1", "stage.optim.max_steps=6", "stage.optim.save_every=3"]
# The longest rows come first on any number of processes.
FAST += ["engine.longest_first=true"]
CPU = ["engine.device=cpu", "engine.precision=fp32"]
WHOLE = "+engine.deepspeed.zero_optimization.stage3_param_persistence_threshold=0"
ENGINES = {
    "ddp": ["engine=ddp", *CPU],
    "zero2": ["engine=zero2", *CPU],
    "zero3": ["engine=zero3", *CPU, WHOLE],
    "zero3_offload": ["engine=zero3_offload", *CPU, WHOLE],
}
# 145 questions on videos, or stills, clips and text in one mixture: more rows than six steps of eight take, because the
# last batch of an epoch is cut differently for two processes.
VIDEOS = ["stage.sets.scoring_ugc=0.0", "+stage.sets.understanding=1.0"]
MIXED = ["stage.sets.scoring_ugc=2.0", "+stage.sets.distortion_spatial=2.0", "+stage.sets.base=0.7"]
# AdamW moves every weight by about the rate, also one whose gradient is rounding alone: at the usual rates the losses
# drift apart by up to 3e-4, at this one by what differs in the gradients, which are compared as well.
MIXED += [f"stage.tune.lr.{part}=1.0e-6" for part in PARTS]


def start(processes: int, out: Path, *overrides: str) -> subprocess.Popen:
    """Launches `train.py stage=scoring`; with torchrun where there are several processes."""
    launcher = []
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", str(port)]
    command = [sys.executable, *launcher, "train.py", "stage=scoring", f"out={out}", *FAST, *overrides]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def kill(process: subprocess.Popen) -> None:
    """The launcher and its workers, which lead sessions of their own."""
    for one in [*psutil.Process(process.pid).children(recursive=True), process]:
        one.kill()


def run(processes: int, out: Path, *overrides: str) -> Path:
    """The finished run's folder; a hang is a failure."""
    process = start(processes, out, *overrides)
    try:
        output, _ = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        kill(process)
        raise
    assert process.returncode == 0, output[-3000:]
    return out / "tiny" / "scoring"


def losses(folder: Path, key: str = "loss") -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [r[key] for r in rows if "loss" in r]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def common(data_root, trained) -> list[str]:
    """Overrides that every run shares: data and the model to start from."""
    return [f"data.root={data_root}", f"stage.init_from={trained / 'model'}"]


@pytest.fixture(scope="module")
def alone(common, tmp_path_factory) -> Path:
    return run(1, tmp_path_factory.mktemp("one"), *common, *VIDEOS, "stage.optim.batch_size=8")


def equal(folder: Path, other: Path, steps: int = 6) -> None:
    """Losses of all steps to 1e-4, and weights to what rounding does to AdamW's first steps."""
    assert len(losses(folder)) == steps
    assert losses(folder) == pytest.approx(losses(other), rel=1e-4)
    a, b = weights(folder), weights(other)
    assert a.keys() == b.keys()
    assert {k: v.shape for k, v in a.items()} == {k: v.shape for k, v in b.items()}
    for part in PARTS:
        names = [k for k in a if part_of(k) == part]
        apart = torch.cat([(a[k] - b[k]).flatten() for k in names]).norm()
        assert apart < 1e-3 * torch.cat([b[k].flatten() for k in names]).norm(), part


def test_two_processes_equal_one(common, alone, tmp_path):
    equal(run(2, tmp_path, *common, *VIDEOS, "stage.optim.batch_size=4", *ENGINES["ddp"]), alone)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["zero2", "zero3", "zero3_offload"])
def test_zero_equals_one_process_and_its_export_loads(engine, common, alone, tmp_path):
    folder = run(2, tmp_path, *common, *VIDEOS, "stage.optim.batch_size=4", *ENGINES[engine])
    equal(folder, alone)
    model, info = AutoModelForImageTextToText.from_pretrained(folder / "model", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert all(torch.equal(model.state_dict()[k], v) for k, v in weights(folder).items())


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 2])
def test_ranks_with_stills_clips_and_text_train_together_under_zero3(rows, common, tmp_path):
    """Nearly every step mixes kinds over ranks; with two rows also how often the motion blocks run (once per length).
    Equal to one process that sees all rows."""
    mixed = run(2, tmp_path / "two", *common, *MIXED, f"stage.optim.batch_size={rows}", *ENGINES["zero3"])
    one = run(1, tmp_path / "one", *common, *MIXED, f"stage.optim.batch_size={2 * rows}")
    equal(mixed, one)
    assert losses(mixed, "grad_norm") == pytest.approx(losses(one, "grad_norm"), rel=1e-3)


def killed_after(step: int, out: Path, *settings: str) -> None:
    """Starts two processes and kills them when the checkpoint of a step is whole."""
    process = start(2, out, *settings)
    broken = out / "tiny" / "scoring"
    deadline = time.monotonic() + 240
    while not (broken / f"checkpoint-{step}" / "trainer_state.json").is_file():
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kill(process)
    process.communicate()
    assert not (broken / "done.json").exists()


@pytest.mark.slow
def test_a_killed_zero3_run_resumes_to_the_same_losses(common, tmp_path):
    settings = [*common, *VIDEOS, "stage.optim.batch_size=4", "stage.optim.save_every=2", *ENGINES["zero3"]]
    straight = run(2, tmp_path / "a", *settings)
    killed_after(2, tmp_path / "b", *settings)
    equal(run(2, tmp_path / "b", *settings), straight)


STREAMED = ["engine=ddp", *CPU, "data.streaming=true", "data.shuffle_buffer=20", "engine.longest_first=false"]


@pytest.mark.slow
def test_two_processes_stream_the_rows_of_one(common, tmp_path):
    one = run(1, tmp_path / "one", *common, *VIDEOS, "stage.optim.batch_size=8", *STREAMED[1:])
    equal(run(2, tmp_path / "two", *common, *VIDEOS, "stage.optim.batch_size=4", *STREAMED), one)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [STREAMED, ["engine=ddp", *CPU]], ids=["streamed", "longest first"])
def test_two_processes_killed_in_the_second_epoch_go_on_in_its_order(rows, common, tmp_path):
    """Four steps are an epoch of the rated clips; the library forgets to tell their order its epoch then."""
    settings = [*common, "stage.optim.batch_size=4", "stage.optim.max_steps=10", "stage.optim.save_every=1", *rows]
    straight = run(2, tmp_path / "a", *settings)
    killed_after(6, tmp_path / "b", *settings)
    resumed = run(2, tmp_path / "b", *settings)
    assert losses(resumed) == losses(straight)
    equal(resumed, straight, steps=10)


@pytest.mark.slow
def test_lora_merges_under_zero3(common, tmp_path):
    lora = ["stage.tune.parts.lm=lora", "stage.tune.lora.rank=2"]
    two = run(2, tmp_path / "two", *common, *VIDEOS, *lora, "stage.optim.batch_size=4", *ENGINES["zero3"])
    equal(two, run(1, tmp_path / "one", *common, *VIDEOS, *lora, "stage.optim.batch_size=8"))


@pytest.mark.slow
def test_accelerate_launch_and_local_rank_start_training(common, tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "train.py"]
    settings = ["--local_rank=0", "stage=scoring", f"out={tmp_path}", *FAST, *common, "stage.optim.batch_size=2"]
    done = subprocess.run(
        [*command, *settings, "stage.optim.max_steps=1"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "tiny" / "scoring" / "done.json").is_file()


@pytest.mark.slow
def test_overwriting_a_finished_run_starts_it_anew_on_every_process(common, tmp_path):
    settings = [*common, *ENGINES["ddp"], "stage.optim.batch_size=2", "stage.optim.max_steps=1"]
    folder = run(2, tmp_path, *settings)
    (folder / "model" / "mark").touch()
    (folder / "checkpoint-1").mkdir()  # as of a kill: without its state
    run(2, tmp_path, *settings)
    assert (folder / "model" / "mark").exists(), "a finished run is kept"
    run(2, tmp_path, *settings, "overwrite=true")
    assert not (folder / "model" / "mark").exists()
    assert not (folder / "checkpoint-1").exists()
    assert (folder / "done.json").is_file()


@pytest.mark.slow
def test_accelerates_configuration_file_starts_two_processes(common, alone, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ["-m", "accelerate.commands.launch", "--config_file", "launchers/cpu2.yaml", "--main_process_port"]
    settings = [f"out={tmp_path}", *FAST, *common, *VIDEOS, "stage.optim.batch_size=4", *ENGINES["zero2"]]
    done = subprocess.run(
        [sys.executable, *launch, str(port), "train.py", "stage=scoring", *settings],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "processes: 2" in done.stderr
    equal(tmp_path / "tiny" / "scoring", alone)
