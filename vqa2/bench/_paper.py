"""A paper's table beside what was measured here: which cell comes from which report, and what its state is.

A cell is `measured` only where the report says nothing against comparing it (Report.deviations; a table without
published figures has nothing to compare with) and the metric has a value; else it is `not comparable` with the reasons,
`not run` with what is missing and the commands, or, for rows of other people's models, `published only`.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, MinLen

from vqa2.bench._matrix import find
from vqa2.core.config import spec
from vqa2.core.errors import DataError
from vqa2.core.records import Metric, Report

PUBLISHED = Path(__file__).parent / "published"
State = Literal["measured", "published only", "not comparable", "not run"]


@spec
class Column:
    """`metric`: a headline metric of the benchmark's report, or a group of it and a member of the group; times `scale`
    it is in the printed unit."""

    benchmark: str
    metric: Annotated[tuple[str, ...], MinLen(1)]
    scale: Annotated[float, Gt(0)]


@spec
class Row:
    """A row that can be measured: the run folder whose evaluation fills it, and the commands that make that evaluation
    (`{benchmark}` stands for the cell's). `minus`: the saved answers that this evaluation was tested `against`; the row
    then holds the differences to them. Null for the figures themselves."""

    run: str
    minus: str | None
    commands: Annotated[tuple[str, ...], MinLen(1)]


@spec
class PaperTable:
    """`published`: CSV of this package, null where nothing is published; `key`: its columns that together name a column
    of the table; its first column names the row and its last holds the value. `digits` are shown. `produce`: run the
    commands of the rows first (finished ones are skipped)."""

    title: str
    note: str
    published: str | None
    key: tuple[str, ...]
    digits: Annotated[int, Ge(0)]
    produce: bool
    columns: dict[str, Column]
    measured: dict[str, Row]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """`published` and the metric's value and interval are in the table's unit; `reason` says why it is not measured, or
    what the metric's own note says."""

    row: str
    column: str
    published: float | None
    metric: Metric | None
    state: State
    reason: str = ""

    @property
    def difference(self) -> float | None:
        """Measured minus published, only where the two are comparable."""
        if self.state != "measured" or self.published is None:
            return None
        assert self.metric is not None
        assert self.metric.value is not None
        return self.metric.value - self.published


def difference_group(against: str) -> str:
    """Where a report keeps its differences to saved answers."""
    return f"difference to {against}"


def read_published(table: PaperTable) -> dict[tuple[str, str], float]:
    """Published values by (row, column), in the order of the file. DataError for a column that the table lacks."""
    if table.published is None:
        return {}
    found: dict[tuple[str, str], float] = {}
    with (PUBLISHED / table.published).open(encoding="utf-8", newline="") as handle:
        for values in csv.DictReader(handle):
            names = list(values)
            column = " ".join(values[key] for key in table.key)
            if column not in table.columns:
                raise DataError(f"{table.published}: {column!r} is no column of {table.title!r}")
            found[values[names[0]], column] = float(values[names[-1]])
    return found


def make_cells(
    table: PaperTable, report: Callable[[str, str], Report | None], missing: Callable[[str], list[str]]
) -> list[Cell]:
    """Every cell, row by row. `report(run, benchmark)` is an evaluation's report; `missing(benchmark)` lists the files
    that the benchmark lacks here."""
    published = read_published(table)
    rows = list(dict.fromkeys([*(row for row, _ in published), *table.measured]))
    made = []
    for row in rows:
        for name, column in table.columns.items():
            value = published.get((row, name))
            if row in table.measured:
                source = table.measured[row]
                found = report(source.run, column.benchmark)
                made.append(_measured(table, (row, name), value, found) if found else
                            _not_run(table, (row, name), value, missing(column.benchmark)))  # fmt: skip
            elif value is not None:
                made.append(Cell(row=row, column=name, published=value, metric=None, state="published only"))
    return made


def _measured(table: PaperTable, where: tuple[str, str], value: float | None, report: Report) -> Cell:
    row, name = where
    column = table.columns[name]
    path = column.metric
    minus = table.measured[row].minus
    if minus is not None:
        path = (difference_group(minus.format(benchmark=column.benchmark)), " / ".join(column.metric))
    metric = find(report, path)
    reasons = list(report.deviations) if table.published else []
    if report.benchmark != column.benchmark:
        reasons.append(f"a report of {report.benchmark}, not of {column.benchmark}")
    if metric is None:
        reasons.append(f"the report has no {' / '.join(path)}")
    elif metric.value is None:
        reasons.append(metric.note or "undefined")
    else:
        metric = _scaled(metric, column.scale)
    state: State = "not comparable" if reasons else "measured"
    reason = "; ".join(reasons) if metric is None or reasons else metric.note
    return Cell(row=row, column=name, published=value, metric=metric, state=state, reason=reason)


def _not_run(table: PaperTable, where: tuple[str, str], value: float | None, lacking: Sequence[str]) -> Cell:
    row, name = where
    commands = " && ".join(table.measured[row].commands).format(benchmark=table.columns[name].benchmark)
    needs = f"needs {', '.join(lacking)}; " if lacking else ""
    return Cell(row=row, column=name, published=value, metric=None, state="not run", reason=f"{needs}run {commands}")


def _scaled(metric: Metric, scale: float) -> Metric:
    def times(value: float | None) -> float | None:
        return None if value is None else value * scale

    return Metric(name=metric.name, value=times(metric.value), n=metric.n, lo=times(metric.lo), hi=times(metric.hi),
                  note=metric.note)  # fmt: skip
