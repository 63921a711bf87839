"""What routing and the agent add: every single expert, plain mean, fitted priors, a type classifier with one expert,
router, agent and oracle on the same clips (the baselines that reviewers of both papers asked for).

Expert readings come from disk (vqa2/experts/measure.py), so each tool runs once a clip; router and agent are the live
programs over those readings. Everything fitted (calibrations, priors, the best expert of a type) is fitted on `fit`
rows, never on test rows. The oracle picks the expert nearest to the target for each clip: no method can know it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vqa2.agents._baselines import Grid, Judge, Line, Table, baselines, best_expert, fitted_weights
from vqa2.agents._real import RealSpec
from vqa2.agents._spec import AgentSpec, Priors, RouterSpec
from vqa2.agents.run import live
from vqa2.agents.world import Asked, Means
from vqa2.core.config import decode, spec
from vqa2.core.errors import DataError
from vqa2.core.records import Clip, read_jsonl
from vqa2.experts.base import Media, Reading
from vqa2.experts.calibration import save
from vqa2.experts.measure import READINGS, ExpertsRun, Rated, calibrate, measure, rated
from vqa2.experts.pool import Pool

LEVEL_EXPERT = "vqa2"
"""The expert whose sub-scores are level probabilities: our model, as the agent's voice."""


@spec
class CompareRun:
    """`measured`: the embedded set and its experts; `routed`, `asked`: the predictors router and agent, of which the
    programs' settings are taken (no model decides here); `real`: recorded scores (left out, said so, where absent)."""

    measured: ExpertsRun
    routed: dict[str, Any]
    asked: dict[str, Any]
    real: RealSpec
    out: str

    def programs(self) -> tuple[RouterSpec, AgentSpec]:
        """The settings of router and agent."""
        router = decode(RouterSpec, self.routed["router"], "routing.routed.router")
        return router, decode(AgentSpec, self.asked["agent"], "routing.asked.agent")


class Recorded:
    """A pool whose tools have run: infos and calibrations are the pool's, readings come from disk by media id."""

    def __init__(self, pool: Pool, items: Sequence[Rated], readings: Mapping[str, Sequence[Reading]]) -> None:
        self._pool = pool
        self._known = {(n, i.media.id): r for n, rs in readings.items() for i, r in zip(items, rs, strict=True)}
        self.experts, self.left_out = {n: pool.experts[n] for n in readings}, pool.left_out
        self.info, self.subject, self.calibration_of = pool.info, pool.subject, pool.calibration_of

    def run(self, names: Sequence[str], media: Media, *_: Any) -> list[Reading]:
        """As `Pool.run`."""
        found = [self._known[name, media.id] for name in names]
        return [reading if reading.raw is None else self._pool.calibrated(reading) for reading in found]

    def levels(self, media_id: str) -> list[float] | None:
        """The level probabilities of our model, where it is among the experts."""
        found = self._known.get((LEVEL_EXPERT, media_id))
        return list(found.parts.values()) if found is not None and len(found.parts) == 5 else None


@dataclass
class Levels:
    """Our model's recorded level probabilities as the agent's voice."""

    pool: Recorded
    media: str = ""
    name: str = "recorded levels"
    can: tuple[str, ...] = ("levels",)

    def levels(self, path: Path, kind: Any, question: str | None) -> list[float]:
        found = self.pool.levels(self.media)
        if found is None:
            raise DataError(f"{self.media}: no recorded level probabilities")
        return found


def embedded(made: CompareRun, advance: Callable[[str, int, int], None]) -> Table:
    """The embedded test rows. Calibrations are fitted and kept as `python -m vqa2.experts` does."""
    run, root = made.measured, Path(made.measured.root)
    items = rated(root, run.fit, run.fit_limit), rated(root, run.test, None)
    table = Table(f"{run.root}/{run.test}", len(items[1]))
    readings = _calibrated(run, items, table, advance)
    # A pool remembers what was not calibrated when it was asked first: a new one reads the curves that are there now.
    with run.experts.open() as pool:
        train, test = (_grid(pool, side, found) for side, found in zip(items, readings))
        kinds = _types(root, *items, *readings)
        single = best_expert(train, np.ones(len(train.mos), bool))
        note = f"over single: SRCC minus that of {train.names[single]}, the best expert on the training rows"
        table.notes.insert(0, note)
        mean = np.nanmean(test.scores, 1)
        judge = Judge(mos=test.mos, single=test.scores[:, single], mean=mean, bootstrap=run.bootstrap, seed=run.seed)
        table.lines = baselines(train, test, kinds, judge)
        table.lines += _programs(made, Recorded(pool, items[1], readings[1]), items[1], (train, test), judge, advance)
    return table


def _calibrated(
    run: ExpertsRun, items: tuple[list[Rated], list[Rated]], table: Table, advance: Callable[[str, int, int], None]
) -> tuple[dict[str, list[Reading]], dict[str, list[Reading]]]:
    """Readings of both sides by the experts whose calibration could be fitted; the others are in the table's notes."""
    with run.experts.open() as pool:
        kept = Path(run.out) / READINGS
        fitted = measure(pool, items[0], kept, lambda d, n: advance("fit", d, n))
        tested = measure(pool, items[1], kept, lambda d, n: advance("test", d, n))
        table.notes += [f"{name}: left out: {reason}" for name, reason in pool.left_out.items()]
        for name in list(fitted):
            try:
                curve = calibrate(pool.subject(name), run.forms, f"{run.root}/{run.fit}", items[0], fitted[name])
            except DataError as err:
                table.notes.append(f"{name}: not calibrated: {err}")
                del fitted[name], tested[name]
            else:
                save(curve, Path(run.experts.calibration))
    if not fitted:
        raise DataError(f"{run.root}/{run.fit}: no expert could be calibrated: {'; '.join(table.notes)}")
    return fitted, tested


def _programs(
    made: CompareRun, pool: Recorded, items: Sequence[Rated], grids: Sequence[Grid], judge: Judge, advance: Callable
) -> list[Line]:
    """Router tiers and agent, live over the readings."""
    router, agent = made.programs()
    fitted = dict(zip(grids[0].names, fitted_weights(grids[0])))
    priors = Priors(source="fitted", types=dict.fromkeys(router.priors.types, fitted), unlisted=0.0)
    plans: list[tuple[str, str, Any, Levels | None]] = [
        ("rules router, tier 0", "router", replace(router, tier=0, priors=priors), None),
        ("rules router, tier 1", "router", replace(router, tier=1), None),
        ("rules router, tier 1, fitted priors", "router", replace(router, tier=1, priors=priors), None),
        ("agent, rules and tools", "agent", agent, None),
    ]
    if pool.levels(items[0].media.id) is not None:
        plans.append(("agent, tools and our model's levels", "agent", agent, Levels(pool)))
    lines = []
    seconds = {(n, i.media.id): s for n, row in zip(grids[1].names, grids[1].seconds.T) for i, s in zip(items, row)}
    for method, program, values, voice in plans:
        scores, spent = [], []
        for done, item in enumerate(items):
            if voice is not None:
                voice.media = item.media.id
            asked = Asked(id=item.media.id, path=item.media.path, kind=item.media.kind, want="score")
            trace = live(program, values, asked, Means(pool=pool, llm=None, voice=voice, localizer=None))
            scores.append(100 * trace.result["score01"] if "score01" in trace.result else np.nan)
            ran = [s.request["expert"] for s in trace.steps if s.kind == "tool"]
            model = trace.spending["model_calls"]
            # Our model as the voice costs what it costs as an expert.
            cost = sum(seconds[n, item.media.id] for n in ran) + model * seconds.get((LEVEL_EXPERT, item.media.id), 0.0)
            spent.append((cost, len(ran), model))
            advance(method, done + 1, len(items))
        means = np.mean(spent, 0)
        lines.append(judge.line(method, np.array(scores), seconds=float(means[0]), experts=float(means[1]),
                                models=float(means[2])))  # fmt: skip
    return lines


def _grid(pool: Pool, items: Sequence[Rated], found: Mapping[str, Sequence[Reading]]) -> Grid:
    names = tuple(found)

    def score(name: str, reading: Reading) -> float:
        curve = pool.calibration_of(name)
        return np.nan if reading.raw is None or isinstance(curve, str) else curve(reading.raw)

    scores = np.array([[score(n, r) for n in names for r in (found[n][i],)] for i in range(len(items))])
    seconds = np.array([[found[n][i].seconds for n in names] for i in range(len(items))])
    return Grid(names, scores, np.array([i.mos for i in items]), seconds)


def _types(
    root: Path, to_fit: Sequence[Rated], to_test: Sequence[Rated], fitted: Mapping, tested: Mapping
) -> tuple[list[str], list[str]]:
    """Content types of both sides as a classifier over the raw scores says (natural or CG, learned on the fit rows)."""
    origin = {clip.id: clip.tags["origin"] for clip in read_jsonl(root / "clips.jsonl", Clip)}
    x, y = (
        np.array([[np.nan if r.raw is None else r.raw for r in rows] for rows in found.values()]).T
        for found in (fitted, tested)
    )
    means = np.nanmean(x, 0)
    x, y = (np.where(np.isnan(side), means, side) for side in (x, y))
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(x, [origin[i.media.id] for i in to_fit])
    return list(model.predict(x)), list(model.predict(y))
