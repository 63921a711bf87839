"""A paper's table as Markdown, LaTeX, CSV and HTML, all from one layout (_paper_grid)."""

import csv
import io
from collections.abc import Mapping, Sequence
from importlib import resources

from jinja2 import Environment, StrictUndefined

from vqa2.bench._paper import Cell, PaperTable
from vqa2.bench._paper_grid import Entry, Part, details, notes, parts, todo
from vqa2.bench._table import table_line

TEMPLATE = "paper.html.j2"
Origins = Mapping[str, Sequence[str]]
_WIDE = 6
"""Columns from which a LaTeX table is scaled to the line."""


def markdown(table: PaperTable, cells: Sequence[Cell], origins: Origins) -> str:
    """Title, note, the parts of the table, what was measured, what was not run and how to get it."""
    lines = [f"# {table.title}", "", table.note, ""]
    made = parts(table, cells)
    for part in made:
        lines += [f"## {part.title}", ""] if part.title else []
        rows = [[line.label, *map(_starred, line.entries)] for line in part.lines]
        lines += [*_lined(["", *part.columns], rows), ""]
    lines += ["**Best** and _second_ of a column.", ""] if _marked(made) else []
    lines += [*(f"- {note}" for note in notes(table, origins)), ""] if notes(table, origins) else []
    head, *rows = details(table, cells)
    lines += [*_lined(head, rows), ""] if rows else []
    for row in todo(table, cells):
        lines += [f"## Not run: {row.row}", ""]
        if row.first.commands:
            missing = f"Missing here: {', '.join(row.first.missing)}. " if row.first.missing else ""
            lines += [f"{missing}First:", "", "```bash", *row.first.commands, "```", ""]
        rows = [[", ".join(step.columns), ", ".join(step.missing) or "–", f"`{' && '.join(step.commands)}`"]
                for step in row.each]  # fmt: skip
        lines += [*_lined(["columns", "missing here", "then"], rows), ""]
    return "\n".join(lines)


def latex(table: PaperTable, cells: Sequence[Cell], origins: Origins) -> str:
    """The parts for booktabs and graphicx, title and notes as caption, then what was measured without its reasons. What
    was not run is left out: these are command lines, which the other forms have."""
    made = parts(table, cells)
    legend = ["Bold: best of a column; underlined: second"] if _marked(made) else []
    texts = [text.rstrip(".") for text in (table.title, table.note, *legend, *notes(table, origins))]
    lines = [r"% \usepackage{booktabs,graphicx}", r"\begin{table*}", r"\centering\footnotesize"]
    lines += [rf"\caption{{{_tex('. '.join(texts))}.}}"]
    for part in made:
        lines += [rf"\par\medskip\textit{{{_tex(part.title)}}}\par\smallskip"] if part.title else []
        rows = [[_tex(line.label), *map(_weighted, line.entries)] for line in part.lines]
        lines += _tabular(_heads(part), rows, len(part.columns))
    head, *rows = details(table, cells)
    if rows:
        rows = [list(map(_tex, row[:-1])) for row in rows]
        lines += [r"\par\medskip", *_tabular([" & ".join(map(_tex, head[:-1])) + r" \\"], rows, len(head) - 2)]
    return "\n".join([*lines, r"\end{table*}", ""])


def as_csv(cells: Sequence[Cell]) -> str:
    """Every cell, published ones too, at full precision. The reason of a cell that was not run names files and
    commands."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["row", "column", "published", "measured", "difference", "lo", "hi", "n", "state", "reason"])
    for c in cells:
        m = c.metric
        found = [m.value, c.difference, m.lo, m.hi, m.n] if m else [None] * 5
        needs = f"needs {', '.join(c.missing)}; " if c.missing else ""
        reason = f"{needs}run {' && '.join(c.commands)}" if c.commands else c.reason
        writer.writerow([c.row, c.column, c.published, *found, c.state, reason])
    return out.getvalue()


def page(table: PaperTable, cells: Sequence[Cell], origins: Origins) -> str:
    """One static page that loads nothing."""
    env = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = env.from_string(resources.files("vqa2.bench").joinpath(TEMPLATE).read_text(encoding="utf-8"))
    return template.render(table=table, parts=parts(table, cells), notes=notes(table, origins),
                           details=details(table, cells), todo=todo(table, cells))  # fmt: skip


def _marked(made: Sequence[Part]) -> bool:
    return any(entry.mark for part in made for line in part.lines for entry in line.entries)


def _lined(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [table_line(head), table_line(["---"] * len(head)), *map(table_line, rows)]


def _starred(entry: Entry) -> str:
    return {"best": "**{}**", "second": "_{}_", "": "{}"}[entry.mark].format(entry.text)


def _weighted(entry: Entry) -> str:
    text = _tex(entry.text)
    return {"best": rf"\textbf{{{text}}}", "second": rf"\underline{{{text}}}", "": text}[entry.mark]


def _heads(part: Part) -> list[str]:
    """One header line, or datasets above their metrics."""
    if part.heads is None:
        return [" & ".join(["", *map(_tex, part.columns)]) + r" \\"]
    tops, rules, at = [], [], 2
    for head, tails in part.heads:
        tops.append(rf"\multicolumn{{{len(tails)}}}{{c}}{{{_tex(head)}}}")
        rules.append(rf"\cmidrule(lr){{{at}-{at + len(tails) - 1}}}")
        at += len(tails)
    tails = [_tex(tail) for _, some in part.heads for tail in some]
    return [" & ".join(["", *tops]) + r" \\", "".join(rules), " & ".join(["", *tails]) + r" \\"]


def _tabular(heads: Sequence[str], rows: Sequence[Sequence[str]], figures: int) -> list[str]:
    """A tabular of one label and `figures` right-aligned columns; wide ones are scaled to the line."""
    body = [" & ".join(row) + r" \\" for row in rows]
    lines = [rf"\begin{{tabular}}{{l{'r' * figures}}}", r"\toprule", *heads, r"\midrule", *body, r"\bottomrule"]
    lines += [r"\end{tabular}"]
    return [r"\resizebox{\linewidth}{!}{%", *lines, "}"] if figures >= _WIDE else lines


_TEX = str.maketrans(
    {c: rf"\{c}" for c in "&%_#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"²": r"\textsuperscript{2}", "–": "--", "…": r"\dots{}", "<": r"\textless{}", ">": r"\textgreater{}"}
)


def _tex(text: str) -> str:
    return text.translate(_TEX)
