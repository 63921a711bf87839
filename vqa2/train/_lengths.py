"""How long the rows of a stage are, without decoding them, and an order of rows in which the longest come first.

Shapes: K key frames, T motion frames, L tokens, A answer tokens of a row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch.utils.data import Sampler

from vqa2.core.records import Instruction, inside
from vqa2.data.layout import IGNORE, Slots, lay_out
from vqa2.data.video import probe
from vqa2.model.processing import VQA2Processor


@dataclass(frozen=True, kw_only=True, order=True)
class Length:
    """A row as the model sees it: L, K, T and A; K after the loss of key frames that do not fit."""

    tokens: int
    keys: int
    motion: int
    answer: int


def length(row: Instruction, media: tuple[int, int], processor: VQA2Processor) -> Length:
    """`media`: (K, T) of its clip, zeros without one. DataError where the row cannot fit, as in training."""
    keys, motion = media
    size = processor.tokens_per_frame
    slots = Slots(tokens_per_frame=size, num_key=keys, motion_second=(0,) * motion) if keys else None
    made = lay_out(row.turns, slots, processor.tokens, processor.tokenizer, row.id)
    kept = processor.kept_keys(len(made.input_ids), keys, row.id)
    return Length(
        tokens=len(made.input_ids) - (keys - kept) * size,
        keys=kept,
        motion=motion,
        answer=sum(label != IGNORE for label in made.labels),
    )


def lengths(
    rows: Sequence[Instruction], root: Path, processor: VQA2Processor, frame_multiple: int, console: Console
) -> list[Length]:
    """One for each row; file headers tell the frames, each file is opened once."""
    sizes: dict[str, tuple[int, int]] = {}
    made = []
    for row in track(rows, "probing headers", console=console, disable=not console.is_terminal):
        if row.media is not None and row.media not in sizes:
            sizes[row.media] = probe(inside(root, row.media), row.kind, frame_multiple)
        made.append(length(row, (0, 0) if row.media is None else sizes[row.media], processor))
    return made


class LongestFirst(Sampler[int]):
    """Every row once an epoch, in an order that is new each epoch and the same on all processes; the `count` longest
    rows come first, so that the batch that needs most memory is the first one."""

    def __init__(self, found: Sequence[Length], count: int, seed: int) -> None:
        self.size, self.seed, self.epoch = len(found), seed, 0
        self.first = sorted(range(len(found)), key=found.__getitem__, reverse=True)[:count]

    def set_epoch(self, epoch: int) -> None:
        """Called by the library before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        front = set(self.first)
        yield from self.first
        yield from (i for i in torch.randperm(self.size, generator=generator).tolist() if i not in front)
