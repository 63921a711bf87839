"""A pool and a model whose answers are on disk: what programs are compared over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqa2.core.errors import DataError
from vqa2.experts.base import Media, Reading
from vqa2.experts.measure import Rated
from vqa2.experts.pool import Pool

LEVEL_EXPERT = "vqa2"
"""The expert whose sub-scores are level probabilities: our model, as the agent's voice."""


class Recorded:
    """A pool whose tools have run: infos and calibrations are the pool's, readings come from disk by media id."""

    def __init__(self, pool: Pool, items: Sequence[Rated], readings: Mapping[str, Sequence[Reading]]) -> None:
        self._pool = pool
        self._known = {(n, i.media.id): r for n, rs in readings.items() for i, r in zip(items, rs, strict=True)}
        self.experts, self.left_out = {n: pool.experts[n] for n in readings}, pool.left_out
        self.info, self.subject, self.calibration_of = pool.info, pool.subject, pool.calibration_of

    def run(self, names: Sequence[str], media: Media, *_: Any) -> list[Reading]:
        """As `Pool.run`."""
        found = [self._known[name, media.id] for name in names]
        return [reading if reading.raw is None else self._pool.calibrated(reading) for reading in found]

    def levels(self, media_id: str) -> list[float] | None:
        """The level probabilities of our model, where it is among the experts."""
        found = self._known.get((LEVEL_EXPERT, media_id))
        return list(found.parts.values()) if found is not None and len(found.parts) == 5 else None


@dataclass
class Levels:
    """Our model's recorded level probabilities as the agent's voice."""

    pool: Recorded
    media: str = ""
    name: str = "recorded levels"
    can: tuple[str, ...] = ("levels",)

    def levels(self, path: Path, kind: Any, question: str | None) -> list[float]:
        found = self.pool.levels(self.media)
        if found is None:
            raise DataError(f"{self.media}: no recorded level probabilities")
        return found
