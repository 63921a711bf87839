"""A paper's table as Markdown, LaTeX, CSV and HTML, all from the same two grids.

The first grid has the paper's rows and columns; a row that can be measured is followed by one with what was measured.
The second lists every such cell: published, measured, difference, interval, n, state and reason.
"""

import csv
import html
import io
from collections.abc import Sequence

from vqa2.bench._paper import Cell, PaperTable
from vqa2.bench._table import table_line

MEASURED = "measured here"
DETAILS = ("row", "column", "published", "measured", "difference", "95 % interval", "n", "state", "reason")
_STYLE = (
    "body{font:14px/1.5 sans-serif;margin:2rem;color:#1c2430}table{border-collapse:collapse;margin:1rem 0}"
    "th,td{padding:.25rem .6rem;border-bottom:1px solid #e3e7ec;text-align:right}"
    "th:first-child,td:first-child{text-align:left}"
)


def grid(table: PaperTable, cells: Sequence[Cell]) -> list[list[str]]:
    """Header and rows of the paper's layout. A figure that must not be compared stands in brackets."""
    at = {(c.row, c.column): c for c in cells}
    made = [["", *table.columns]]
    for row in dict.fromkeys(c.row for c in cells):
        found = [at.get((row, name)) for name in table.columns]
        if any(c is not None and c.published is not None for c in found):
            made.append([row, *(_number(c.published if c else None, table.digits) for c in found)])
        if row in table.measured:
            label = MEASURED if made[-1][0] == row else row
            made.append([label, *(_shown(c, table.digits) for c in found)])
    return made


def details(table: PaperTable, cells: Sequence[Cell]) -> list[list[str]]:
    """Header and one row per cell that can be measured."""
    return [list(DETAILS), *(_detail(c, table.digits) for c in cells if c.state != "published only")]


def markdown(table: PaperTable, cells: Sequence[Cell]) -> str:
    """Title, note, both grids."""
    lines = [f"# {table.title}", "", table.note, ""]
    for rows in (grid(table, cells), details(table, cells)):
        if len(rows) > 1:
            lines += [table_line(rows[0]), table_line(["---"] * len(rows[0])), *map(table_line, rows[1:]), ""]
    return "\n".join(lines)


def latex(table: PaperTable, cells: Sequence[Cell]) -> str:
    """Both grids for booktabs, title and note as caption. The second has the cells with a value, without reasons: these
    are command lines, which Markdown, CSV and HTML have."""
    head, *rows = details(table, [c for c in cells if c.metric is not None])
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{_tex(table.title)}. {_tex(table.note)}}}"]
    lines += _tabular(grid(table, cells))
    if rows:
        lines += [r"\par\medskip", *_tabular([row[:-1] for row in (head, *rows)])]
    return "\n".join([*lines, r"\end{table}", ""])


def as_csv(cells: Sequence[Cell]) -> str:
    """Every cell, published ones too, at full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["row", "column", "published", "measured", "difference", "lo", "hi", "n", "state", "reason"])
    for c in cells:
        m = c.metric
        found = [m.value, c.difference, m.lo, m.hi, m.n] if m else [None] * 5
        writer.writerow([c.row, c.column, c.published, *found, c.state, c.reason])
    return out.getvalue()


def page(table: PaperTable, cells: Sequence[Cell]) -> str:
    """One static page that loads nothing."""
    title = html.escape(table.title)
    tables = "".join(_html(rows) for rows in (grid(table, cells), details(table, cells)) if len(rows) > 1)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>{html.escape(table.note)}</p>{tables}</html>\n"
    )


def _detail(cell: Cell, digits: int) -> list[str]:
    m = cell.metric
    if m is None or m.lo is None or m.hi is None:
        interval = "–"
    else:
        interval = f"{_number(m.lo, digits)} … {_number(m.hi, digits)}"
    difference = "–" if cell.difference is None else f"{cell.difference:+.{digits}f}"
    measured, n = (_number(m.value, digits), str(m.n)) if m else ("–", "–")
    return [cell.row, cell.column, _number(cell.published, digits), measured, difference, interval, n,
            cell.state, cell.reason]  # fmt: skip


def _shown(cell: Cell | None, digits: int) -> str:
    if cell is None or cell.state == "not run":
        return "not run"
    value = _number(cell.metric.value if cell.metric else None, digits)
    return value if cell.state == "measured" else f"({value})"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _html(rows: Sequence[Sequence[str]]) -> str:
    head, *body = ["".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in row)
                   for row, tag in zip(rows, ["th", *["td"] * len(rows)])]  # fmt: skip
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{r}</tr>' for r in body)}</tbody></table>"


def _tabular(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = [" & ".join(map(_tex, row)) + r" \\" for row in rows]
    columns = "l" + "r" * (len(rows[0]) - 1)
    return [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]


_TEX = str.maketrans(
    {c: rf"\{c}" for c in "&%_#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"²": r"\textsuperscript{2}", "–": "--", "…": r"\dots{}", "<": r"\textless{}", ">": r"\textgreater{}"}
)


def _tex(text: str) -> str:
    return text.translate(_TEX)
