"""Score fusion: Q-Router's weighted experts (tier 1, prompt of its Fig. 4) and AgenticIQA's level distribution (Eq. 7).

Q-Router gives the constants of `weight = base (1 + .5 specialty + .3 agreement + .2 confidence - .3 out of bounds)` and
lets a language model fill in the four terms; here each is defined in code (`Terms`, and the functions that make them).
Departures: weights are renormalized (two published rows do not sum to 1) and the score stays a float beside the
published integer, whose ties cost rank correlation.

AgenticIQA prints `q = sum_c alpha_c p_c c`, which is no mean: alpha and p each sum to 1, so the sum cannot exceed
max_c alpha_c c. Its own example (tools 2.9871, final 2.9542) is impossible in that form and natural when divided by
sum_c alpha_c p_c, the default here; the printed form is kept by name for comparison.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt

from vqa2.core.config import spec

ACR = (5.0, 4.0, 3.0, 2.0, 1.0)
"""The 1-5 values of the five levels, best first, as `core.scale.LEVELS` orders them."""

Form = Literal["normalized", "printed", "uniform", "tools", "levels", "average"]


@spec
class Adjustment:
    """Constants of the adjustment formula, the spread (points on 0-100) above which the median takes over, and the
    calibration error (MOS points) at which an expert has no confidence."""

    specialty: Annotated[float, Ge(0)]
    agreement: Annotated[float, Ge(0)]
    confidence: Annotated[float, Ge(0)]
    out_of_bounds: Annotated[float, Ge(0)]
    spread: Annotated[float, Gt(0)]
    worst_rmse: Annotated[float, Gt(0)]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The four terms of one expert on one clip, each in [0, 1]."""

    specialty: float
    agreement: float
    confidence: float
    out_of_bounds: float


@dataclass(frozen=True, kw_only=True)
class Fused:
    """`score100`: the float; `rounded`: the published integer; `rule`: how it was made; `weights` sum to 1 and
    `contributions` (weight x score) to the score where the rule is the mean."""

    score100: float
    rounded: int
    rule: Literal["one expert", "weighted mean", "weighted median"]
    spread: float
    weights: dict[str, float]
    contributions: dict[str, float]


def specialty_match(suspected: Sequence[str], strengths: Sequence[str]) -> float:
    """The share of the suspected distortions that the expert is declared strong on; 0 where nothing is suspected."""
    return len(set(suspected) & set(strengths)) / len(set(suspected)) if suspected else 0.0


def agreement(name: str, scores: Mapping[str, float], spread: float) -> float:
    """1 where an expert stands on the median of the others, falling linearly to 0 at a distance of `spread`; 0 for an
    expert that stands alone."""
    others = [score for other, score in scores.items() if other != name]
    if not others:
        return 0.0
    return 1.0 - min(1.0, abs(scores[name] - float(np.median(others))) / spread)


def confidence(rmse: float, worst_rmse: float) -> float:
    """How well the expert's calibration fits its data: 1 at an error of 0 MOS points, falling linearly to 0 at
    `worst_rmse`."""
    return max(0.0, 1.0 - rmse / worst_rmse)


def out_of_bounds(outside: float) -> float:
    """How far the raw score lies outside the range that its calibration was fitted on, in widths of it, at most 1."""
    return min(1.0, outside)


def adjusted(base: float, terms: Terms, constants: Adjustment) -> float:
    """The prompt's formula, before renormalization."""
    factor = (
        1.0
        + constants.specialty * terms.specialty
        + constants.agreement * terms.agreement
        + constants.confidence * terms.confidence
        - constants.out_of_bounds * terms.out_of_bounds
    )
    return base * factor


def normalized(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights that sum to 1; equal ones where all are 0."""
    total = math.fsum(weights.values())
    if total <= 0:
        return {name: 1.0 / len(weights) for name in weights}
    return {name: weight / total for name, weight in weights.items()}


def fuse_experts(scores: Mapping[str, float], weights: Mapping[str, float], spread: float) -> Fused:
    """Scores on 0-100 by expert with weights of any sum: the weighted mean, or the weighted median where the scores
    lie more than `spread` points apart."""
    assert scores, "nothing to fuse"
    assert scores.keys() == weights.keys()
    shares = normalized(weights)
    apart = max(scores.values()) - min(scores.values())
    mean = math.fsum(shares[name] * score for name, score in scores.items())
    rule, value = "weighted mean", mean
    if len(scores) == 1:
        rule = "one expert"
    elif apart > spread:
        rule, value = "weighted median", weighted_median(scores, shares)
    return Fused(
        score100=value,
        rounded=min(100, max(0, math.floor(value + 0.5))),
        rule=rule,
        spread=apart,
        weights=shares,
        contributions={name: shares[name] * score for name, score in scores.items()},
    )


def weighted_median(scores: Mapping[str, float], shares: Mapping[str, float]) -> float:
    """The lowest score at which the cumulated weight reaches one half; the middle of two where it is met exactly."""
    ordered = sorted((score, shares[name]) for name, score in scores.items() if shares[name] > 0)
    cumulated = 0.0
    for index, (score, share) in enumerate(ordered):
        cumulated += share
        if math.isclose(cumulated, 0.5, abs_tol=1e-12) and index + 1 < len(ordered):
            return (score + ordered[index + 1][0]) / 2
        if cumulated > 0.5:
            return score
    return ordered[-1][0]


def tool_weights(tools: float, eta: float) -> list[float]:
    """alpha_c, best level first: how near each level is to the tools' mean on 1-5 (AgenticIQA, Eq. 7; eta is 1)."""
    raw = [-eta * (tools - c) ** 2 for c in ACR]
    top = max(raw)
    return list(normalized({str(i): math.exp(x - top) for i, x in enumerate(raw)}).values())


def fuse_levels(tools: float | None, levels: Sequence[float] | None, eta: float, form: Form) -> float:
    """The score on 1-5 from the tools' mean on 1-5 and the probabilities of the five levels (best first).

    Where one side is missing the other alone decides, whatever the form. `printed` is the paper's formula as it stands
    and may leave 1-5; `uniform` sets alpha to 1/5 (the paper's ablation), which leaves the levels' mean; `average` is
    the plain mean of both sides, a baseline.
    """
    assert tools is not None or levels is not None, "nothing to fuse"
    if levels is None:
        assert tools is not None
        return tools
    assert len(levels) == 5
    mean = math.fsum(p * c for p, c in zip(levels, ACR)) / math.fsum(levels)
    if tools is None or form in ("levels", "uniform"):
        return mean
    if form == "tools":
        return tools
    if form == "average":
        return (tools + mean) / 2
    joint = [a * p for a, p in zip(tool_weights(tools, eta), levels)]
    total = math.fsum(w * c for w, c in zip(joint, ACR))
    if form == "printed":
        return total
    # Far apart, every product can underflow to 0: neither side then tells more than their middle.
    share = math.fsum(joint)
    return total / share if share > 0 else (tools + mean) / 2
