"""A paper's table beside what was measured here: which cell comes from which report, and what its state is.

A cell is `measured` only where the report says nothing against comparing it (Report.objections; a table without
published figures has nothing to compare with) and the metric has a value; else it is `not comparable` with the reasons,
`not run` with what is missing and the commands, or, for rows of other people's models, `published only`.
"""

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, MinLen

from vqa2.bench._matrix import find
from vqa2.bench._origin import who
from vqa2.core.config import spec, suggest
from vqa2.core.errors import DataError
from vqa2.core.records import Metric, Report, is_among

PUBLISHED = Path(__file__).parent / "published"
State = Literal["measured", "published only", "not comparable", "not run"]
Missing = tuple[str, str | None]
"""A file that is not here, and the command that makes it where there is one."""


@spec
class Column:
    """`metric`: a headline metric of the benchmark's report, or a group of it and a member of the group; times `scale`
    it is in the printed unit."""

    benchmark: str
    metric: Annotated[tuple[str, ...], MinLen(1)]
    scale: Annotated[float, Gt(0)]


@spec
class Model:
    """How a row's model is made: files that are needed, with the command that makes each, and then `commands`."""

    needs: dict[str, str]
    commands: tuple[str, ...]


@spec
class Row:
    """A row that can be measured: the run folder whose evaluation fills it, and the commands that make that evaluation
    after those of `model` and of the table (`{benchmark}` stands for the cell's). `model`: where the model comes from,
    null where that is the commands' business. `of`: the published row that this one is compared with, null for that of
    its own name. `minus`: the saved answers that this evaluation was tested `against`; the row then holds the
    differences to them. Null for the figures themselves."""

    run: str
    of: str | None
    minus: str | None
    model: Model | None
    commands: tuple[str, ...]


@spec
class Besides:
    """What some `figures` of benchmarks need beside the benchmark's own files: a figure is named as in Report.limited.
    `needs`: files, with the command that makes each where there is one; `words` go to the end of the commands that name
    the benchmark."""

    benchmarks: tuple[str, ...]
    figures: tuple[str, ...]
    needs: dict[str, str | None]
    words: str

    def concerns(self, column: Column) -> bool:
        """Whether it is about this column."""
        return column.benchmark in self.benchmarks and is_among(column.metric, self.figures)


@spec
class PaperTable:
    """`published`: CSV of this package, null where nothing is published; `key`: its columns that together name a column
    of the table; its first column names the row and its last holds the value. `digits` are shown where no published
    figure of the column says how many. `commands`: what all rows come from, in order. `produce`: run the commands of
    table and rows first (finished ones are skipped). `besides`: what some columns need as well.

    `means`: columns that are computed here, from published and measured figures alike: by name, the columns they are
    the mean of, with weights. `parts`: the table in pieces, one below the other, each with the columns it shows; empty
    for one piece. `unranked`: rows that are no method (people) and take no part in best and second."""

    title: str
    note: str
    published: str | None
    key: tuple[str, ...]
    digits: Annotated[int, Ge(0)]
    produce: bool
    columns: dict[str, Column]
    means: dict[str, dict[str, Annotated[float, Gt(0)]]]
    parts: dict[str, tuple[str, ...]]
    unranked: tuple[str, ...]
    commands: tuple[str, ...]
    besides: tuple[Besides, ...]
    measured: dict[str, Row]

    def __post_init__(self) -> None:
        for name, weights in self.means.items():
            unknown = sorted({*weights} - {*self.columns})
            if unknown or not weights or name in self.columns:
                raise ValueError(f"table.means.{name}: columns with weights are needed, got {sorted(weights)}")
        for name, row in self.measured.items():
            if not self.makes(row):
                raise ValueError(f"table.measured.{name}.commands: what makes the row is needed")
        shown = Counter(name for names in self.parts.values() for name in names)
        wrong = [n for n in {*shown, *self.columns, *self.means} if (n in shown) != (n in self.names) or shown[n] > 1]
        if self.parts and wrong:
            raise ValueError(f"table.parts: {sorted(wrong)[0]!r} must be a column and stand in exactly one part")

    @property
    def names(self) -> list[str]:
        """Every column, means last."""
        return [*self.columns, *self.means]

    def makes(self, row: Row) -> tuple[str, ...]:
        """The commands that a row comes from, in order."""
        return (*(row.model.commands if row.model else ()), *self.commands, *row.commands)

    def published_row(self, row: str) -> str:
        """The published row beside which a row stands."""
        source = self.measured.get(row)
        return row if source is None or source.of is None else source.of


@dataclass(frozen=True, kw_only=True)
class Cell:
    """`published` and the metric's value and interval are in the table's unit; `reason` says why it is not measured, or
    what the metric's own note says. Of a cell that was not run: what is `missing`, and the `commands` that make it."""

    row: str
    column: str
    published: float | None
    metric: Metric | None
    state: State
    reason: str = ""
    missing: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()

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


def read_published(table: PaperTable) -> dict[tuple[str, str], str]:
    """Published values as printed by (row, column), in the order of the file. DataError for a column that the table
    lacks, and for a cell that is there twice."""
    if table.published is None:
        return {}
    found: dict[tuple[str, str], str] = {}
    with (PUBLISHED / table.published).open(encoding="utf-8", newline="") as handle:
        for values in csv.DictReader(handle):
            names = list(values)
            column = " ".join(values[key] for key in table.key)
            if column not in table.columns:
                raise DataError(f"{table.published}: {column!r} is no column of {table.title!r}")
            where = values[names[0]], column
            if where in found:
                raise DataError(f"{table.published}: two values of {' / '.join(where)}")
            found[where] = values[names[-1]]
    return found


def make_cells(
    table: PaperTable, report: Callable[[str, str], Report | None], missing: Callable[[str], Sequence[Missing]]
) -> list[Cell]:
    """Every cell, row by row. `report(run, benchmark)` is an evaluation's report; `missing(benchmark)` lists the files
    that the benchmark lacks here."""
    published = read_published(table)
    printed_rows = sorted({row for row, _ in published})
    for name, source in table.measured.items():
        if source.of is not None and source.of not in printed_rows:
            raise DataError(
                f"table.measured.{name}.of: no published row {source.of!r}{suggest(source.of, printed_rows)}"
            )
    made = []
    for row in dict.fromkeys([*(row for row, _ in published), *table.measured]):
        cells: dict[str, Cell] = {}
        for name, column in table.columns.items():
            printed = published.get((table.published_row(row), name))
            value = None if printed is None else float(printed)
            if row in table.measured:
                found = report(table.measured[row].run, column.benchmark)
                cells[name] = (_measured(table, (row, name), value, found) if found else
                               _not_run(table, (row, name), value, missing(column.benchmark)))  # fmt: skip
            elif value is not None:
                cells[name] = Cell(row=row, column=name, published=value, metric=None, state="published only")
        made += [*cells.values(), *_means(table, row, cells)]
    return made


def _measured(table: PaperTable, where: tuple[str, str], value: float | None, report: Report) -> Cell:
    row, name = where
    column = table.columns[name]
    path = column.metric
    minus = table.measured[row].minus
    if minus is not None:
        path = (difference_group(minus.format(benchmark=column.benchmark)), " / ".join(column.metric))
    metric = find(report, path)
    reasons = report.objections(column.metric) if table.published else []
    if report.benchmark != column.benchmark:
        reasons.append(f"a report of {report.benchmark}, not of {column.benchmark}")
    if metric is None:
        reasons.append(f"the report has no {' / '.join(path)}")
    elif metric.value is None:
        reasons.append(metric.note or "undefined")
    else:
        metric = _scaled(metric, column.scale)
    state: State = "not comparable" if reasons else "measured"
    if metric is not None and not reasons:
        reasons = [f"{report.n_failed} of {report.n_expected} items not scored"] if report.n_failed else []
        reasons += [metric.note] if metric.note else []
    return Cell(row=row, column=name, published=value, metric=metric, state=state, reason="; ".join(reasons))


def _not_run(table: PaperTable, where: tuple[str, str], value: float | None, lacking: Sequence[Missing]) -> Cell:
    row, name = where
    source, column = table.measured[row], table.columns[name]
    besides = [more for more in table.besides if more.concerns(column)]
    needs = [pair for owner in (source.model, *besides) if owner is not None for pair in owner.needs.items()]
    lacking = [*lacking, *((path, make) for path, make in needs if not Path(path).exists())]
    makes = [make for _, make in lacking if make is not None]
    told = (path if make is not None else f"{path} (obtain it: docs/evaluation.md)" for path, make in lacking)
    words = " ".join(more.words for more in besides)
    asks = [_asked(command, column.benchmark, words) for command in table.makes(source)]
    return Cell(row=row, column=name, published=value, metric=None, state="not run",
                missing=tuple(told), commands=tuple(dict.fromkeys([*makes, *asks])))  # fmt: skip


def _asked(command: str, benchmark: str, words: str) -> str:
    made = command.format(benchmark=benchmark)
    return f"{made} {words}" if words and made != command else made


def _means(table: PaperTable, row: str, cells: Mapping[str, Cell]) -> list[Cell]:
    """The row's means. One is measured only where each of its columns is; the columns' commands are not repeated."""
    made = []
    for name, weights in table.means.items():
        parts = [cells[column] for column in weights if column in cells]
        whole = len(parts) == len(weights)
        printed = [c.published for c in parts]
        value = _mean(weights, printed) if whole else None
        if row not in table.measured:
            if value is not None:
                made.append(Cell(row=row, column=name, published=value, metric=None, state="published only"))
            continue
        found = [c.metric.value if c.metric else None for c in parts]
        states = {c.state for c in parts}
        state: State = next(s for s in ("not run", "not comparable", "measured") if s in states)
        metric = Metric(name=name, value=_mean(weights, found), n=sum(c.metric.n if c.metric else 0 for c in parts))
        short = ", ".join(c.column for c in parts if c.state != "measured")
        made.append(Cell(row=row, column=name, published=value, metric=None if state == "not run" else metric,
                         state=state, reason=f"{state}: {short}" if short else mean_rule(weights)))  # fmt: skip
    return made


def mean_rule(weights: Mapping[str, float]) -> str:
    """What kind of mean it is, for readers."""
    kind = "plain mean" if len(set(weights.values())) == 1 else "mean weighted by items"
    return f"{kind} over {len(weights)} columns, without interval"


def _mean(weights: Mapping[str, float], values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    if len(known) < len(weights):
        return None
    return sum(w * v for w, v in zip(weights.values(), known, strict=True)) / sum(weights.values())


def _scaled(metric: Metric, scale: float) -> Metric:
    def times(value: float | None) -> float | None:
        return None if value is None else value * scale

    return Metric(name=metric.name, value=times(metric.value), n=metric.n, lo=times(metric.lo), hi=times(metric.hi),
                  note=metric.note)  # fmt: skip


def origins(table: PaperTable, report: Callable[[str, str], Report | None]) -> dict[str, list[str]]:
    """By row, who answered: run folder, predictor, checkpoint and commit of every evaluation that fills the row."""
    made: dict[str, list[str]] = {}
    for row, source in table.measured.items():
        found = [report(source.run, c.benchmark) for c in table.columns.values()]
        told = dict.fromkeys(line for r in found if r is not None for line in who(r))
        if told and source.minus is None:
            made[row] = [f"run {source.run}: {line}" for line in told]
    return made
