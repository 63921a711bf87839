"""What a tier costs: a program that runs anew, experts, gate and localization with it, on a few clips."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vqa2.agents.trace import Trace
from vqa2.experts.measure import Rated


@dataclass(frozen=True, kw_only=True)
class Tier:
    """A program on `n` clips: mean and largest seconds a clip, mean numbers of experts, of calls of our own model (the
    gate is one) and of localizations."""

    method: str
    n: int
    seconds: float
    most: float
    experts: float
    models: float
    localizations: float


def timed(
    method: str, ask: Callable[[Rated], Trace], items: Sequence[Rated], advance: Callable[[str, int, int], None]
) -> Tier:
    """The program on each clip, after one clip for which weights are loaded and which does not count."""
    ask(items[0])
    rows = []
    for done, item in enumerate(items, 1):
        trace = ask(item)
        spent, places = trace.spending, sum(step.kind == "localize" for step in trace.steps)
        rows.append((spent["seconds"], spent["experts"], spent["model_calls"], places))
        advance(f"timed: {method}", done, len(items))
    seconds, experts, models, places = np.mean(rows, 0).tolist()
    return Tier(
        method=method,
        n=len(items),
        seconds=seconds,
        most=max(row[0] for row in rows),
        experts=experts,
        models=models,
        localizations=places,
    )
