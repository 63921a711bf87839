"""The only arithmetic of quality: scales, levels, the level score and the correlation metrics.

Scales: `mos` 0-100 (min-max scaled per dataset), `score01` 0-1, `acr` 1-5 (ITU-T P.910 ACR, what GRPO answers in).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import scipy

from vqa2.core.fit import NoFit, map_logistic4
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
    return float(scipy.stats.spearmanr(x, y).statistic)


def _plcc(x: np.ndarray, y: np.ndarray) -> float:
    return float(scipy.stats.pearsonr(x, y).statistic)


def _krcc(x: np.ndarray, y: np.ndarray) -> float:
    return float(scipy.stats.kendalltau(x, y).statistic)


def _rmse(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.sqrt(np.mean((x - y) ** 2)))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "SRCC": _srcc, "PLCC raw": _plcc, "KRCC": _krcc, "RMSE raw": _rmse,
}  # fmt: skip
FITTED = {"PLCC raw": "PLCC logistic-4", "RMSE raw": "RMSE logistic-4"}
"""Metrics that are also reported after the 4-parameter logistic of vqa2/core/fit.py, and their names then."""


def quality_metrics(
    predicted: Sequence[float], target: Sequence[float], *, bootstrap: int, seed: int
) -> tuple[Metric, ...]:
    """METRICS of raw scores, and those in FITTED also after the logistic; each with n and a 95 % bootstrap interval.

    Both arguments must be on the same scale for the raw RMSE to have a meaning; see `quality_metric` for what is
    undefined. The logistic is fitted once, to all items; its intervals resample the mapped scores.
    """
    made = []
    for name in METRICS:
        made.append(quality_metric(name, predicted, target, bootstrap=bootstrap, seed=seed))
        if name in FITTED:
            made.append(_fitted(name, predicted, target, bootstrap, seed))
    return tuple(made)


def quality_metric(
    name: str, predicted: Sequence[float], target: Sequence[float], *, bootstrap: int, seed: int
) -> Metric:
    """One of METRICS. Undefined (value None, the reason in `note`) with fewer than 3 items or a non-finite value; a
    correlation also where one side is constant (the raw error is defined there too)."""
    x, y = _pair(predicted, target)
    reason = _undefined(name, x, y)
    if reason:
        return Metric(name=name, value=None, n=len(x), note=reason)

    def resampled(index: np.ndarray) -> float:
        return np.nan if _undefined(name, x[index], y[index]) else METRICS[name](x[index], y[index])

    lo, hi = bootstrap_interval(resampled, len(x), bootstrap, seed)
    return Metric(name=name, value=METRICS[name](x, y), n=len(x), lo=lo, hi=hi)


def paired_difference(
    name: str,
    first: Sequence[float],
    second: Sequence[float],
    target: Sequence[float],
    *,
    bootstrap: int,
    seed: int,
) -> Metric:
    """One of METRICS of the first predictions minus that of the second, on the same items (see `difference_metric`).
    Undefined as in `quality_metric`."""
    (a, y), (b, _) = _pair(first, target), _pair(second, target)
    reason = _undefined(name, a, y) or _undefined(name, b, y)
    if reason:
        return Metric(name=name, value=None, n=len(y), note=reason)

    def difference(index: np.ndarray) -> float:
        if _undefined(name, a[index], y[index]) or _undefined(name, b[index], y[index]):
            return np.nan
        return METRICS[name](a[index], y[index]) - METRICS[name](b[index], y[index])

    return difference_metric(name, difference, len(y), bootstrap=bootstrap, seed=seed)


def paired_differences(
    first: Sequence[float], second: Sequence[float], target: Sequence[float], *, bootstrap: int, seed: int
) -> tuple[Metric, ...]:
    """`paired_difference` of every metric of `quality_metrics`. Each side has its own logistic, fitted once to all
    items."""
    made = []
    for name in METRICS:
        made.append(paired_difference(name, first, second, target, bootstrap=bootstrap, seed=seed))
        if name in FITTED:
            made.append(_fitted_difference(name, (first, second), target, bootstrap, seed))
    return tuple(made)


def _fitted_difference(
    name: str, sides: Sequence[Sequence[float]], target: Sequence[float], bootstrap: int, seed: int
) -> Metric:
    mapped, warnings = [], []
    for x, y in (_pair(side, target) for side in sides):
        reason = _undefined(name, x, y)
        try:
            fit, warning = map_logistic4(x, y) if not reason else (x, "")
        except NoFit as err:
            reason = f"undefined: {err}"
        if reason:
            return Metric(name=FITTED[name], value=None, n=len(y), note=reason)
        mapped.append(fit)
        warnings.append(warning)
    made = paired_difference(name, *mapped, target, bootstrap=bootstrap, seed=seed)
    return replace(made, name=FITTED[name], note="; ".join(filter(None, [made.note, *dict.fromkeys(warnings)])))


def difference_metric(
    name: str, difference: Callable[[np.ndarray], float], n: int, *, bootstrap: int, seed: int
) -> Metric:
    """A difference between two predictors on n items, `difference(index)` of the items of a resample.

    Interval and two-sided p value (in `note`) from a paired bootstrap: both sides are resampled together, so that what
    they share cancels. Undefined without items or resamples.
    """
    drawn = resampled_values(difference, n, bootstrap, seed) if n else np.array([])
    if not len(drawn):
        reason = "no items" if not n else "bootstrap is 0" if not bootstrap else "no usable resample"
        return Metric(name=name, value=None, n=n, note=f"undefined: {reason}")
    below, above = (1 + np.sum(drawn <= 0)) / (len(drawn) + 1), (1 + np.sum(drawn >= 0)) / (len(drawn) + 1)
    lo, hi = np.percentile(drawn, [2.5, 97.5])
    note = f"p = {min(1.0, 2 * min(below, above)):.3g} (paired bootstrap, {len(drawn)} resamples)"
    return Metric(name=name, value=difference(np.arange(n)), n=n, lo=float(lo), hi=float(hi), note=note)


def _fitted(name: str, predicted: Sequence[float], target: Sequence[float], bootstrap: int, seed: int) -> Metric:
    x, y = _pair(predicted, target)
    reason, warning, mapped = _undefined(name, x, y), "", x
    if not reason:
        try:
            mapped, warning = map_logistic4(x, y)
        except NoFit as err:
            reason = f"undefined: {err}"
    if reason:
        return Metric(name=FITTED[name], value=None, n=len(x), note=reason)
    made = quality_metric(name, mapped, y, bootstrap=bootstrap, seed=seed)
    return replace(made, name=FITTED[name], note="; ".join(filter(None, [made.note, warning])))


def _pair(predicted: Sequence[float], target: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(predicted, float), np.asarray(target, float)
    assert x.ndim == 1
    assert x.shape == y.shape
    return x, y


def _undefined(name: str, x: np.ndarray, y: np.ndarray) -> str:
    if len(x) < 3:
        return f"undefined: {len(x)} items, 3 needed"
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return "undefined: non-finite values"
    if name != "RMSE raw" and (np.ptp(x) == 0 or np.ptp(y) == 0):
        return "undefined: constant " + ("predictions" if np.ptp(x) == 0 else "targets")
    return ""


def accuracy(correct: Sequence[float], name: str, *, bootstrap: int, seed: int) -> Metric:
    """Mean of per-item marks in [0, 1] with n and a 95 % bootstrap interval; undefined for no items."""
    marks = np.asarray(correct, float)
    if not len(marks):
        return Metric(name=name, value=None, n=0, note="undefined: no items")
    lo, hi = bootstrap_interval(lambda i: float(marks[i].mean()), len(marks), bootstrap, seed)
    return Metric(name=name, value=float(marks.mean()), n=len(marks), lo=lo, hi=hi)


def bootstrap_interval(
    fn: Callable[[np.ndarray], float], n: int, repeats: int, seed: int
) -> tuple[float | None, float | None]:
    """95 % percentile bootstrap over items. (None, None) where there is no usable resample, for example with `repeats`
    0."""
    values = resampled_values(fn, n, repeats, seed)
    if not len(values):
        return None, None
    lo, hi = np.percentile(values, [2.5, 97.5])
    return float(lo), float(hi)


def resampled_values(fn: Callable[[np.ndarray], float], n: int, repeats: int, seed: int) -> np.ndarray:
    """`fn` of `repeats` resamples of n indices; those on which it is not finite are drawn again, at most ten times as
    many in all."""
    rng, values = np.random.default_rng(seed), []
    for _ in range(repeats * 10):
        if len(values) == repeats:
            break
        value = fn(rng.integers(0, n, n))
        if np.isfinite(value):
            values.append(value)
    return np.array(values)
