"""Fusion against the papers' own numbers, computed by hand; each term of the adjustment formula by its definition."""

import math

import pytest

from vqa2.agents.fusion import (
    ACR,
    Adjustment,
    Terms,
    adjusted,
    agreement,
    confidence,
    fuse_experts,
    fuse_levels,
    out_of_bounds,
    specialty_match,
    tool_weights,
    weighted_median,
)

CONSTANTS = Adjustment(
    specialty=0.5, agreement=0.3, confidence=0.2, out_of_bounds=0.3, spread=20.0, worst_rmse=30.0
)  # fmt: skip
TOOLS, FINAL = 2.9871, 2.9542
FAIR = (0.0, 0.0, 1.0, 0.0, 0.0)


def test_the_papers_example_is_reached_by_the_normalized_form_and_never_by_the_printed_one():
    """AgenticIQA, Fig. 6: tools 2.9871, final 2.9542. The printed sum is at most max_c alpha_c c for any levels."""
    most = max(a * c for a, c in zip(tool_weights(TOOLS, 1.0), ACR))
    assert most == pytest.approx(1.692, abs=2e-3)
    assert most < FINAL
    assert fuse_levels(TOOLS, FAIR, 1.0, "printed") == pytest.approx(most)
    # A model that leans to Fair and from there a little to Poor gives the published final score.
    lo, hi = 0.0, 0.5
    for _ in range(60):
        poor = (lo + hi) / 2
        made = fuse_levels(TOOLS, (0.0, 0.15, 0.85 - poor, poor, 0.0), 1.0, "normalized")
        lo, hi = (poor, hi) if made > FINAL else (lo, poor)
    assert made == pytest.approx(FINAL, abs=5e-5)
    assert 0 < poor < 0.3


def test_normalized_fusion_by_hand():
    alpha = [math.exp(-((2.0 - c) ** 2)) for c in ACR]
    p = (0.1, 0.2, 0.3, 0.25, 0.15)
    want = sum(a * q * c for a, q, c in zip(alpha, p, ACR)) / sum(a * q for a, q in zip(alpha, p))
    assert fuse_levels(2.0, p, 1.0, "normalized") == pytest.approx(want)
    assert fuse_levels(2.0, p, 1.0, "uniform") == pytest.approx(sum(q * c for q, c in zip(p, ACR)))
    assert fuse_levels(2.0, p, 1.0, "average") == pytest.approx((2.0 + sum(q * c for q, c in zip(p, ACR))) / 2)
    assert fuse_levels(2.0, p, 1.0, "tools") == 2.0
    assert fuse_levels(2.0, None, 1.0, "normalized") == 2.0
    assert fuse_levels(None, p, 1.0, "normalized") == pytest.approx(sum(q * c for q, c in zip(p, ACR)))


def test_normalized_fusion_stays_on_the_scale_and_rises_with_both_sides():
    steps = [1 + 0.1 * i for i in range(41)]
    made = [fuse_levels(t, (0.2,) * 5, 1.0, "normalized") for t in steps]
    assert all(1.0 <= m <= 5.0 for m in made)
    assert all(b > a for a, b in zip(made, made[1:]))
    better = fuse_levels(3.0, (0.1, 0.4, 0.3, 0.1, 0.1), 1.0, "normalized")
    assert better > fuse_levels(3.0, (0.1, 0.1, 0.3, 0.4, 0.1), 1.0, "normalized")
    # Certain of opposite ends, with an eta at which every product underflows.
    assert fuse_levels(5.0, (0.0, 0.0, 0.0, 0.0, 1.0), 1e4, "normalized") == 3.0


def test_the_adjustment_spans_the_published_range():
    worst = adjusted(1.0, Terms(specialty=0, agreement=0, confidence=0, out_of_bounds=1), CONSTANTS)
    best = adjusted(1.0, Terms(specialty=1, agreement=1, confidence=1, out_of_bounds=0), CONSTANTS)
    assert (worst, best) == (pytest.approx(0.7), pytest.approx(2.0))
    assert adjusted(0.25, Terms(specialty=0.5, agreement=0, confidence=0.5, out_of_bounds=0.1), CONSTANTS) == (
        pytest.approx(0.25 * (1 + 0.25 + 0.1 - 0.03))
    )


def test_each_term_by_its_definition():
    assert specialty_match(["noise", "blurs"], ["noise", "contrast"]) == 0.5
    assert specialty_match([], ["noise"]) == 0.0
    scores = {"a": 50.0, "b": 60.0, "c": 90.0}
    assert agreement("a", scores, 20.0) == 0.0  # 25 from the median 75 of the others
    assert agreement("b", scores, 20.0) == pytest.approx(0.5)
    assert agreement("a", {"a": 50.0}, 20.0) == 0.0
    assert confidence(0.0, 30.0) == 1.0
    assert confidence(15.0, 30.0) == 0.5
    assert confidence(40.0, 30.0) == 0.0
    assert (out_of_bounds(0.0), out_of_bounds(0.25), out_of_bounds(7.0)) == (0.0, 0.25, 1.0)


def test_mean_until_twenty_points_then_median():
    weights = {"a": 0.25, "b": 0.25, "c": 0.4}  # as the published UGC row, they do not sum to 1
    near = fuse_experts({"a": 50.0, "b": 60.0, "c": 70.0}, weights, 20.0)
    assert near.rule == "weighted mean"
    assert near.score100 == pytest.approx((0.25 * 50 + 0.25 * 60 + 0.4 * 70) / 0.9)
    assert near.rounded == 62
    assert sum(near.weights.values()) == pytest.approx(1.0)
    assert sum(near.contributions.values()) == pytest.approx(near.score100)
    far = fuse_experts({"a": 10.0, "b": 60.0, "c": 70.0}, weights, 20.0)
    assert (far.rule, far.score100) == ("weighted median", 60.0)
    one = fuse_experts({"a": 33.5}, {"a": 0.0}, 20.0)
    assert (one.rule, one.score100, one.rounded) == ("one expert", 33.5, 34)


def test_weighted_median():
    assert weighted_median({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 0.6, "b": 0.2, "c": 0.2}) == 1.0
    assert weighted_median({"a": 1.0, "b": 2.0}, {"a": 0.5, "b": 0.5}) == 1.5
    assert weighted_median({"a": 1.0, "b": 2.0, "c": 9.0}, {"a": 0.0, "b": 0.5, "c": 0.5}) == 5.5
