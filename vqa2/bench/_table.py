"""Reports as text: a table for the terminal and one in Markdown. A value never stands without interval and counts."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from vqa2.bench._origin import origin_line
from vqa2.core.records import Metric, Report

_COVERAGE = "scored / expected"
_NUMERIC = ("value", "95 % interval", "n", _COVERAGE)
COLUMNS = ("benchmark", "predictor", "metric", *_NUMERIC, "note")


def number(value: float | None) -> str:
    """Three decimals; a dash where there is no value."""
    return "–" if value is None else f"{value:.3f}"


def interval(metric: Metric) -> str:
    """`0.712 … 0.845`, or a dash."""
    return "–" if metric.lo is None or metric.hi is None else f"{metric.lo:.3f} … {metric.hi:.3f}"


def coverage(report: Report) -> str:
    """`118 / 120`."""
    return f"{report.n_scored} / {report.n_expected}"


def table(reports: Sequence[Report]) -> Table:
    """The headline metrics for a terminal; coverage below 100 % is marked."""
    told = "\n".join(map(origin_line, reports))
    made = Table(title="Evaluation", title_justify="left", header_style="bold", caption=told, caption_justify="left")
    for column in COLUMNS:
        numeric = column in _NUMERIC
        made.add_column(column, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for report in reports:
        for cells in _rows(report):
            style = "bold red" if report.n_failed else ""
            made.add_row(*(Text(c, style=style if n == _COVERAGE else "") for n, c in zip(COLUMNS, cells)))
        made.add_section()
    return made


def markdown(reports: Sequence[Report]) -> str:
    """Headline metrics, then every group, the notes and the failures of each report."""
    lines = [table_line(COLUMNS), table_line(["---"] * len(COLUMNS))]
    lines += [table_line(cells) for report in reports for cells in _rows(report)]
    lines += ["", *(f"- {origin_line(report)}" for report in reports)]
    for report in reports:
        lines += ["", f"## {report.benchmark}: {report.predictor}", "", f"Scored {coverage(report)} items.", ""]
        lines += [f"- {note}" for note in report.notes]
        lines += [f"- not comparable with published figures: {text}" for text in report.deviations]
        lines += [f"- not comparable: {text} ({', '.join(figures)})" for text, figures in report.limited.items()]
        for name, metrics in report.groups.items():
            lines += [
                "",
                f"### {name}",
                "",
                table_line(["", "value", "95 % interval", "n", "note"]),
                table_line(["---"] * 5),
            ]
            lines += [table_line([m.name, number(m.value), interval(m), str(m.n), m.note]) for m in metrics]
        if report.failures:
            lines += ["", f"### {report.n_failed} not scored", ""]
            lines += [f"- {_cell(name)}: {_cell(reason)}" for name, reason in report.failures]
    return "\n".join(lines) + "\n"


def write_markdown(path: Path, reports: Sequence[Report]) -> None:
    """The Markdown of the reports as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(markdown(reports), encoding="utf-8")


def _rows(report: Report) -> list[list[str]]:
    who = [report.benchmark, report.predictor]
    return [[*who, m.name, number(m.value), interval(m), str(m.n), coverage(report), m.note] for m in report.metrics]


def table_line(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
