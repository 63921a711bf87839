"""Quality arithmetic against scipy, published golden numbers, and by hand at the edges."""

import csv
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from vqa2.core.scale import (
    LEVELS,
    accuracy,
    acr_to_score01,
    bootstrap_interval,
    level_of,
    level_score,
    mos_to_acr,
    quality_metric,
    quality_metrics,
)

DOVER = Path(__file__).parents[2] / ".." / "shared" / "data" / "labels" / "DOVER-predictions"


def values(metrics):
    return {m.name: m.value for m in metrics}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_metrics_equal_scipy_with_ties(seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 12, 60).astype(float)
    x = y + rng.normal(0, 4, 60).round()
    found = values(quality_metrics(x, y, bootstrap=0, seed=0))
    assert found["SRCC"] == stats.spearmanr(x, y).statistic
    assert found["PLCC"] == stats.pearsonr(x, y).statistic
    assert found["KRCC"] == stats.kendalltau(x, y, variant="b").statistic
    assert found["RMSE"] == pytest.approx(np.linalg.norm(x - y) / np.sqrt(60), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "n", "srcc", "krcc", "plcc"),
    [("val-kv1k", 1200, 0.88250, 0.70099, 0.88230), ("val-livevqc", 585, 0.83190, 0.64203, 0.85393)],
)
def test_metrics_reproduce_dover_on_real_ratings(name, n, srcc, krcc, plcc):
    if not DOVER.is_dir():
        pytest.skip("shared label files are not here")
    with (DOVER / f"{name}.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    technical, aesthetic, mos = (np.array([float(r[k]) for r in rows]) for k in ("fragments", "resize", "mos"))
    fused = 0.6104 * stats.zscore(technical) + 0.3896 * stats.zscore(aesthetic)
    metrics = quality_metrics(fused, mos, bootstrap=0, seed=0)
    assert {m.n for m in metrics} == {n}
    found = values(metrics)
    assert found["SRCC"] == pytest.approx(srcc, abs=1e-5)
    assert found["KRCC"] == pytest.approx(krcc, abs=1e-5)
    assert found["PLCC"] == pytest.approx(plcc, abs=1e-5)


def test_interval_equals_scipy_bootstrap():
    rng = np.random.default_rng(3)
    y = rng.random(20)
    x = y + rng.normal(0, 0.4, 20)
    mine = quality_metric("PLCC", x, y, bootstrap=3000, seed=0)
    theirs = stats.bootstrap(
        (x, y),
        lambda a, b: stats.pearsonr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=3000,
        method="percentile",
        rng=1,
    ).confidence_interval
    assert mine.lo == pytest.approx(theirs.low, abs=0.025)
    assert mine.hi == pytest.approx(theirs.high, abs=0.025)
    assert mine.lo < mine.value < mine.hi


def test_constant_predictions_are_undefined_with_reason_but_have_an_error():
    found = {m.name: m for m in quality_metrics([50, 50, 50, 50], [10, 40, 60, 90], bootstrap=50, seed=0)}
    for name in ("SRCC", "PLCC", "KRCC"):
        assert found[name].value is None
        assert found[name].note == "undefined: constant predictions"
    assert found["RMSE"].value == pytest.approx(np.sqrt((1600 + 100 + 100 + 1600) / 4))


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([1, 2], [1, 2], "undefined: 2 items, 3 needed"),
        ([], [], "undefined: 0 items, 3 needed"),
        ([1, 2, 3], [5, 5, 5], "undefined: constant targets"),
        ([1, np.nan, 3], [1, 2, 3], "undefined: non-finite values"),
    ],
)
def test_undefined_metrics_say_why(x, y, reason):
    metric = quality_metric("SRCC", x, y, bootstrap=10, seed=0)
    assert (metric.value, metric.lo, metric.hi, metric.note, metric.n) == (None, None, None, reason, len(x))


def test_few_items_with_ties_give_finite_intervals_without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = quality_metrics([1, 1, 1, 2], [3, 3, 4, 4], bootstrap=200, seed=0)
    assert all(np.isfinite([m.value, m.lo, m.hi]).all() for m in metrics)


def test_intervals_depend_on_the_seed_alone():
    x, y = np.arange(20.0), np.random.default_rng(0).random(20)
    assert quality_metrics(x, y, bootstrap=50, seed=4) == quality_metrics(x, y, bootstrap=50, seed=4)
    assert quality_metrics(x, y, bootstrap=50, seed=4) != quality_metrics(x, y, bootstrap=50, seed=5)


def test_accuracy_of_two_items_spans_the_whole_range():
    metric = accuracy([1, 0], "a", bootstrap=500, seed=0)
    assert (metric.value, metric.lo, metric.hi, metric.n) == (0.5, 0.0, 1.0, 2)


def test_accuracy_of_nothing_is_undefined():
    assert accuracy([], "a", bootstrap=10, seed=0).note == "undefined: no items"


def test_interval_without_usable_resamples_is_absent():
    assert bootstrap_interval(lambda i: 1.0, 5, 0, 0) == (None, None)
    assert bootstrap_interval(lambda i: np.nan, 5, 10, 0) == (None, None)


def test_level_edges_are_inclusive_below():
    assert [level_of(m) for m in (0, 19.999, 20, 40, 60, 80, 100)] == [
        "low",
        "low",
        "poor",
        "fair",
        "good",
        "high",
        "high",
    ]
    with pytest.raises(AssertionError):
        level_of(100.001)


def test_level_score_is_the_weighted_sum_of_the_paper():
    for index, expected in enumerate((1.0, 0.75, 0.5, 0.25, 0.0)):
        assert level_score(np.eye(len(LEVELS))[index]) == expected
    assert level_score([0.1, 0.2, 0.3, 0.25, 0.15]) == pytest.approx(0.1 + 0.15 + 0.15 + 0.0625)


def test_scales_meet_at_their_ends():
    assert (mos_to_acr(0), mos_to_acr(100)) == (1.0, 5.0)
    assert acr_to_score01(mos_to_acr(37.5)) == pytest.approx(0.375)
