"""The only arithmetic of quality: scales, levels, the level score and the correlation metrics.

Scales: `mos` 0-100 (min-max scaled per dataset), `score01` 0-1, `acr` 1-5 (ITU-T P.910 ACR, what GRPO answers in).
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from vqa2.core.records import Metric

LEVELS = ("high", "good", "fair", "poor", "low")
"""ACR levels, best first, as VQA² words them (20-point bins of MOS on 0-100)."""

LEVEL_WEIGHTS = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Weights of the level softmax (VQA² paper; the released scorer's 1 .8 .6 .4 .2 is affine to it)."""


def level_of(mos: float) -> str:
    """The level word of a MOS on 0-100. Lower bin edges are inclusive; 100 belongs to `high`."""
    assert 0.0 <= mos <= 100.0, f"MOS must lie in [0, 100], got {mos}"
    return LEVELS[4 - min(4, int(mos // 20))]


def level_score(probabilities: Sequence[float]) -> float:
    """score01 = sum of weight x probability over high .. low (VQA², section 4)."""
    assert len(probabilities) == 5
    return float(np.dot(probabilities, LEVEL_WEIGHTS))


def mos_to_acr(mos: float) -> float:
    """MOS on 0-100 to the 1-5 scale that the GRPO prompt names. VQAThinker's label file divides by 20 instead, which
    leaves labels below the scale it asks for; see docs/grpo.md."""
    return 1.0 + mos / 25.0


def acr_to_score01(acr: float) -> float:
    """The 1-5 scale to score01."""
    return (acr - 1.0) / 4.0


def _srcc(x: np.ndarray, y: np.ndarray) -> float:
    return float(stats.spearmanr(x, y).statistic)


def _plcc(x: np.ndarray, y: np.ndarray) -> float:
    return float(stats.pearsonr(x, y).statistic)


def _krcc(x: np.ndarray, y: np.ndarray) -> float:
    return float(stats.kendalltau(x, y).statistic)


def _rmse(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.sqrt(np.mean((x - y) ** 2)))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "SRCC": _srcc, "PLCC": _plcc, "KRCC": _krcc, "RMSE": _rmse,
}


def quality_metrics(predicted: Sequence[float], target: Sequence[float], *, bootstrap: int, seed: int) -> tuple[Metric, ...]:
    """SRCC, PLCC, KRCC and RMSE of raw scores (no logistic fit), each with n and a 95 % bootstrap interval.

    Both arguments must be on the same scale for RMSE to have a meaning. With fewer than 3 items, a constant side or a
    non-finite value a metric is undefined: value None and the reason in `note`.
    """
    x, y = np.asarray(predicted, float), np.asarray(target, float)
    assert x.shape == y.shape and x.ndim == 1
    reason = _undefined(x, y)
    if reason:
        return tuple(Metric(name=name, value=None, n=len(x), note=reason) for name in METRICS)
    out = []
    for name, fn in METRICS.items():
        lo, hi = bootstrap_interval(lambda i, fn=fn: fn(x[i], y[i]), len(x), bootstrap, seed)
        out.append(Metric(name=name, value=fn(x, y), n=len(x), lo=lo, hi=hi))
    return tuple(out)


def _undefined(x: np.ndarray, y: np.ndarray) -> str:
    if len(x) < 3:
        return f"undefined: {len(x)} items, 3 needed"
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return "undefined: non-finite values"
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return "undefined: constant " + ("predictions" if np.ptp(x) == 0 else "targets")
    return ""


def accuracy(correct: Sequence[float], name: str, *, bootstrap: int, seed: int) -> Metric:
    """Mean of per-item marks in [0, 1] with n and a 95 % bootstrap interval; undefined for no items."""
    marks = np.asarray(correct, float)
    if not len(marks):
        return Metric(name=name, value=None, n=0, note="undefined: no items")
    lo, hi = bootstrap_interval(lambda i: float(marks[i].mean()), len(marks), bootstrap, seed)
    return Metric(name=name, value=float(marks.mean()), n=len(marks), lo=lo, hi=hi)


def bootstrap_interval(fn: Callable[[np.ndarray], float], n: int, repeats: int, seed: int) -> tuple[float, float]:
    """Percentile bootstrap over items; resamples on which `fn` is not finite (all items equal) are drawn again."""
    rng, values = np.random.default_rng(seed), []
    with np.errstate(all="ignore"):
        for _ in range(repeats * 10):
            if len(values) == repeats:
                break
            index = rng.integers(0, n, n)
            value = fn(index) if len(set(index)) > 1 or n == 1 else np.nan
            if np.isfinite(value):
                values.append(value)
    lo, hi = np.percentile(values, [2.5, 97.5]) if values else (np.nan, np.nan)
    return float(lo), float(hi)
