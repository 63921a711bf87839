"""What the parts of the rules' fusion do: each term of the adjustment and the median rule, left out or alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from vqa2.agents._baselines import Judge, Line
from vqa2.agents.fusion import Adjustment, Terms, adjusted, fuse_experts
from vqa2.agents.trace import Plain

PARTS = "parts of the rules' fusion, tier 1, equal priors"
TERMS = ("specialty", "agreement", "confidence", "out_of_bounds")


@dataclass(frozen=True)
class Weighed:
    """One clip: calibrated scores by expert, and what `router.weigh` says of each (base weight and four terms)."""

    scores: dict[str, float]
    told: dict[str, dict[str, float]]

    @classmethod
    def of(cls, working: Plain) -> "Weighed":
        """From a trace of the rules router; without scores where the clip has none."""
        readings = working.get("readings", {})
        return cls({name: r["score"] for name, r in readings.items()}, working.get("terms", {}))

    @property
    def apart(self) -> float:
        """Points between the lowest and the highest score."""
        return max(self.scores.values()) - min(self.scores.values()) if self.scores else 0.0

    def fused(self, constants: Adjustment, spread: float) -> float:
        """The score with other constants of the adjustment, the terms being what they are."""
        if not self.scores:
            return np.nan
        weights = {
            name: adjusted(values["base"], Terms(**{term: values[term] for term in TERMS}), constants)
            for name, values in self.told.items()
        }
        return fuse_experts(self.scores, weights, spread).score100


def ablation(clips: Sequence[Weighed], constants: Adjustment, judge: Judge) -> list[Line]:
    """The router as it is, without each part, and with each alone."""
    median, mean = constants.spread, inf
    variants: list[tuple[str, tuple[str, ...], float]] = [("all terms, median rule: the router", TERMS, median)]
    variants += [(f"without {term}", tuple(t for t in TERMS if t != term), median) for term in TERMS]
    variants += [("without the adjustment: median rule alone", (), median)]
    variants += [("without the median rule: all terms, mean", TERMS, mean)]
    variants += [(f"{term} alone, mean", (term,), mean) for term in TERMS]
    variants += [("neither: base weights, mean", (), mean)]
    lines = []
    for name, kept, spread in variants:
        made = replace(constants, **{term: 0.0 for term in TERMS if term not in kept})
        lines.append(judge.line(name, np.array([clip.fused(made, spread) for clip in clips])))
    return lines
