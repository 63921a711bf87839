"""The experts that a learned router chooses among, and what they say of its clips."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from vqa2.core.errors import DataError
from vqa2.core.progress import bars
from vqa2.core.run import say, world_size
from vqa2.experts.base import Reading
from vqa2.experts.measure import Rated, measure, recorded
from vqa2.experts.pool import Pool, PoolSpec


@dataclass(frozen=True, kw_only=True)
class Panel:
    """`curves`: identity with calibration of each expert, in the gate's order; `scores [n,E]`, calibrated, nan where an
    expert gave none."""

    curves: dict[str, str]
    scores: torch.Tensor


def read(made: PoolSpec, kept: Path, items: Sequence[Rated]) -> Panel:
    """Readings are kept in `kept`; how many are missing and why is said. Of several processes none asks an expert."""
    with made.open() as pool:
        names = _calibrated(pool, made.calibration)
        if world_size() > 1:
            found = recorded(pool, items, kept)
        else:
            with bars() as shown:
                found = measure(pool, items, kept, partial(shown.at, "experts"))
        failures = Counter(f"{r.expert}: {r.failure}" for name in names for r in found[name] if r.raw is None)
        for reason, count in sorted(failures.items()):
            say(f"{reason} on {count} of {len(items)} clips")
        rows = [[_score(pool, found[name][i]) for name in names] for i in range(len(items))]
        return Panel(curves={name: pool.bound(name) for name in names}, scores=torch.tensor(rows, dtype=torch.float32))


def _score(pool: Pool, reading: Reading) -> float:
    return float("nan") if reading.raw is None else pool.calibrated(reading).score


def _calibrated(pool: Pool, folder: str) -> list[str]:
    """The experts that rated media suffice for; those without a calibration are named with the reason."""
    names = []
    for name in sorted(pool.experts):
        info, curve = pool.info(name), pool.calibration_of(name)
        if info.reference or info.prompt:
            continue
        if isinstance(curve, str):
            say(f"{name}: left out: {curve}")
            continue
        names.append(name)
    if len(names) < 2:
        raise DataError(
            f"{folder}: {len(names)} calibrated experts, at least 2 are needed to choose among; "
            "run `python -m vqa2.experts` first"
        )
    return names
