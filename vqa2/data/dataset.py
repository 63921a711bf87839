"""Instruction sets for training: rows on disk -> a shuffled mixture -> padded batches.

Shapes: B rows, L tokens, K key frames, T motion frames. See vqa2/data/layout.py for token order.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from pydantic import TypeAdapter

from vqa2.core.errors import DataError, MediaError
from vqa2.core.records import Instruction, Kind, inside, read_jsonl
from vqa2.data.layout import IGNORE
from vqa2.data.video import Quarantine, Size, Video, VideoSpec, read_media

QUARANTINE = "quarantine.jsonl"
_INSTRUCTION = TypeAdapter(Instruction)


def load_rows(root: Path, sets: dict[str, float], split: str, seed: int) -> list[Instruction]:
    """Rows of several sets, each repeated `sets[name]` times (a fraction takes a seeded sample), in a seeded order."""
    rng, rows = np.random.default_rng(seed), []
    for name, share in sets.items():
        path = root / f"{name}.{split}.jsonl"
        found = read_jsonl(path, Instruction)
        if not found:
            raise DataError(f"{path}: holds no rows")
        whole, sample = drawn(len(found), share, rng)
        rows += found * whole
        rows += [found[i] for i in sample]
    return [rows[i] for i in rng.permutation(len(rows))]


def drawn(count: int, share: float, rng: np.random.Generator) -> tuple[int, np.ndarray]:
    """How often `count` rows enter a mixture whole, and the places of those that a fraction of `share` adds."""
    whole, part = divmod(share, 1)
    return int(whole), rng.permutation(count)[: round(part * count)]


def as_dataset(rows: Sequence[Instruction]) -> Dataset:
    """An Arrow table of JSON rows: workers share it, and 157 k rows do not live as Python objects in each of them."""
    return Dataset.from_dict({"row": [_INSTRUCTION.dump_json(r).decode() for r in rows]})


def as_rows(features: Sequence[dict[str, str]]) -> list[Instruction]:
    """The rows of a batch of `as_dataset`."""
    return [_INSTRUCTION.validate_json(f["row"]) for f in features]


class ClipCache:
    """Up to `megabytes` of decoded clips, first come, first kept. The stages of one invocation share it, so that a clip
    is decoded once for all of them; each worker process has its own."""

    def __init__(self, megabytes: int) -> None:
        self._clips: dict[tuple[Path, Kind, Size, Size, VideoSpec], Video] = {}
        self._room = megabytes * 2**20

    def read(self, path: Path, kind: Kind, key_size: Size, motion_size: Size, video: VideoSpec) -> Video:
        """`read_media`, or what it returned before for the same file read in the same way."""
        name = (path, kind, key_size, motion_size, video)
        if name in self._clips:
            return self._clips[name]
        made = read_media(*name)
        size = made.key.nbytes + made.motion.nbytes
        if size <= self._room:
            self._room -= size
            self._clips[name] = made
        return made


class Collator:
    """Reads the clips of a batch of rows (through `clips`) and pads its tokens.

    `side="right"` for training, `"left"` for generation. `learn_from` maps a part to the kinds of rows it learns from.
    An unreadable clip goes on the data root's quarantine list and stops the run with a MediaError; started again, all
    ranks leave out its rows.
    """

    def __init__(
        self, processor, root: Path, video: VideoSpec, *, side: Literal["left", "right"], clips: ClipCache
    ) -> None:
        self.processor, self.root, self.video, self.side, self.clips = processor, root, video, side, clips
        self.learn_from: dict[str, Sequence[str]] = {}

    def __call__(self, features: Sequence[dict[str, str]]) -> dict[str, Any]:
        batch = self.collate(as_rows(features))
        del batch["rows"]
        return batch

    def read(self, row: Instruction) -> Video | None:
        """The decoded clip of a row, with as many key frames as fit the model; None for text rows."""
        return self.processor.fit(row.turns, None if row.media is None else self._decoded(row), row.id)

    def _decoded(self, row: Instruction) -> Video:
        assert row.media is not None
        image, motion = self.processor.image_size, self.processor.motion_size
        path = inside(self.root, row.media)
        try:
            return self.clips.read(path, row.kind, (image, image), (motion, motion), self.video)
        except MediaError as err:
            Quarantine.add(self.root / QUARANTINE, err)
            raise

    def collate(self, rows: Sequence[Instruction], videos: Sequence[Video | None] | None = None) -> dict[str, Any]:
        """`input_ids, attention_mask, labels [B,L]`, the media tensors (see VQA2Processor.media) , `rows`, and how many
        key frames too long rows have lost. `videos`: the clips of the rows where they are read already."""
        videos = [self.read(row) for row in rows] if videos is None else videos
        examples = [self.processor.example(r.turns, v, r.id) for r, v in zip(rows, videos)]
        length = max(len(e.input_ids) for e in examples)
        pad = self.processor.tokenizer.pad_token_id
        batch: dict[str, Any] = {
            "input_ids": self._pad([e.input_ids for e in examples], length, pad),
            "attention_mask": self._pad([[1] * len(e.input_ids) for e in examples], length, 0),
            "labels": self._pad([e.labels for e in examples], length, IGNORE),
            **self.processor.media([v for v in videos if v is not None]),
            "rows": list(rows),
            "dropped_key_frames": sum(v.dropped for v in videos if v is not None),
        }
        kinds = [r.kind for r in rows if r.media is not None]
        for part, key in (("vision", "vision_grad"), ("motion", "motion_grad")):
            # An empty list means all kinds: then no gradient is routed.
            if kinds and self.learn_from.get(part):
                batch[key] = torch.tensor([kind in self.learn_from[part] for kind in kinds])
        return batch

    def _pad(self, sequences: list[list[int]], length: int, value: int) -> torch.Tensor:
        out = torch.full((len(sequences), length), value)
        for i, s in enumerate(sequences):
            if self.side == "right":
                out[i, : len(s)] = torch.tensor(s)
            else:
                out[i, length - len(s) :] = torch.tensor(s)
        return out
