"""The figures of the report page, each a self-contained SVG. Points and bars carry their counts."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqa2.bench._items import chance_of
from vqa2.bench._summary import Point, Stage
from vqa2.core.errors import DataError
from vqa2.core.records import Metric

INK, MUTED, GRID, ACCENT, WARM = "#1c2430", "#66717f", "#e3e7ec", "#2f6db5", "#c8553d"
_COLORS = ("#2f6db5", "#c8553d", "#3b9a6d", "#8a5cb8", "#d29a2e", "#3aa3b8", "#b8508a")
_MARKERS = ("o", "^", "s")
_STYLE = {
    "font.size": 9.0,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    # The same numbers give the same bytes.
    "svg.hashsalt": "vqa2",
}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl; empty where a stage left none. DataError for a malformed line."""
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            raise DataError(f"{path}:{number}: not a line of JSON") from None
        if not isinstance(row, dict) or "step" not in row:
            raise DataError(f"{path}:{number}: step: missing")
        rows.append(row)
    return rows


def loss_curves(stages: Sequence[Stage]) -> bytes | None:
    """Loss against step, one panel per stage; None where no stage logged a loss."""
    series = [(s.name, _series(read_metrics(s.metrics), "loss")) for s in stages]
    return _panels([(name, {"": points}, "loss") for name, points in series if points])


def reward_curves(rows: Sequence[Mapping[str, Any]]) -> bytes | None:
    """GRPO: total reward, each reward's mean, and the share of parsed replies; None for a stage without rewards."""
    names = sorted({k for row in rows for k in row if k.startswith("rewards/") and k.endswith("/mean")})
    parts = {name.split("/")[1]: _series(rows, name) for name in names}
    panels = [("reward", {"": _series(rows, "reward")}, ""), ("by reward", parts, "mean")]
    panels.append(("parse rate", {"": _series(rows, "parse_rate")}, ""))
    return _panels([(title, lines, label) for title, lines, label in panels if any(lines.values())])


def scatter(points: Sequence[Point]) -> bytes:
    """Predicted score against target, both 0-100; colored and marked by group, with the identity line."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.6, 3.9), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=0.8, linestyle=(0, (4, 4)))
        for number, group in enumerate(sorted({p.group for p in points})):
            members = [p for p in points if p.group == group]
            axes.scatter(
                [p.target for p in members],
                [p.predicted for p in members],
                s=22,
                color=_COLORS[number % len(_COLORS)],
                marker=_MARKERS[number // len(_COLORS) % len(_MARKERS)],
                alpha=0.8,
                linewidths=0,
                clip_on=False,
                label=f"{group or 'all'} ({len(members)})",
            )
        axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
        axes.set(xlabel="target MOS or pseudo-MOS (0–100)", ylabel="predicted (0–100)", title=f"n = {len(points)}")
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0, handletextpad=0.3)
        return _svg(figure)


def accuracy_bars(metrics: Sequence[Metric]) -> bytes:
    """One bar per group with its interval and n; a tick marks the chance level."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.6, 0.6 + 0.3 * len(metrics)), layout="constrained")
        axes = figure.subplots()
        for row, metric in enumerate(metrics):
            _bar(axes, row, metric)
        axes.set_yticks(range(len(metrics)), [f"{m.name} ({m.n})" for m in metrics])
        axes.set(xlim=(0, 1.0), ylim=(len(metrics) - 0.4, -0.6), xlabel="accuracy, 95 % interval; tick: chance")
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        return _svg(figure)


def _bar(axes: Axes, row: int, metric: Metric) -> None:
    if metric.value is None:
        axes.text(0.01, row, metric.note, va="center", color=MUTED, fontsize=8)
        return
    axes.barh(row, metric.value, height=0.62, color=ACCENT, alpha=0.85)
    if metric.lo is not None and metric.hi is not None:
        axes.plot([metric.lo, metric.hi], [row, row], color=INK, linewidth=1.2)
    chance = chance_of(metric)
    if chance is not None:
        axes.plot([chance, chance], [row - 0.38, row + 0.38], color=WARM, linewidth=1.8)


def _panels(panels: Sequence[tuple[str, Mapping[str, Sequence[tuple[float, float]]], str]]) -> bytes | None:
    """Small multiples, three a row: (title, named lines, y label); a single line's title ends in its last value."""
    if not panels:
        return None
    rows, columns = math.ceil(len(panels) / 3), min(3, len(panels))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.3 * columns, 2.3 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).flat
        for (title, lines, label), axes in zip(panels, grid):
            for number, (name, points) in enumerate(lines.items()):
                x, y = zip(*points)
                mark = "o" if len(points) < 3 else ""
                axes.plot(x, y, color=_COLORS[number % len(_COLORS)], linewidth=1.4, marker=mark, label=name)
            last = f"   {next(iter(lines.values()))[-1][1]:.3g}" if list(lines) == [""] else ""
            axes.set(title=title + last, xlabel="step", ylabel=label)
            axes.margins(x=0.02)
            if list(lines) != [""]:
                axes.legend(loc="best")
        for axes in grid:  # what is left of the last row
            axes.set_axis_off()
        return _svg(figure)


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value) where a row has a finite number under `key`."""
    found = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float)]
    return [(float(step), float(value)) for step, value in found if math.isfinite(value)]


def _svg(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
