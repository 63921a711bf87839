"""Stages x abilities: what each stage's model can do, and where a stage has lost what the one before could."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vqa2.bench._table import interval, number, table_line
from vqa2.core.records import Metric, Report

ABILITIES = "abilities.json"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One stage. `after` is the stage it started from; `larger`: whether more of an ability is better."""

    stage: str
    after: str | None
    step: int
    abilities: dict[str, Metric | None]
    larger: dict[str, bool]


def find(report: Report, path: Sequence[str]) -> Metric | None:
    """A headline metric by name, or a member of a group; None where the report has none such."""
    metrics = report.metrics if len(path) == 1 else report.groups.get(path[0], ())
    return next((m for m in metrics if m.name == path[-1]), None)


def read_rows(home: Path) -> list[Row]:
    """The stages of a run that were measured, in the order in which they were."""
    rows = []
    for path in sorted(home.glob(f"*/{ABILITIES}"), key=lambda p: p.stat().st_mtime):
        values = json.loads(path.read_text(encoding="utf-8"))
        metrics = {name: None if m is None else Metric(**m) for name, m in values.pop("abilities").items()}
        rows.append(Row(abilities=metrics, **values))
    return rows


def change(row: Row, rows: Sequence[Row], ability: str) -> str:
    """`gained` or `lost` against the stage that this one started from, where the 95 % intervals do not touch."""
    now = row.abilities.get(ability)
    before = next((r.abilities.get(ability) for r in rows if r.stage == row.after), None)
    if now is None or before is None or None in (now.lo, now.hi, before.lo, before.hi):
        return ""
    if now.lo > before.hi:
        return "gained" if row.larger[ability] else "lost"
    if now.hi < before.lo:
        return "lost" if row.larger[ability] else "gained"
    return ""


def names(rows: Sequence[Row]) -> list[str]:
    """Every ability, in order of appearance."""
    return list(dict.fromkeys(name for row in rows for name in row.abilities))


def cell(row: Row, rows: Sequence[Row], ability: str) -> str:
    """`0.620 (0.510 … 0.700, n 60), lost`, or why there is no value."""
    metric = row.abilities.get(ability)
    if metric is None:
        return "not measured"
    if metric.value is None:
        return f"{metric.note}, n {metric.n}"
    text = f"{number(metric.value)} ({interval(metric)}, n {metric.n})"
    return ", ".join(filter(None, [text, change(row, rows, ability)]))


def markdown(rows: Sequence[Row]) -> str:
    """The matrix, with what `gained` and `lost` mean."""
    abilities = names(rows)
    lines = [table_line(["stage", "after", *abilities]), table_line(["---"] * (len(abilities) + 2))]
    lines += [table_line([r.stage, r.after or "–", *(cell(r, rows, name) for name in abilities)]) for r in rows]
    note = "gained, lost: against the stage it started from, where the 95 % intervals do not touch."
    return "\n".join([*lines, "", note, ""])


def write(home: Path) -> Path:
    """`abilities.md` of a run folder, from its stages' files."""
    path = home / "abilities.md"
    path.write_text(markdown(read_rows(home)), encoding="utf-8")
    return path
