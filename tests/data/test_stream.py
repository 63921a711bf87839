"""Rows streamed from Parquet: those of the mixture in memory, once an epoch, in the same order for every reader."""

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from torch.utils.data import BatchSampler, DataLoader

from data_prep._output import write_rows
from vqa2.core.errors import DataError
from vqa2.core.records import Instruction, Turn
from vqa2.data.dataset import as_rows, load_rows
from vqa2.data.stream import InOrder, Stream

SIZES = {"one": 1300, "two": 250}
BUFFER = 300


def row(name: str, number: int) -> Instruction:
    media = None if number % 7 == 0 else f"m/{number % 50} é.mp4"
    turns = (Turn(user="<video>\nHow?", assistant="So."),)
    return Instruction(id=f"{number}", clip_id=name, kind="video" if media else "text", media=media, task=name,
                       turns=turns, mos=number / 3, tags={"a": "b"})  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    # What `datasets` would take for a pattern, and what is no ASCII.
    made = tmp_path_factory.mktemp("data") / "ö [1] *?"
    for name, size in SIZES.items():
        write_rows(made, name, "train", (row(name, k) for k in range(size)))
    return made


def stream(root: Path, sets: dict[str, float], **changes) -> Stream:
    return Stream(root, sets, "train", **{"seed": 3, "buffer": BUFFER, "bad": set(), **changes})


def epoch(made: Stream, number: int) -> list[Instruction]:
    return as_rows([made[number * len(made) + place] for place in range(len(made))])


def counted(rows: list[Instruction]) -> Counter[str]:
    return Counter(json.dumps([r.task, r.id, r.media, r.mos, r.kind, r.tags, len(r.turns)]) for r in rows)


@pytest.mark.parametrize(
    "sets", [{"one": 1.0}, {"one": 1.0, "two": 2.0}, {"one": 0.3, "two": 1.5}, {"two": 0.0, "one": 0.1}]
)
def test_an_epoch_is_the_mixture_in_memory_in_a_new_order(root, sets):
    made = stream(root, sets)
    memory = load_rows(root, sets, "train", 3)
    first, second = epoch(made, 0), epoch(made, 1)
    assert counted(first) == counted(second) == counted(memory)
    assert len(made) == len(memory)
    assert made.kinds == Counter(r.kind for r in memory)
    assert first != second
    assert first == epoch(stream(root, sets), 0)
    assert first != epoch(stream(root, sets, seed=4), 0)


def test_all_sets_are_mixed_throughout(root):
    found = [r.task for r in epoch(stream(root, {"one": 1.0, "two": 4.0}, buffer=4000), 0)]
    tenth = len(found) // 10
    shares = [found[k * tenth : (k + 1) * tenth].count("two") / tenth for k in range(10)]
    assert min(shares) > 0.15
    order = [int(r.id) for r in epoch(stream(root, {"one": 1.0}), 0)]
    assert sum(b == a + 1 for a, b in zip(order, order[1:])) < 25, "neighbors of the file are no neighbors here"


def test_whoever_asks_gets_the_same_row(root):
    made = stream(root, {"one": 1.0, "two": 1.0})
    rows = epoch(made, 1)
    other = stream(root, {"one": 1.0, "two": 1.0})
    for place in (0, 5, 5, 6, 1200, 1203, 1549, 1, 700):
        assert as_rows([other[len(made) + place]]) == [rows[place]], place


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_workers_change_nothing(root, workers):
    made, order = stream(root, {"one": 1.0}), InOrder(stream(root, {"one": 1.0}))
    order.set_epoch(2)
    loader = DataLoader(
        made, batch_sampler=BatchSampler(order, 8, drop_last=False), num_workers=workers, collate_fn=as_rows
    )
    found = [row for batch in islice(loader, 40) for row in batch]
    assert found == epoch(stream(root, {"one": 1.0}), 2)[: 40 * 8]


def test_quarantined_clips_are_left_out_and_counted(root):
    bad = {str((root / f"m/{k} é.mp4").resolve()) for k in (1, 2)}
    sets = {"one": 1.5, "two": 0.5}
    made = stream(root, sets, bad=bad)
    kept = [r for r in load_rows(root, sets, "train", 3) if r.media not in ("m/1 é.mp4", "m/2 é.mp4")]
    assert counted(epoch(made, 0)) == counted(kept)
    assert made.left_out == len(load_rows(root, sets, "train", 3)) - len(kept) > 50
    write_rows(root / "b", "one", "train", [row("one", 1)])
    with pytest.raises(DataError, match="every row of one is quarantined"):
        stream(root / "b", {"one": 1.0}, bad={str((root / "b/m/1 é.mp4").resolve())})


def test_files_that_cannot_be_streamed_are_one_line(root, tmp_path):
    with pytest.raises(DataError, match=r"one/train.parquet: no such file to stream; run data_prep again"):
        stream(tmp_path, {"one": 1.0})
    path = tmp_path / "parquet" / "one" / "train.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes((root / "parquet" / "one" / "train.parquet").read_bytes()[:-100])
    with pytest.raises(DataError, match="no Parquet file"):
        stream(tmp_path, {"one": 1.0})
    write_rows(tmp_path, "one", "train", [])
    with pytest.raises(DataError, match="holds no rows"):
        stream(tmp_path, {"one": 1.0})
