"""Methods that need no agent, on a grid of calibrated scores: each expert, means, one expert per type, the oracle."""

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import nnls

from vqa2.core.records import Metric
from vqa2.core.scale import paired_difference, quality_metric

DIGITS = 9
"""Of a score on 0-100; what differs less is a tie."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One method on one set. `over_single`, `over_mean`: SRCC minus that of the expert that is best on the training
    rows, and of the plain mean. `experts` and `models` (calls of our own model) are means per clip, None where none
    was run."""

    method: str
    srcc: Metric
    plcc: Metric
    over_single: Metric
    over_mean: Metric
    experts: float | None = None
    models: float | None = None


@dataclass(frozen=True)
class Grid:
    """Calibrated scores `[clips, experts]` (nan where an expert gave none) and targets."""

    names: tuple[str, ...]
    scores: np.ndarray
    mos: np.ndarray


@dataclass
class Table:
    """Lines of one set, with what a reader must know."""

    name: str
    n: int
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Targets, the two scores to beat (the expert that is best on the training rows, the plain mean of all), and the
    bootstrap's settings."""

    mos: np.ndarray
    single: np.ndarray
    mean: np.ndarray
    bootstrap: int
    seed: int

    def line(self, method: str, scores: np.ndarray, **cost: float) -> Line:
        """Correlations over the clips with a score (their number is in the metrics) and both differences. Scores that
        differ by rounding errors are ties: the plateaus of isotonic curves give many."""
        scores, there = np.round(scores, DIGITS), ~np.isnan(scores)
        srcc, plcc = (
            quality_metric(name, scores[there], self.mos[there], bootstrap=self.bootstrap, seed=self.seed)
            for name in ("SRCC", "PLCC raw")
        )
        single, mean = self._over(scores, self.single), self._over(scores, self.mean)
        return Line(method=method, srcc=srcc, plcc=plcc, over_single=single, over_mean=mean, **cost)

    def _over(self, scores: np.ndarray, others: np.ndarray) -> Metric:
        """The paired difference over the clips that both have."""
        others = np.round(others, DIGITS)
        both = ~np.isnan(scores) & ~np.isnan(others)
        return paired_difference(
            "SRCC", scores[both], others[both], self.mos[both], bootstrap=self.bootstrap, seed=self.seed
        )


def fitted_weights(train: Grid) -> np.ndarray:
    """Non-negative least-squares weights on the training rows, scaled to sum 1: what priors could at best be."""
    filled = np.where(np.isnan(train.scores), np.nanmean(train.scores, 0), train.scores)
    weights = nnls(filled, train.mos)[0]
    return weights / weights.sum() if weights.sum() > 0 else np.full(len(weights), 1 / len(weights))


def baselines(train: Grid, test: Grid, kinds: tuple[list[str], list[str]], judge: Judge) -> list[Line]:
    """Every expert, best first, and what needs no agent. `kinds`: content types of both sides."""
    line, everyone = judge.line, float(len(test.names))
    lines = [line(f"expert {name}", test.scores[:, i], experts=1.0) for i, name in enumerate(test.names)]
    lines.sort(key=lambda made: -(made.srcc.value or -2))
    weights = fitted_weights(train)
    lines.append(line("plain mean", np.nanmean(test.scores, 1), experts=everyone))
    lines.append(line("priors only (fitted on the training rows)", _weighted(test.scores, weights), experts=everyone))
    best = {kind: best_expert(train, np.array(kinds[0]) == kind) for kind in sorted(set(kinds[0]))}
    picked = np.array([best[kind] for kind in kinds[1]])
    # The classifier looks at the raw scores of all.
    one = test.scores[np.arange(len(picked)), picked]
    lines.append(line("type classifier + one expert", one, experts=everyone))
    lines.append(line("oracle", oracle(test.scores, test.mos), experts=everyone))
    return lines


def oracle(scores: np.ndarray, mos: np.ndarray) -> np.ndarray:
    """For each clip the score nearest to its target."""
    return scores[np.arange(len(mos)), np.nanargmin(np.abs(scores - mos[:, None]), 1)]


def best_expert(train: Grid, chosen: np.ndarray) -> int:
    """The expert with the highest SRCC on the chosen training rows."""
    found = [
        quality_metric("SRCC", column[(ok := chosen & ~np.isnan(column))], train.mos[ok], bootstrap=0, seed=0).value
        for column in train.scores.T
    ]
    return int(np.argmax([-2.0 if value is None else value for value in found]))


def _weighted(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means over the experts that gave a score."""
    there = ~np.isnan(scores) * weights
    return np.nansum(scores * there, 1) / there.sum(1)
