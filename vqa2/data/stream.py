"""Rows of supervised training, streamed by `datasets` from the Parquet files of a data root: memory holds a shuffle
buffer, not the rows.

Seed, epoch and buffer decide a stream's order. Behind an index it looks like rows in memory, so that processes, loader
workers, accumulation and resuming share it out in the same way. Whoever asks for a row passes over those before it,
which are text: clips are decoded for the rows that are asked for.
"""

import glob
import json
from collections import Counter
from collections.abc import Iterator, Set
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from torch.utils.data import Dataset, Sampler

from vqa2.core.errors import DataError
from vqa2.core.records import inside
from vqa2.data.dataset import drawn

_READ = 256
"""Rows that are taken out of a stream at once."""


class Stream(Dataset):
    """The mixture of `load_rows`, each row once an epoch: index `epoch * len + place`, asked for in rising order (a
    smaller place opens the epoch again). `buffer` rows are shuffled at a time, taken from row groups in a random order.

    Rows whose clip is in `bad` are left out; `kinds` counts the others.
    """

    def __init__(
        self, root: Path, sets: dict[str, float], split: str, *, seed: int, buffer: int, bad: Set[str]
    ) -> None:
        self._seed, self._buffer = seed, buffer
        self._parts: list[datasets.IterableDataset] = []
        self.kinds: Counter[str] = Counter()
        self.left_out = 0
        rng = np.random.default_rng(seed)
        for name, share in sets.items():
            self._add(root, root / "parquet" / name / f"{split}.parquet", share, rng, bad)
        if not len(self):
            raise DataError(f"{root}: every row of {', '.join(sets)} is quarantined")
        self._epoch, self._first = -1, 0
        self._tables: Iterator[pa.Table] = iter(())
        self._table = pa.table({})

    def _add(self, root: Path, path: Path, share: float, rng: np.random.Generator, bad: Set[str]) -> None:
        """A set: its whole copies and its sample, counted."""
        index = _columns(path)
        whole, sample = drawn(len(index), share, rng)
        media = index["media"].unique().drop_null().to_pylist() if bad else []
        lost = pa.array([name for name in media if str(inside(root, name)) in bad], pa.string())
        kept = _wanted(None, lost, index).to_numpy()
        chosen = index["id"].take(sample).combine_chunks()
        copies = [(None, np.arange(len(index)))] * whole + [(chosen, sample)] * (len(sample) > 0)
        for ids, places in copies:
            part = _opened(path)
            if ids is not None or len(lost):
                part = part.filter(partial(_wanted, ids, lost), batched=True)
            self._parts.append(part)
            self.kinds.update(index["kind"].take(places[kept[places]]).to_pylist())
            self.left_out += int((~kept[places]).sum())

    def __len__(self) -> int:
        return self.kinds.total()

    def __getitem__(self, index: int) -> dict[str, str]:
        """The row as `as_rows` reads it."""
        epoch, place = divmod(index, len(self))
        if epoch != self._epoch or place < self._first:
            self._open(epoch)
        while place >= self._first + len(self._table):
            self._first += len(self._table)
            self._table = next(self._tables)
        (row,) = self._table.slice(place - self._first, 1).to_pylist()
        return {"row": json.dumps({**row, "tags": json.loads(row["tags"])})}

    def _open(self, epoch: int) -> None:
        mixed = datasets.concatenate_datasets(self._parts)
        order = np.random.default_rng([self._seed, epoch])
        # Row groups in a random order fill the buffer one by one: threads that read several at once take 5 s to end.
        shuffled = mixed.shuffle(generator=order, buffer_size=self._buffer, max_buffer_input_shards=1)
        # `iter(dataset)` would give a loader's workers each a part of the files; here each reads all of them.
        self._tables = shuffled.with_format("arrow").iter(batch_size=_READ)
        self._epoch, self._first, self._table = epoch, 0, next(self._tables)


class InOrder(Sampler[int]):
    """A stream's indices, epoch after epoch."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.epoch = stream, 0

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.stream)

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.epoch * len(self), (self.epoch + 1) * len(self)))


def _columns(path: Path) -> pa.Table:
    """What rows are counted and drawn by."""
    if not path.is_file():
        raise DataError(f"{path}: no such file to stream; run data_prep again, which writes it beside the JSON lines")
    try:
        found = pq.read_table(path, columns=["id", "kind", "media"], partitioning=None)
    except (pa.ArrowInvalid, OSError) as err:
        raise DataError(f"{path}: no Parquet file ({str(err)[:80]}); run data_prep again") from None
    if not len(found):
        raise DataError(f"{path}: holds no rows")
    return found


def _opened(path: Path) -> datasets.IterableDataset:
    """A Parquet file as a stream of its row groups. A path may hold what `datasets` would take for a pattern."""
    file = datasets.load_dataset("parquet", data_files=glob.escape(str(path)), split="train", streaming=True)
    return file.reshard().with_format("arrow")


def _wanted(ids: pa.Array | None, lost: pa.Array, table: pa.Table) -> pa.ChunkedArray:
    """Which rows of a table have one of `ids` (None: any) and no medium of `lost`."""
    wanted = pc.invert(pc.is_in(table["media"], value_set=lost))
    return wanted if ids is None else pc.and_(wanted, pc.is_in(table["id"], value_set=ids))
