"""Benchmark `scoring`: rated clips (VQA², section 4; VQAThinker, table 1). 100 x score01 against MOS on 0-100.

SRCC and KRCC; PLCC and RMSE both of raw scores, as the released scorers of VQA², VQAThinker and Q-Align report them,
and after the 4-parameter logistic, as most other work does. Departs from the released scripts: items that fail are
counted and listed (they skip them), and every figure has n and a 95 % bootstrap interval.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Annotated

from annotated_types import Ge

from vqa2.bench._items import Item, check_file, errors
from vqa2.bench._rows import query_of, rows_of
from vqa2.bench._summary import Point
from vqa2.core.config import register
from vqa2.core.errors import DataError
from vqa2.core.records import Answer, Instruction, Metric, Report, read_jsonl
from vqa2.core.scale import paired_difference, paired_differences, quality_metric, quality_metrics

_GROUPED = ("SRCC", "PLCC raw")


@register("benchmark", "scoring")
class Scoring:
    """`file`: instruction rows with MOS under `root`; the row's question (with its stall text) is what is asked.

    `prepare`: the command that gets the file, null where there is none. `where`: tags a row must have, for sets with
    several rows a clip. `without`: instruction sets (any path) whose clips are left out: what a model was trained on.
    `groups`: tags to break correlations down by. `published_n`: how many items the published figures are on, null where
    nothing is published; `sources`: the sources of data_prep whose clips these are, empty for any.
    """

    label: str
    root: str
    prepare: str | None
    file: str
    where: dict[str, str]
    without: tuple[str, ...]
    groups: tuple[str, ...]
    published_n: Annotated[int, Ge(1)] | None
    sources: tuple[str, ...]
    batch_size: Annotated[int, Ge(1)]
    bootstrap: Annotated[int, Ge(0)]
    seed: Annotated[int, Ge(0)]

    def inputs(self) -> tuple[Path, ...]:
        """The files that decide what is asked and what is right."""
        return (Path(self.root) / self.file, *map(Path, self.without))

    def items(self) -> list[Item]:
        """One item per row. DataError for a row without MOS, or with one outside 0-100."""
        root = Path(self.root)
        check_file(root / self.file, self.prepare)
        rows = rows_of(root, self.file, (*self.groups, *self.where))
        rows = [r for r in rows if all(r.tags[tag] == value for tag, value in self.where.items())]
        made = []
        for row in self._kept(rows):
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
        groups = {(name, tag): self._by(name, tag, scored) for tag in self.groups for name in _GROUPED}
        return Report(
            benchmark=self.label,
            predictor=predictor,
            metrics=metrics,
            n_expected=len(items),
            n_scored=len(scored),
            failures=tuple(errors(items, answers)),
            groups={_group(name, tag): made for (name, tag), made in groups.items()},
            notes=_notes(items),
            deviations=tuple(self._deviations(items, len(scored))),
            marks={i.query.id: 1 - abs(s - i.target["mos"]) / 100 for i, s in scored},
        )

    def compare(self, items: Sequence[Item], answers: Sequence[Answer], others: Sequence[Answer]) -> tuple[Metric, ...]:
        """Every metric of `answers` minus that of `others`, on the items that both scored; correlations also by tag
        (`<group> / <member>`)."""
        both = [
            (i, 100 * a.score01, 100 * b.score01)
            for i, a, b in zip(items, answers, others, strict=True)
            if a.score01 is not None and b.score01 is not None
        ]
        drawn = {"bootstrap": self.bootstrap, "seed": self.seed}
        made = [*paired_differences(*_sides(both), **drawn)]
        for tag in self.groups:
            members: dict[str, list[tuple[Item, float, float]]] = {}
            for item, *scores in both:
                members.setdefault(item.target["tags"][tag], []).append((item, *scores))
            made += [
                replace(paired_difference(name, *_sides(some), **drawn), name=f"{_group(name, tag)} / {value}")
                for name in _GROUPED
                for value, some in members.items()
            ]
        lost = len(items) - len(both)
        return tuple(
            replace(m, note="; ".join(filter(None, [m.note, f"{lost} items that not both sides scored left out"])))
            if lost
            else m
            for m in made
        )

    def points(self, items: Sequence[Item], answers: Sequence[Answer]) -> list[Point]:
        """Predicted against target, both on 0-100, for the scatter plot."""
        return [
            Point(predicted=100 * a.score01, target=i.target["mos"], group=i.target["tags"].get("distortion", ""))
            for i, a in zip(items, answers, strict=True)
            if a.score01 is not None
        ]

    def _kept(self, rows: Sequence[Instruction]) -> Sequence[Instruction]:
        """The rows whose clips are in none of the sets under `without`, by clip id or by folder and name of the media
        file (sets of other data roots have other ids). DataError for a set that changes nothing."""
        for file in self.without:
            seen = {name for row in read_jsonl(Path(file), Instruction) for name in _clip_names(row)}
            kept = [row for row in rows if seen.isdisjoint(_clip_names(row))]
            if len(kept) == len(rows):
                raise DataError(f"{self.label}.without: no clip of {file} is in {Path(self.root) / self.file}")
            rows = kept
        return rows

    def _deviations(self, items: Sequence[Item], scored: int) -> list[str]:
        """Why the figures are not comparable with published ones."""
        found = []
        if self.published_n is not None and len(items) != self.published_n:
            found.append(f"{len(items)} items, published on {self.published_n}")
        foreign = Counter(_source(i.target["clip"]) for i in items if _source(i.target["clip"]) not in self.sources)
        if self.sources and foreign:
            counts = ", ".join(f"{count} of {name}" for name, count in sorted(foreign.items()))
            found.append(f"clips of another dataset ({counts}), published on {' or '.join(self.sources)}")
        splits = {i.target["tags"].get("split", "unnamed") for i in items} - {"test"}
        if splits:
            found.append(f"rows of split {', '.join(sorted(splits))}, published on test")
        if scored < len(items):
            found.append(f"{len(items) - scored} items not scored")
        return found

    def _by(self, name: str, tag: str, scored: Sequence[tuple[Item, float]]) -> tuple[Metric, ...]:
        groups: dict[str, list[tuple[float, float]]] = {}
        for item, score in scored:
            groups.setdefault(item.target["tags"][tag], []).append((score, item.target["mos"]))
        made = []
        for value, pairs in groups.items():
            x, y = zip(*pairs)
            made.append(replace(quality_metric(name, x, y, bootstrap=self.bootstrap, seed=self.seed), name=value))
        return tuple(made)


def _group(metric: str, tag: str) -> str:
    """The name of a breakdown."""
    return f"{metric} by {tag.replace('_', ' ')}"


def _sides(both: Sequence[tuple[Item, float, float]]) -> tuple[list[float], list[float], list[float]]:
    """Scores of either side and MOS."""
    return [a for _, a, _ in both], [b for _, _, b in both], [i.target["mos"] for i, _, _ in both]


def _source(clip_id: str) -> str:
    """The source of data_prep that a clip comes from: its id begins with it."""
    name, mark, _ = clip_id.partition("/")
    return name if mark else "no named source"


def _clip_names(row: Instruction) -> set[str | tuple[str, ...]]:
    """What a clip is recognized by in another set. A bare file name is none: many sets have a `1.mp4`."""
    parts = PurePosixPath(row.media or "").parts[-2:]
    return {row.clip_id, parts} if len(parts) == 2 else {row.clip_id}


def _notes(items: Sequence[Item]) -> tuple[str, ...]:
    """What a reader must know: scale, rows that share a clip, targets that are not human ratings."""
    notes = ["100 x score01 against MOS on 0-100; raw, and after a 4-parameter logistic fitted once to all items"]
    clips = len({i.target["clip"] for i in items})
    if clips < len(items):
        notes.append(f"{len(items)} rows on {clips} clips; intervals resample rows, so they are too narrow")
    rules = Counter(i.target["tags"].get("mos_rule", "mos") for i in items)
    if set(rules) != {"mos"}:
        counts = ", ".join(f"{rule} {count}" for rule, count in sorted(rules.items()))
        notes.append(f"targets are pseudo-MOS, not MOS (rule and rows: {counts})")
    return tuple(notes)
