"""`stage=all` killed in the data step and in every stage, each time started again, ends in the same bytes."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small import SMALL_DATA, SMALL_MODEL
from test_chain import STAGES

ROOT = Path(__file__).parents[1]
TRAIN = ["stage.optim.max_steps=6", "stage.optim.batch_size=2", "stage.optim.save_every=2"]
DEADLINE_S = 300


def start(folder: Path) -> subprocess.Popen:
    command = shlex.join(["python", "-m", "data_prep", "source=synthetic", *SMALL_DATA])
    words = [f"out={folder / 'runs'}", f"data.root={folder / 'data'}", f'data.command="{command}"']
    return subprocess.Popen(
        [sys.executable, "train.py", "stage=all", *SMALL_MODEL, *TRAIN, *words],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def killed_when(folder: Path, pattern: str) -> None:
    """Starts the chain and kills it, with its worker processes, as soon as a file of this name is there."""
    running, end = start(folder), time.monotonic() + DEADLINE_S
    while not list(folder.glob(pattern)):
        assert running.poll() is None, running.communicate()[1][-2000:]
        assert time.monotonic() < end, f"{pattern} did not appear"
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()


def finished(folder: Path) -> dict[str, bytes]:
    """Runs the chain to its end; weights by stage and all instruction sets."""
    said = start(folder).communicate(timeout=DEADLINE_S)[1]
    assert (folder / "runs/tiny/grpo/done.json").is_file(), said[-2000:]
    weights = {stage: (folder / f"runs/tiny/{stage}/model/model.safetensors").read_bytes() for stage in STAGES}
    return weights | {path.name: path.read_bytes() for path in (folder / "data").glob("*.jsonl")}


@pytest.mark.slow
def test_killed_anywhere_and_run_again_is_the_uninterrupted_run(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = finished(whole)
    killed_when(broken, "data/media/train/*.mp4")
    killed_when(broken, "data/scoring_ugc.train.jsonl")
    for stage in STAGES:
        killed_when(broken, f"runs/tiny/{stage}/checkpoint-*/trainer_state.json")
    assert not (broken / "runs/tiny/grpo/model").exists()
    got = finished(broken)
    assert got.keys() == expected.keys()
    assert [name for name, content in expected.items() if got[name] != content] == []
