"""Training on streamed rows: the losses of the same rows in memory, resumed as if never killed, refused where a stage
needs all rows."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small import SMALL_MODEL
from torch.utils.data import Sampler

from vqa2.core.errors import ConfigError, DataError
from vqa2.data.dataset import as_rows, load_rows
from vqa2.data.stream import Stream
from vqa2.launch import composed
from vqa2.train.callbacks import RichProgress
from vqa2.train.plan import plan, train
from vqa2.train.stages.sft import Sft

STEPS = 8
BUFFER = 10
FAST = [*SMALL_MODEL, "stage.optim.batch_size=2", "stage.optim.accumulate=2", f"stage.optim.max_steps={STEPS}"]
FAST += ["stage.optim.save_every=1", "stage.optim.warmup=0.0", "log.every=1", f"data.shuffle_buffer={BUFFER}"]
SETS = ["stage.sets.scoring_ugc=0.6"]


def run(stage: str, data_root: Path, out: Path, *more: str) -> Path:
    train(stage, [*FAST, f"data.root={data_root}", f"out={out}", *more], composed, say_done=True)
    return Path(out) / "tiny" / stage


def scoring(data_root: Path, out: Path, base: Path, *more: str) -> Path:
    return run("scoring", data_root, out, f"stage.init_from={base / 'model'}", *SETS, *more)


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [r["loss"] for r in rows if "loss" in r]


def same_weights(a: Path, b: Path) -> bool:
    one, two = (load_file(f / "model" / "model.safetensors") for f in (a, b))
    return all(torch.equal(one[k], two[k]) for k in one)


@pytest.fixture(scope="module")
def base(data_root, tmp_path_factory) -> Path:
    torch.set_num_threads(1)  # also for the runs of this module's fixtures: sums must be the same to the last bit
    return run("base", data_root, tmp_path_factory.mktemp("base"), "stage.optim.max_steps=1")


@pytest.fixture(scope="module")
def streamed(data_root, tmp_path_factory, base) -> Path:
    return scoring(data_root, tmp_path_factory.mktemp("streamed"), base, "data.streaming=true")


class AsStreamed(Sampler[int]):
    """Rows in memory in the order that a stream has."""

    def __init__(self, root: Path, rows) -> None:
        self.stream = Stream(root, {"scoring_ugc": 0.6}, "train", seed=0, buffer=BUFFER, bad=set())
        self.places = {row.id: place for place, row in enumerate(rows)}
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.stream)

    def __iter__(self):
        found = as_rows([self.stream[self.epoch * len(self) + place] for place in range(len(self))])
        return iter([self.places[row.id] for row in found])


def test_streamed_rows_give_the_losses_and_weights_of_rows_in_memory(data_root, tmp_path, base, streamed, monkeypatch):
    count = len(load_rows(data_root, {"scoring_ugc": 0.6}, "train", 0))
    assert count < STEPS * 4, "the second epoch is reached"
    monkeypatch.setattr(Sft, "_order", lambda self, context, processor, rows: AsStreamed(data_root, rows))
    memory = scoring(data_root, tmp_path, base)
    assert len(losses(memory)) == STEPS
    assert losses(memory) == losses(streamed)
    assert same_weights(memory, streamed)
    done = [json.loads((folder / "done.json").read_text()) for folder in (memory, streamed)]
    assert done[0]["rows"] == done[1]["rows"] == count


@pytest.mark.parametrize("step", [3, pytest.param(7, marks=pytest.mark.slow)])
def test_killed_in_any_epoch_it_continues_to_the_same_weights(step, data_root, tmp_path, base, streamed, monkeypatch):
    def killed(self, args, state, control, **kwargs):
        if state.global_step == step:
            raise KeyboardInterrupt

    # Loader workers decode ahead of the trainer: they change nothing either.
    more = ("data.streaming=true", "stage.optim.workers=2")
    with monkeypatch.context() as patch:
        patch.setattr(RichProgress, "on_step_end", killed)
        with pytest.raises(KeyboardInterrupt):
            scoring(data_root, tmp_path, base, *more)
    resumed = scoring(data_root, tmp_path, base, *more)
    assert losses(resumed) == losses(streamed)
    assert same_weights(resumed, streamed)


def test_a_run_is_not_continued_with_another_order_of_rows(data_root, streamed, base):
    out = streamed.parents[1]
    with pytest.raises(ConfigError, match=r"first difference: shuffle_buffer: 10 -> 11\)"):
        scoring(data_root, out, base, "data.streaming=true", "data.shuffle_buffer=11")
    with pytest.raises(ConfigError, match=r"first difference: shuffle_buffer: 10 -> None\)"):
        scoring(data_root, out, base)


@pytest.mark.parametrize(
    ("stage", "more", "message"),
    [
        ("grpo", (), "^data.streaming: stage grpo needs its rows in memory; supervised stages stream"),
        ("router", (), "^data.streaming: stage router needs its rows in memory"),
        ("base", ("stage.group_by_length=true",), "^data.streaming: .*; set stage.group_by_length=false"),
        ("scoring", ("engine.longest_first=true",), "^data.streaming: .*; set engine.longest_first=false"),
    ],
)
def test_what_a_stream_cannot_give_is_one_line(stage, more, message, tmp_path):
    words = [f"out={tmp_path}", "data.streaming=true", *more]
    with pytest.raises(ConfigError, match=message):
        plan(stage, lambda label: composed("train", [f"stage={label}", *words]))


def test_a_data_root_without_parquet_is_one_line(data_root, tmp_path, base):
    root = tmp_path / "data"
    root.mkdir()
    for path in data_root.iterdir():
        if path.name != "parquet":
            (root / path.name).symlink_to(path)
    with pytest.raises(DataError, match=r"scoring_ugc/train.parquet: no such file to stream; run data_prep again"):
        scoring(root, tmp_path / "out", base, "data.streaming=true")
