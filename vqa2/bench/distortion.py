"""Benchmark `distortion`: recognition of the main distortion (VQA², stage 1), answered in words ("It is noise.").

The paper reports no figures for this stage; reading rule and chance level are ours (vqa2/bench/_parse.py): the reply
must contain exactly one of the 13 names. Replies that cannot be read count as wrong and are listed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, MinLen

from vqa2.bench._items import Breakdowns, Grade, Item, Marks, check_file, errors, shorten
from vqa2.bench._parse import name_in
from vqa2.bench._rows import query_of, rows_of
from vqa2.core.config import register
from vqa2.core.errors import DataError
from vqa2.core.records import Answer, Instruction, Metric, Report

_TAGS = ("distortion", "variant")
_BREAKDOWNS: Breakdowns = {
    "accuracy by kind": lambda i: [i.target["kind"]],
    "accuracy by distortion": lambda i: [i.target["reference"]],
    "accuracy by temporal variant": lambda i: [i.target["variant"]] if i.target["kind"] == "temporal" else [],
}


@register("benchmark", "distortion")
class Distortion:
    """`files`: instruction rows under `root` with the tags `distortion` and `variant`; `prepare`: the command that gets
    them. `spatial`, `temporal`: the names
    that a row's question chooses from (chance is one over their number); replies are read against all of them."""

    label: str
    root: str
    prepare: str | None
    files: Annotated[tuple[str, ...], MinLen(1)]
    spatial: Annotated[tuple[str, ...], MinLen(1)]
    temporal: Annotated[tuple[str, ...], MinLen(1)]
    batch_size: Annotated[int, Ge(1)]
    bootstrap: Annotated[int, Ge(0)]
    seed: Annotated[int, Ge(0)]

    def inputs(self) -> tuple[Path, ...]:
        """The files that decide what is asked and what is right."""
        return tuple(Path(self.root) / file for file in self.files)

    def items(self) -> list[Item]:
        """One item per row. DataError for a distortion that is neither spatial nor temporal."""
        for path in self.inputs():
            check_file(path, self.prepare)
        return [self._item(file, row) for file in self.files for row in rows_of(Path(self.root), file, _TAGS)]

    def grade(self, item: Item, text: str) -> Grade:
        """1 for the exact name, 0 for another or for a reply that cannot be read."""
        said = name_in(text, self.spatial + self.temporal)
        reason = "" if said else f"unparseable reply: {shorten(text)!r}"
        return Grade(item, float(said == item.target["reference"]), reason)

    def report(self, items: Sequence[Item], answers: Sequence[Answer], predictor: str) -> Report:
        """Accuracy overall, spatial and temporal, per distortion and per variant of the temporal ones."""
        marks = Marks(self.bootstrap, self.seed)
        grades = self._grades(items, answers)
        unread = [(g.item.query.id, g.reason) for g in grades if g.reason]
        return Report(
            benchmark=self.label,
            predictor=predictor,
            metrics=(marks.mean("accuracy", grades), marks.parsed(grades)),
            n_expected=len(items),
            n_scored=len(grades) - len(unread),
            failures=(*errors(items, answers), *unread),
            groups={name: marks.by(grades, key) for name, key in _BREAKDOWNS.items()},
            notes=("a reply is read where it contains exactly one distortion name; unreadable replies count as wrong",),
            marks={g.item.query.id: g.mark for g in grades if g.mark is not None},
        )

    def compare(self, items: Sequence[Item], answers: Sequence[Answer], others: Sequence[Answer]) -> tuple[Metric, ...]:
        """Accuracies of `answers` minus those of `others`, on the items that both answered."""
        first, second = self._grades(items, answers), self._grades(items, others)
        return Marks(self.bootstrap, self.seed).differences("accuracy", first, second, _BREAKDOWNS)

    def _grades(self, items: Sequence[Item], answers: Sequence[Answer]) -> list[Grade]:
        return [self.grade(i, a.text) for i, a in zip(items, answers, strict=True) if a.text is not None]

    def _item(self, file: str, row: Instruction) -> Item:
        name, names = row.tags["distortion"], self.spatial + self.temporal
        if name not in names:
            where = f"{Path(self.root) / file}: {row.id}: tags.distortion"
            raise DataError(f"{where}: {name!r} is unknown; known: {', '.join(names)}")
        kind = "temporal" if name in self.temporal else "spatial"
        chance = 1 / len(self.temporal if kind == "temporal" else self.spatial)
        target = {"reference": name, "kind": kind, "variant": row.tags["variant"], "chance": chance}
        return Item(query=query_of(Path(self.root), row), mode="answer", target=target)
