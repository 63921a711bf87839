"""Benchmark `scoring`: rated clips (VQA², section 4). SRCC, PLCC, KRCC and RMSE of 100 x score01 against MOS on 0-100.

Raw scores, as the released scorers of VQA² and Q-Align: no logistic fit. Departs from them: items that fail are counted
and listed (the released script skips them), and every figure has n and a 95 % bootstrap interval.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from vqa2.bench._items import Item, errors
from vqa2.bench._rows import query_of, rows_of
from vqa2.bench._summary import Point
from vqa2.core.config import register
from vqa2.core.errors import DataError
from vqa2.core.records import Answer, Metric, Report
from vqa2.core.scale import quality_metric, quality_metrics


@register("benchmark", "scoring")
class Scoring:
    """`file`: instruction rows with MOS under `root`; the row's question (with its stall text) is what is asked.
    `groups`: tags to break SRCC down by."""

    label: str
    root: str
    file: str
    groups: tuple[str, ...]
    batch_size: Annotated[int, Ge(1)]
    bootstrap: Annotated[int, Ge(0)]
    seed: Annotated[int, Ge(0)]

    def items(self) -> list[Item]:
        """One item per row. DataError for a row without MOS, or with one outside 0-100."""
        root = Path(self.root)
        made = []
        for row in rows_of(root, self.file, self.groups):
            if row.mos is None or not 0.0 <= row.mos <= 100.0:
                raise DataError(f"{root / self.file}: {row.id}: mos: a number on 0-100 is needed, got {row.mos}")
            target = {"mos": row.mos, "clip": row.clip_id, "tags": row.tags}
            made.append(Item(query=query_of(root, row), mode="score", target=target))
        return made

    def report(self, items: Sequence[Item], answers: Sequence[Answer], predictor: str) -> Report:
        """Correlations over the items that were scored."""
        scored = [(i, 100 * a.score01) for i, a in zip(items, answers, strict=True) if a.score01 is not None]
        metrics = quality_metrics(
            [s for _, s in scored], [i.target["mos"] for i, _ in scored], bootstrap=self.bootstrap, seed=self.seed
        )
        return Report(
            benchmark=self.label,
            predictor=predictor,
            metrics=metrics,
            n_expected=len(items),
            n_scored=len(scored),
            failures=tuple(errors(items, answers)),
            groups={f"SRCC by {tag.replace('_', ' ')}": self._by(tag, scored) for tag in self.groups},
            notes=_notes(items),
        )

    def points(self, items: Sequence[Item], answers: Sequence[Answer]) -> list[Point]:
        """Predicted against target, both on 0-100, for the scatter plot."""
        return [
            Point(predicted=100 * a.score01, target=i.target["mos"], group=i.target["tags"].get("distortion", ""))
            for i, a in zip(items, answers, strict=True)
            if a.score01 is not None
        ]

    def _by(self, tag: str, scored: Sequence[tuple[Item, float]]) -> tuple[Metric, ...]:
        groups: dict[str, list[tuple[float, float]]] = {}
        for item, score in scored:
            groups.setdefault(item.target["tags"][tag], []).append((score, item.target["mos"]))
        made = []
        for value, pairs in groups.items():
            x, y = zip(*pairs)
            made.append(replace(quality_metric("SRCC", x, y, bootstrap=self.bootstrap, seed=self.seed), name=value))
        return tuple(made)


def _notes(items: Sequence[Item]) -> tuple[str, ...]:
    """What a reader must know: scale, rows that share a clip, targets that are not human ratings."""
    notes = ["raw scores 100 x score01 against MOS on 0-100, no logistic fit"]
    clips = len({i.target["clip"] for i in items})
    if clips < len(items):
        notes.append(f"{len(items)} rows on {clips} clips; intervals resample rows, so they are too narrow")
    rules = Counter(i.target["tags"].get("mos_rule", "mos") for i in items)
    if set(rules) != {"mos"}:
        counts = ", ".join(f"{rule} {count}" for rule, count in sorted(rules.items()))
        notes.append(f"targets are pseudo-MOS, not MOS (rule and rows: {counts})")
    return tuple(notes)
