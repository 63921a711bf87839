"""`python -m vqa2.agents [key=value ...]`: what routing and the agent add over single experts and means, as tables."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from vqa2.core.config import decode
from vqa2.core.errors import ConfigError
from vqa2.core.progress import bars
from vqa2.core.records import Metric
from vqa2.core.run import say
from vqa2.launch import composed, guarded


def main(overrides: list[str]) -> None:
    from vqa2.agents._real import real
    from vqa2.agents.compare import CompareRun, compared

    made = decode(CompareRun, composed("routing", overrides), "routing")
    roots = {made.measured.root: made.measured.test, **_camera(made.camera)}
    with bars() as shown:
        tables, tiers = compared(made, roots, lambda pool: _helpers(made.routed, pool), shown.at)
    if Path(made.real.folder).is_dir():
        tables += real(made.real, made.programs()[0])
    else:
        say(f"{made.real.folder}: no recorded scores here; the tables of real videos are left out")
    text = "\n\n".join([*map(_markdown, tables), _costs(tiers)]) + "\n"
    out = Path(made.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "routing.md").write_text(text, encoding="utf-8")
    values = {"tables": [asdict(t) for t in tables], "tiers": [asdict(t) for t in tiers]}
    (out / "routing.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    console = Console(highlight=False, soft_wrap=True)
    console.print(text, markup=False)
    console.print(f"written: {out / 'routing.md'}", markup=False)


def _camera(made) -> dict[str, str]:
    """The data root of camera clips, made where it is not there; none, said so, where the clips are not."""
    from data_prep.run import DataPrepRun, prepare, standing

    if not Path(made.folder).is_dir():
        say(f"{made.folder}: no camera clips here; their table is left out")
        return {}
    chosen = [*shlex.split(made.command)[3:], f"root={made.folder}", f"out={made.root}"]
    run = decode(DataPrepRun, composed("data_prep", chosen), "data_prep")
    if standing(run) != "complete":
        prepare(run, progress=True)
    return {made.root: made.test}


def _helpers(routed: dict[str, Any], pool):
    """The learned router as it is used and, where it stands back, as it would decide; the localizer."""
    from vqa2.agents.compare import Helpers
    from vqa2.experts.localization.localize import LocalizeSpec
    from vqa2.predictors._decider import DeciderSpec
    from vqa2.predictors.router import RouterLocalizer

    gates, found, notes = {}, None, []
    try:
        gate = decode(DeciderSpec, routed["decider"], "routing.routed.decider").open(pool)
        if gate is not None:
            gates["learned router"] = gate
            if gate.stands_back:
                gates["learned router, not standing back"] = gate.insisting()
    except ConfigError as err:
        notes.append(f"learned router: left out: {err}")
    try:
        found = RouterLocalizer(decode(LocalizeSpec, routed["localize"], "routing.routed.localize"))
    except ConfigError as err:
        notes.append(f"tier 2: left out: {err}")
    return Helpers(gates=gates, localizer=found, notes=tuple(notes))


def _markdown(table) -> str:
    head = ("method", "SRCC [95 %]", "PLCC [95 %]", "over single", "over mean", "n", "experts", "model calls")
    notes = [f"- {note}" for note in table.notes]
    title = [f"## {table.name} (n = {table.n})", ""]
    return "\n".join([*title, *_rows(head, map(_cells, table.lines)), *([""] if notes else []), *notes])


def _costs(tiers) -> str:
    head = ("method", "seconds a clip", "largest", "experts", "model calls", "localizations", "clips")
    rows = [
        [t.method, f"{t.seconds:.2f}", f"{t.most:.2f}", f"{t.experts:.1f}", f"{t.models:.1f}", f"{t.localizations:.0f}",
         str(t.n)] for t in tiers
    ]  # fmt: skip
    return "\n".join(["## What a clip costs, everything run anew", "", *_rows(head, rows)])


def _rows(head: Sequence[str], rows) -> list[str]:
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]


def _cells(made) -> list[str]:
    gains = [_gain(made.over_single), _gain(made.over_mean)]
    cost = [_number(made.experts), _number(made.models)]
    return [made.method, _cell(made.srcc), _cell(made.plcc), *gains, str(made.srcc.n), *cost]


def _cell(metric: Metric) -> str:
    if metric.value is None:
        return metric.note
    interval = f" [{metric.lo:.3f}, {metric.hi:.3f}]" if metric.lo is not None else ""
    return f"{metric.value:.3f}{interval}"


def _gain(metric: Metric) -> str:
    """A difference with its interval; exactly none where a method is what it is compared with."""
    return (
        "0" if metric.value == 0 else metric.note if metric.value is None else f"{metric.value:+.3f} " + _bounds(metric)
    )


def _bounds(metric: Metric) -> str:
    return f"[{metric.lo:+.3f}, {metric.hi:+.3f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    guarded(main, "routing")
