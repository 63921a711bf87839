"""The layout of a paper's table: parts with the paper's rows and columns, a row with what was measured under each row
that can be, and lists of what was measured and of what was not run. Forms (Markdown, LaTeX, …) are made from these.

Best and second of a column, as the field marks them: over published figures and measured ones that may be compared, as
printed, so that equal ones share a mark; people and differences take no part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vqa2.bench._paper import Cell, PaperTable, mean_rule, read_published

MEASURED = "measured here"
DETAILS = ("row", "column", "published", "measured", "difference", "95 % interval", "n", "state", "reason")
Mark = Literal["", "best", "second"]
Side = Literal["published", "measured"]


@dataclass(frozen=True)
class Entry:
    """One printed figure."""

    text: str
    mark: Mark = ""


@dataclass(frozen=True)
class Line:
    """A row of a part; `measured` tells ours from the paper's."""

    label: str
    measured: bool
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Part:
    """A piece of the table; `title` is empty where the table is one piece."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]

    @property
    def heads(self) -> list[tuple[str, list[str]]] | None:
        """Columns called `<dataset> <metric>` under their datasets: (dataset, metrics) from left to right. None where a
        column has a name of one word."""
        if not all(" " in name for name in self.columns):
            return None
        made: list[tuple[str, list[str]]] = []
        for name in self.columns:
            head, _, tail = name.rpartition(" ")
            if not made or made[-1][0] != head:
                made.append((head, []))
            made[-1][1].append(tail)
        return made


@dataclass(frozen=True)
class Step:
    """Commands for cells of these columns, and the files that are missing for them."""

    columns: tuple[str, ...]
    missing: tuple[str, ...]
    commands: tuple[str, ...]


@dataclass(frozen=True)
class Todo:
    """How to make a row: `first` once, then each step for its own columns."""

    row: str
    first: Step
    each: tuple[Step, ...]


def parts(table: PaperTable, cells: Sequence[Cell]) -> list[Part]:
    """The pieces of the table, each with the rows that have a cell in it. A figure that must not be compared stands in
    brackets."""
    at = {(c.row, c.column): c for c in cells}
    digits = _digits(table)
    pieces = table.parts or {"": tuple(table.names)}
    return [_part(table, at, digits, title, columns) for title, columns in pieces.items()]


def _part(
    table: PaperTable,
    at: Mapping[tuple[str, str], Cell],
    digits: Mapping[str, int],
    title: str,
    columns: tuple[str, ...],
) -> Part:
    marks = {name: _marks(table, at, name, digits[name]) for name in columns}

    def line(row: str, label: str, side: Side) -> Line:
        """A row's published figures or, by cell, what was measured."""
        found = [at.get((row, name)) for name in columns]
        shown = [
            _published(c, digits[n]) if side == "published" else _shown(c, digits[n]) for n, c in zip(columns, found)
        ]
        marked = [marks[name].get((side, row), "") for name in columns]
        return Line(label, side == "measured", tuple(map(Entry, shown, marked)))

    lines = []
    printed = dict.fromkeys(row for row, name in read_published(table) if name in columns)
    for row in dict.fromkeys([*printed, *map(table.published_row, table.measured)]):
        if row in printed:
            lines.append(line(row, row, "published"))
        for ours in (name for name in table.measured if table.published_row(name) == row):
            lines.append(line(ours, MEASURED if ours == row and row in printed else ours, "measured"))
    return Part(title, columns, tuple(lines))


def _marks(
    table: PaperTable, at: Mapping[tuple[str, str], Cell], column: str, digits: int
) -> dict[tuple[Side, str], Mark]:
    """Best and second of a column by (side, row); nothing for a table without published figures, whose arms' intervals
    say more, and no second of two."""
    if table.published is None:
        return {}
    values: dict[tuple[Side, str], float] = {}
    for (row, name), c in at.items():
        if name != column or row in table.unranked:
            continue
        if c.published is not None and table.published_row(row) == row:
            values["published", row] = round(c.published, digits)
        if c.state == "measured" and c.metric and c.metric.value is not None and table.measured[row].minus is None:
            values["measured", row] = round(c.metric.value, digits)
    places: tuple[Mark, ...] = ("best", "second")[: max(0, len(values) - 1)]
    ranks = dict(zip(sorted(set(values.values()), reverse=True), places))
    return {where: ranks[value] for where, value in values.items() if value in ranks}


def details(table: PaperTable, cells: Sequence[Cell]) -> list[list[str]]:
    """Header and one row per cell with a report of ours."""
    digits = _digits(table)
    return [list(DETAILS), *(_detail(c, digits[c.column]) for c in cells if c.state in ("measured", "not comparable"))]


def todo(table: PaperTable, cells: Sequence[Cell]) -> list[Todo]:
    """What was not run, by row: steps that all its cells share once, then those of each benchmark. Rows that come from
    the same steps are named together; means are left out."""
    made: dict[tuple[Step, tuple[Step, ...]], list[str]] = {}
    for row in table.measured:
        steps: dict[tuple, list[str]] = {}
        for c in cells:
            if c.row == row and c.commands:
                steps.setdefault((c.missing, c.commands), []).append(c.column)
        if not steps:
            continue
        missing, commands = (_shared([step[n] for step in steps]) if len(steps) > 1 else () for n in (0, 1))
        each = (Step(tuple(columns), _without(m, missing), _without(c, commands)) for (m, c), columns in steps.items())
        made.setdefault((Step((), missing, commands), tuple(each)), []).append(row)
    return [Todo(", ".join(rows), first, each) for (first, each), rows in made.items()]


def _shared(some: Sequence[Sequence[str]]) -> tuple[str, ...]:
    return tuple(text for text in some[0] if all(text in others for others in some))


def _without(texts: Sequence[str], shared: Sequence[str]) -> tuple[str, ...]:
    return tuple(text for text in texts if text not in shared)


def notes(table: PaperTable, origins: Mapping[str, Sequence[str]]) -> list[str]:
    """What a reader must know: how means are made, and who answered for each measured row."""
    rules: dict[str, list[str]] = {}
    for name, weights in table.means.items():
        rules.setdefault(mean_rule(weights), []).append(name)
    made = [f"{', '.join(names)}: made here from the cells, {rule}" for rule, names in rules.items()]
    return made + [f"{row}: {line}" for row, lines in origins.items() for line in lines]


def _digits(table: PaperTable) -> dict[str, int]:
    """Decimals of every column: as many as its printed figures have."""
    printed: dict[str, int] = {}
    for (_, name), text in read_published(table).items():
        printed[name] = max(printed.get(name, 0), len(text.partition(".")[2]))
    made = {name: printed.get(name, table.digits) for name in table.columns}
    return made | {name: max(made[c] for c in weights) for name, weights in table.means.items()}


def _detail(cell: Cell, digits: int) -> list[str]:
    m = cell.metric
    if m is None or m.lo is None or m.hi is None:
        interval = "–"
    else:
        interval = f"{_number(m.lo, digits)} … {_number(m.hi, digits)}"
    difference = "–" if cell.difference is None else f"{cell.difference:+.{digits}f}"
    return [cell.row, cell.column, _number(cell.published, digits), _number(m.value if m else None, digits),
            difference, interval, str(m.n) if m else "–", cell.state, cell.reason]  # fmt: skip


def _published(cell: Cell | None, digits: int) -> str:
    return _number(cell.published if cell else None, digits)


def _shown(cell: Cell | None, digits: int) -> str:
    if cell is None or cell.state == "not run":
        return "not run"
    value = _number(cell.metric.value if cell.metric else None, digits)
    return value if cell.state == "measured" else f"({value})"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
