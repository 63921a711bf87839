"""How long the rows of a stage are, without decoding them, and the orders of rows that follow from it.

Shapes: K key frames, T motion frames, L tokens, A answer tokens of a row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

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


class RowOrder(Sampler[int]):
    """Every row once an epoch, in an order that is new each epoch and the same on all processes. The longest row is
    among the first `batch` rows (of all processes together): the step that needs most memory is the first one.

    `grouped`: rows of similar length share a batch, whose padding they spare each other; the batches come in a random
    order. Else the `batch` longest rows are followed by the others at random.
    """

    def __init__(self, found: Sequence[Length], batch: int, seed: int, grouped: bool) -> None:
        self.found, self.batch, self.seed, self.grouped, self.epoch = found, batch, seed, grouped, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the library before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        if not self.grouped:
            first = sorted(range(len(self)), key=self.found.__getitem__, reverse=True)[: self.batch]
            taken = set(first)
            others = torch.randperm(len(self), generator=generator).tolist()
            return iter([*first, *(i for i in others if i not in taken)])
        rows = get_length_grouped_indices([f.tokens for f in self.found], self.batch, generator=generator)
        batches = [rows[i : i + self.batch] for i in range(0, len(rows), self.batch)]
        # The library sorts blocks of 50 batches from long to short; only the first batch and a short last one stay.
        middle = range(1, len(rows) // self.batch)
        shuffled = [1 + i for i in torch.randperm(len(middle), generator=generator).tolist()]
        order = [0, *shuffled, *range(1 + len(middle), len(batches))]
        return iter([i for k in order for i in batches[k]])
