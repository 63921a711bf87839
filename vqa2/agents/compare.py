"""What routing and the agent add: every single expert, plain mean, fitted priors, a type classifier with one expert,
routers, agent and oracle on the same clips (the baselines that reviewers of both papers asked for).

Expert readings come from disk (vqa2/experts/measure.py), so each tool runs once a clip; router, agent, learned gate and
localization are the live programs over those readings. Everything fitted (calibrations, priors, the best expert of a
type, the gate) is fitted on `fit` rows, never on test rows. The oracle picks the expert nearest to the target for each
clip: no method can know it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vqa2.agents._ablate import PARTS, Weighed, ablation
from vqa2.agents._baselines import Grid, Judge, Line, Table, baselines, best_expert, fitted_weights
from vqa2.agents._real import RealSpec
from vqa2.agents._recorded import Levels, Recorded
from vqa2.agents._spec import AgentSpec, Priors, RouterSpec
from vqa2.agents._tiers import Tier, timed
from vqa2.agents.run import live
from vqa2.agents.trace import Trace
from vqa2.agents.world import Asked, Gate, Localizer, Means
from vqa2.core.config import decode, spec
from vqa2.core.errors import DataError
from vqa2.core.records import Clip, read_jsonl
from vqa2.experts.base import Reading
from vqa2.experts.calibration import save
from vqa2.experts.measure import READINGS, ExpertsRun, Rated, calibrate, measure, rated
from vqa2.experts.pool import Pool

EQUAL = "rules router, tier 1"
"""The row with the shipped values, whose parts are taken apart."""
PRIORS = "priors.yaml"
"""Fitted priors, beside the folder of calibrations."""


@spec
class CameraSpec:
    """Clips of a camera with the embedded distortions, on which nothing is fitted: `folder` of clips, the data `root`
    that is made of it where it is not there, by `command`; rows of `test`."""

    folder: str
    root: str
    command: str
    test: str


@spec
class CompareRun:
    """`measured`: the embedded set and its experts; `camera`, `real`: a second set of clips, and recorded scores (each
    left out, said so, where absent); `routed`, `asked`: the predictors router and agent, of which the programs'
    settings, gate and detector are taken (no chat model decides here); `timed`: clips on which every tier runs anew."""

    measured: ExpertsRun
    camera: CameraSpec
    routed: dict[str, Any]
    asked: dict[str, Any]
    timed: Annotated[int, Ge(2)]
    real: RealSpec
    out: str

    def programs(self) -> tuple[RouterSpec, AgentSpec]:
        """The settings of router and agent."""
        router = decode(RouterSpec, self.routed["router"], "routing.routed.router")
        return router, decode(AgentSpec, self.asked["agent"], "routing.asked.agent")


@dataclass(frozen=True, kw_only=True)
class Helpers:
    """What is opened beside the experts: learned gates by the name of their row, the localizer of tier 2, and why one
    is not there."""

    gates: dict[str, Gate]
    localizer: Localizer | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Side:
    """Rated clips, their readings by expert, and the same as calibrated scores."""

    items: list[Rated]
    readings: dict[str, list[Reading]]
    grid: Grid


@dataclass(frozen=True)
class Plan:
    """One row: a program, its settings and what it may ask beside the experts."""

    method: str
    program: str
    values: RouterSpec | AgentSpec
    gate: Gate | None = None
    localizer: Localizer | None = None
    levels: bool = False


def compared(
    made: CompareRun,
    roots: Mapping[str, str],
    opened: Callable[[Pool], Helpers],
    advance: Callable[[str, int, int], None],
) -> tuple[list[Table], list[Tier]]:
    """For every data root (with its file of test rows) the methods, and what the parts of the rules' fusion do; and
    what the tiers cost. Calibrations are fitted and kept as `python -m vqa2.experts` does, and fitted priors beside
    them."""
    run, kept = made.measured, Path(made.measured.out) / READINGS
    fit_items = rated(Path(run.root), run.fit, run.fit_limit)
    with run.experts.open() as pool:
        fitted = measure(pool, fit_items, kept, partial(advance, "fit"))
        notes = _calibrate(run, pool, fit_items, fitted)
    # A pool remembers what was not calibrated when it was asked first: a new one reads the curves that are there now.
    with run.experts.open() as pool:
        train = Side(fit_items, fitted, _grid(pool, fit_items, fitted))
        helpers, tables = opened(pool), []
        _fitted_priors(made, train.grid).save(Path(run.experts.calibration).with_name(PRIORS))
        for root, file in roots.items():
            items = rated(Path(root), file, None)
            found = measure(pool, items, kept, partial(advance, root))
            found = {name: found[name] for name in fitted}
            test = Side(items, found, _grid(pool, items, found))
            tables += _tables(made, pool, helpers, train, test, f"{root}/{file}", notes, advance)
        few = rated(Path(run.root), run.test, made.timed)
        tiers = [timed(plan.method, _program(plan, pool), few, advance) for plan in _tiers(made, helpers, train.grid)]
        return tables, tiers


def _calibrate(run: ExpertsRun, pool: Pool, items: list[Rated], fitted: dict[str, list[Reading]]) -> list[str]:
    """Fits and keeps curves; experts that have none are taken out of `fitted`, and are in the notes."""
    notes = [f"{name}: left out: {reason}" for name, reason in pool.left_out.items()]
    for name in list(fitted):
        try:
            curve = calibrate(pool.subject(name), run.forms, f"{run.root}/{run.fit}", items, fitted[name])
        except DataError as err:
            notes.append(f"{name}: not calibrated: {err}")
            del fitted[name]
        else:
            save(curve, Path(run.experts.calibration))
    if not fitted:
        raise DataError(f"{run.root}/{run.fit}: no expert could be calibrated: {'; '.join(notes)}")
    return notes


def _tables(
    made: CompareRun,
    pool: Pool,
    helpers: Helpers,
    train: Side,
    test: Side,
    name: str,
    notes: list[str],
    advance: Callable[[str, int, int], None],
) -> list[Table]:
    run, single = made.measured, best_expert(train.grid, np.ones(len(train.grid.mos), bool))
    scores = test.grid.scores
    judge = Judge(
        mos=test.grid.mos,
        single=scores[:, single],
        mean=np.nanmean(scores, 1),
        bootstrap=run.bootstrap,
        seed=run.seed,
    )
    table = Table(name, len(test.items), notes=[f"over single: SRCC minus that of {train.grid.names[single]}, the best "
                                                "expert on the training rows", *notes, *helpers.notes])  # fmt: skip
    table.lines = baselines(train.grid, test.grid, _types(made, train, test), judge)
    parts = Table(f"{name}: {PARTS}", len(test.items))
    recorded = Recorded(pool, test.items, test.readings)
    for plan in _plans(made, helpers, train.grid, recorded.levels(test.items[0].media.id) is not None):
        traces = list(_asked(plan, recorded, test.items, partial(advance, plan.method)))
        table.lines.append(_line(plan.method, traces, judge))
        if plan.method == EQUAL:
            constants, clips = plan.values.adjustment, [Weighed.of(trace.working) for trace in traces]
            parts.lines = ablation(clips, constants, judge)
            often = np.mean([clip.apart > constants.spread for clip in clips])
            parts.notes.append(f"the median decides on {often:.0%} of the clips")
    return [table, parts]


def _tiers(made: CompareRun, helpers: Helpers, train: Grid) -> list[Plan]:
    """The routers: tiers with the shipped priors and with fitted ones, learned gates."""
    router, agent = made.programs()
    fitted = _fitted_priors(made, train)
    plans = [
        Plan("rules router, tier 0", "router", replace(router, tier=0)),
        Plan(EQUAL, "router", replace(router, tier=1)),
        Plan("rules router, tier 1, fitted priors", "router", replace(router, tier=1, priors=fitted)),
    ]
    if helpers.localizer is not None:
        plans.append(Plan("rules router, tier 2", "router", replace(router, tier=2), localizer=helpers.localizer))
    plans += [Plan(name, "router", replace(router, tier=1), gate=gate) for name, gate in helpers.gates.items()]
    return [*plans, Plan("agent, rules and tools", "agent", agent)]


def _fitted_priors(made: CompareRun, train: Grid) -> Priors:
    """The same weights for all content types: a rated set does not say what its clips are."""
    types = made.programs()[0].priors.types
    weights = dict(zip(train.names, fitted_weights(train).tolist()))
    source = f"non-negative least squares on {len(train.mos)} clips of {made.measured.root}/{made.measured.fit}"
    return Priors(source=source, flagged=(), types=dict.fromkeys(types, weights), unlisted=0.0)


def _plans(made: CompareRun, helpers: Helpers, train: Grid, levels: bool) -> list[Plan]:
    """Router tiers and agent; with our model's `levels` another agent."""
    plans = _tiers(made, helpers, train)
    if levels:
        plans.append(replace(plans[-1], method="agent, tools and our model's levels", levels=True))
    return plans


def _program(plan: Plan, pool: Any, voice: Levels | None = None) -> Callable[[Rated], Trace]:
    """The program of a row, to be asked for the score of one clip after the other."""
    means = Means(pool=pool, llm=None, voice=voice, localizer=plan.localizer, gate=plan.gate)

    def ask(item: Rated) -> Trace:
        if voice is not None:
            voice.media = item.media.id
        asked = Asked(id=item.media.id, path=item.media.path, kind=item.media.kind, want="score")
        return live(plan.program, plan.values, asked, means)

    return ask


def _asked(plan: Plan, pool: Recorded, items: Sequence[Rated], advance: Callable[[int, int], None]) -> Iterator[Trace]:
    """The program, live over the readings."""
    ask = _program(plan, pool, Levels(pool) if plan.levels else None)
    for done, item in enumerate(items, 1):
        yield ask(item)
        advance(done, len(items))


def _line(method: str, traces: Sequence[Trace], judge: Judge) -> Line:
    scores = np.array([100 * t.result["score01"] if "score01" in t.result else np.nan for t in traces])
    experts, models = np.mean([(t.spending["experts"], t.spending["model_calls"]) for t in traces], 0).tolist()
    return judge.line(method, scores, experts=experts, models=models)


def _grid(pool: Pool, items: Sequence[Rated], found: Mapping[str, Sequence[Reading]]) -> Grid:
    names = tuple(found)

    def score(name: str, reading: Reading) -> float:
        curve = pool.calibration_of(name)
        return np.nan if reading.raw is None or isinstance(curve, str) else curve(reading.raw)

    scores = np.array([[score(n, r) for n in names for r in (found[n][i],)] for i in range(len(items))])
    return Grid(names, scores, np.array([i.mos for i in items]))


def _types(made: CompareRun, train: Side, test: Side) -> tuple[list[str], list[str]]:
    """Content types of both sides as a classifier over the raw scores says (natural or CG, learned on the fit rows)."""
    clips = read_jsonl(Path(made.measured.root) / "clips.jsonl", Clip)
    origin = {clip.id: clip.tags["origin"] for clip in clips}
    x, y = (
        np.array([[np.nan if r.raw is None else r.raw for r in rows] for rows in side.readings.values()]).T
        for side in (train, test)
    )
    means = np.nanmean(x, 0)
    x, y = (np.where(np.isnan(side), means, side) for side in (x, y))
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(x, [origin[i.media.id] for i in train.items])
    return list(model.predict(x)), list(model.predict(y))
