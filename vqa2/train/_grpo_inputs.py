"""Prompts on their way to the GRPO trainer: rows -> collated clean batch and perturbed copies of its videos.

Shapes: P prompts, L prompt tokens (padded on the left).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from vqa2.core.errors import DataError
from vqa2.core.records import Instruction
from vqa2.data.video import Video
from vqa2.rewards.temporal import Temporal
from vqa2.train._perturb import perturb


class Collate(Protocol):
    """Reads clips and lays out prompts, padded on the left; `perturb(video, row)` is applied to the decoded clip."""

    def collate(
        self, rows: Sequence[Instruction], perturb: Callable[[Video, Instruction], Video] | None = None
    ) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Pairs:
    """Rows -> the collated clean batch and, where the temporal reward asks for it, the perturbed copies of its videos.

    A clip's perturbation depends on the seed and its row id: workers and resumed runs draw the same.
    """

    collate: Collate
    temporal: Temporal | None
    seed: int

    def __call__(self, rows: list[Instruction]) -> dict[str, Any]:
        videos = [row for row in rows if row.kind == "video"]
        disturbed = self.collate.collate(videos, self._perturb) if self.temporal and videos else None
        return {"clean": self.collate.collate(rows), "disturbed": disturbed}

    def _perturb(self, video: Video, row: Instruction) -> Video:
        assert self.temporal is not None
        return perturb(video, self.temporal.perturbation, np.random.default_rng([self.seed, *row.id.encode()]))


def check_rows(rows: Sequence[Instruction]) -> None:
    """DataError naming the first row that GRPO cannot use: no MOS to compare with, or an answer already written."""
    if not rows:
        raise DataError("grpo: no rows to train on")
    for row in rows:
        if row.mos is None:
            raise DataError(f"{row.id}: a GRPO row needs a MOS; keep rated clips only")
        if row.turns[-1].assistant:
            raise DataError(f"{row.id}: a GRPO row ends with a question; its last turn has an answer")
