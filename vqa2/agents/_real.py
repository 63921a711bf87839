"""Recorded expert scores of real rated videos: fit on one set, test on others. No media are needed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge

from vqa2.agents._ablate import PARTS, Weighed, ablation
from vqa2.agents._baselines import Grid, Judge, Table, best_expert, fitted_weights, oracle
from vqa2.agents._spec import RouterSpec
from vqa2.agents.router import weigh
from vqa2.agents.world import Card
from vqa2.core.config import spec
from vqa2.core.errors import DataError
from vqa2.experts.calibration import Calibration, Fitted, Material, Subject, fit
from vqa2.experts.tools.replay import recorded


@spec
class RealSpec:
    """Recorded scores with MOS, one CSV per set under `folder`: `experts` names the score columns, `fit` the set that
    curves (of `form`) and weights are fitted on, `mos_range` the scale of its MOS."""

    folder: str
    experts: dict[str, str]
    fit: str
    form: Fitted
    mos_range: tuple[float, float]
    test: tuple[str, ...]
    bootstrap: Annotated[int, Ge(0)]


def real(spec_: RealSpec, router: RouterSpec) -> list[Table]:
    """Recorded scores of real videos: curves and weights from one set, tested on others. Without media there is no
    content type but one, and no expert declares strengths, so suspects stay empty; the weights are the router's own."""
    folder = Path(spec_.folder)
    names = tuple(spec_.experts)
    ids, raw, mos = _recorded(folder / spec_.fit, spec_)
    low, high = spec_.mos_range
    target = (mos - low) / (high - low) * 100
    curves = [
        fit(
            Subject(expert=name, identity=spec_.fit, higher_is_better=True),
            spec_.form,
            Material(dataset=spec_.fit, ids=tuple(ids), raw=tuple(raw[:, i]), mos=tuple(target)),
        )
        for i, name in enumerate(names)
    ]
    train = _curved(names, curves, raw, target)
    cards = {
        name: Card(name=name, cost_s=0.0, strengths=(), license="", weights="", trained_on=(), calibration="",
                   rmse=curve.rmse, reference=False, prompt=False, why_not="")
        for name, curve in zip(names, curves)
    }  # fmt: skip
    return [table for file in spec_.test for table in _real_set(spec_, router, file, train, curves, cards)]


def _real_set(
    made: RealSpec, router: RouterSpec, file: str, train: Grid, curves: Sequence[Calibration], cards: Mapping[str, Card]
) -> list[Table]:
    _, raw, mos = _recorded(Path(made.folder) / file, made)
    test = _curved(train.names, curves, raw, mos)
    mean, weights = test.scores.mean(1), fitted_weights(train)
    # The set's MOS on the scale of the scores, for the oracle's distance alone.
    moved = (mos - mos.mean()) / mos.std() * mean.std() + mean.mean()
    routed = {}
    for name, base in (("equal", np.ones(len(weights))), ("fitted", weights)):
        priors = dict(zip(train.names, base.tolist()))
        routed[name] = [_routed(router, row, raws, curves, cards, priors) for row, raws in zip(test.scores, raw)]
    scored = {name: np.array([score for score, _ in found]) for name, found in routed.items()}
    best = best_expert(train, np.ones(len(train.mos), bool))
    smallest = min(range(len(curves)), key=lambda i: curves[i].rmse)
    methods = {
        **{f"expert {n}": test.scores[:, i] for i, n in enumerate(train.names)},
        "plain mean": mean,
        f"priors only (fitted on {made.fit})": test.scores @ weights,
        "type classifier + one expert (one type)": test.scores[:, best],
        "rules router, tier 1": scored["equal"],
        "rules router, tier 1, fitted priors": scored["fitted"],
        "agent, rules and tools (the lookup's one tool)": test.scores[:, smallest],
        "oracle": oracle(test.scores, moved),
    }
    judge = Judge(mos=mos, single=test.scores[:, best], mean=mean, bootstrap=made.bootstrap, seed=router.seed)
    lines = [judge.line(method, scores) for method, scores in methods.items()]
    outside = float(np.mean([[c.outside(v) > 0 for c, v in zip(curves, row)] for row in raw]))
    notes = [f"over single: SRCC minus that of {train.names[best]}, the best expert on {made.fit}"]
    told = ", ".join(f"{name} {weight:.2f}" for name, weight in zip(train.names, weights))
    notes += [f"weights from {made.fit}: {told}"]
    notes += [f"curves from {made.fit}; {100 * outside:.1f} % of the scores lie outside their range"]
    notes += ["no media are read: there is no learned router, no content type but one, and no localization"]
    parts = ablation([clip for _, clip in routed["equal"]], router.adjustment, judge)
    return [Table(file, len(mos), lines, notes), Table(f"{file}: {PARTS}", len(mos), parts)]


def _routed(
    made: RouterSpec,
    scores: np.ndarray,
    raw: np.ndarray,
    curves: Sequence[Calibration],
    cards: Mapping[str, Card],
    priors: Mapping[str, float],
) -> tuple[float, Weighed]:
    readings = {
        name: {"score": float(s), "outside": curve.outside(v)}
        for name, s, v, curve in zip(cards, scores, raw, curves, strict=True)
    }
    fused, told = weigh(readings, cards, priors, [], made.adjustment)
    return fused.score100, Weighed({name: r["score"] for name, r in readings.items()}, told)


def _curved(names: tuple[str, ...], curves: Sequence[Calibration], raw: np.ndarray, mos: np.ndarray) -> Grid:
    scores = np.array([[curve(v) for curve, v in zip(curves, row)] for row in raw])
    return Grid(names, scores, mos)


def _recorded(path: Path, made: RealSpec) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Ids, raw scores `[clips, experts]` and MOS, read as the expert `replay` does. DataError for a missing file, one
    without rows, and what is wrong in a row."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    rows = recorded([str(path)], "name", ("mos", *made.experts.values()))
    if not rows:
        raise DataError(f"{path}: no rows below the header")
    raw = np.array([[row[column] for column in made.experts.values()] for row in rows.values()])
    return list(rows), raw, np.array([row["mos"] for row in rows.values()])
