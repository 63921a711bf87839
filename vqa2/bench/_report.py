"""The report of a run as one static HTML page: figures and thumbnails are inlined, nothing is loaded from elsewhere."""

import base64
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from vqa2.bench import _figures
from vqa2.bench._matrix import Row, change, names
from vqa2.bench._summary import RunSummary, Sample, Stage
from vqa2.bench._table import coverage, interval, number
from vqa2.core.records import Metric, Report

TEMPLATE = "report.html.j2"
_BARS = "accuracy by distortion"


def write_html(path: Path, title: str, reports: Sequence[Report], run: RunSummary) -> None:
    """Writes the page. A stage without metrics.jsonl is said to have none; a malformed one is a DataError."""
    env = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    env.filters.update(
        number=number, interval=interval, coverage=coverage, duration=duration, short=_short, pretty=_pretty
    )
    template = env.from_string(resources.files("vqa2.bench").joinpath(TEMPLATE).read_text(encoding="utf-8"))
    page = template.render(
        title=title,
        run=run,
        reports=reports,
        failed=sum(r.n_failed for r in reports),
        expected=sum(r.n_expected for r in reports),
        scatters={name: _svg(_figures.scatter(points)) for name, points in run.points.items() if points},
        bars=[(r, _svg(_figures.accuracy_bars(r.groups[_BARS]))) for r in reports if r.groups.get(_BARS)],
        losses=_svg(_figures.loss_curves(run.stages)),
        rewards=_rewards(run.stages),
        without_metrics=[s.name for s in run.stages if not s.metrics.is_file()],
        samples=[(sample, _thumbnail(sample)) for sample in run.samples],
        worst={name: [(s, _thumbnail(s)) for s in some] for name, some in run.worst.items() if some},
        abilities=_abilities(run.abilities),
        ablation=_ablation(run.ablation),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(page, encoding="utf-8")
    part.replace(path)


def duration(seconds: float | None) -> str:
    """`1 h 02 min`, `3 min 20 s`, `12 s`, or a dash."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def _short(value: str | int | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _pretty(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=1)


def _rewards(stages: Sequence[Stage]) -> dict[str, str]:
    rows = {s.name: _figures.read_metrics(s.metrics) for s in stages}
    made = {name: _figures.reward_curves(some) for name, some in rows.items() if any("reward" in row for row in some)}
    return {name: _svg(image) for name, image in made.items()}


def _ablation(variants: Mapping[str, Sequence[Report]]) -> dict[str, Any]:
    """A row `benchmark · metric` with one (metric, coverage) per variant, None where a variant lacks it."""
    cells: dict[str, dict[str, tuple[Metric, str]]] = {}
    for variant, reports in variants.items():
        for report in reports:
            for metric in report.metrics:
                row = cells.setdefault(f"{report.benchmark} · {metric.name}", {})
                row[variant] = (metric, coverage(report))
    return {"variants": list(variants), "rows": {name: [row.get(v) for v in variants] for name, row in cells.items()}}


def _abilities(rows: Sequence[Row]) -> dict[str, Any]:
    """Per stage one (metric, `gained` or `lost`) per ability."""
    found = names(rows)
    made = {r.stage: [(r.abilities.get(name), change(r, rows, name)) for name in found] for r in rows}
    return {"names": found, "rows": made}


def _thumbnail(sample: Sample) -> str:
    return _uri(sample.thumbnail, "image/jpeg") if sample.thumbnail else ""


def _svg(image: bytes | None) -> str:
    return _uri(image, "image/svg+xml") if image else ""


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
