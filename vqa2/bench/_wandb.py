"""An evaluation as tables in Weights & Biases: every metric with interval and counts; the worst items with pictures."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from vqa2.bench._summary import Sample
from vqa2.core.records import Report

METRICS = ("benchmark", "predictor", "group", "metric", "value", "lo", "hi", "n", "scored", "expected", "note")
WORST = ("benchmark", "item", "picture", "question", "reference", "reply", "mark")


def metric_rows(reports: Sequence[Report]) -> list[list]:
    """One row per metric, those of groups included; see METRICS."""
    rows = []
    for report in reports:
        for group, metrics in {"": report.metrics, **report.groups}.items():
            who, counts = [report.benchmark, report.predictor, group], [report.n_scored, report.n_expected]
            rows += [[*who, m.name, m.value, m.lo, m.hi, m.n, *counts, m.note] for m in metrics]
    return rows


def log_tables(
    project: str, name: str, reports: Sequence[Report], worst: Mapping[str, Sequence[Sample]], folder: Path
) -> None:
    """One wandb run with the tables `metrics` and `worst` and every headline metric as a summary value."""
    import wandb

    with wandb.init(project=project, name=name, job_type="eval", dir=str(folder)) as run:
        run.log({
            "metrics": wandb.Table(columns=list(METRICS), data=metric_rows(reports)),
            "worst": wandb.Table(columns=list(WORST), data=_worst_rows(worst, wandb.Image)),
        })  # fmt: skip
        for report in reports:
            for metric in report.metrics:
                if metric.value is not None:
                    run.summary[f"{report.benchmark}/{metric.name}"] = metric.value


def _worst_rows(worst: Mapping[str, Sequence[Sample]], picture) -> list[list]:
    rows = []
    for benchmark, samples in worst.items():
        for s in samples:
            image = Image.open(io.BytesIO(s.thumbnail)) if s.thumbnail else None
            shown = None if image is None else picture(image)
            rows.append([benchmark, s.id, shown, s.question, s.reference, s.reply, s.mark])
    return rows
