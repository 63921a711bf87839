"""What benchmarks, runner and report share: the item, its grade, and the sums over grades.

Counting rules of every benchmark: an item that gave no answer (media missing, predictor error) is in no metric; a reply
that cannot be read is a wrong answer in the metrics. Both are failures: counted as not scored and listed with a reason.
"""

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from vqa2.core.errors import DataError
from vqa2.core.records import Answer, Metric, Predictor, Query, Report
from vqa2.core.scale import accuracy, bootstrap_interval, difference_metric


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing to ask. `mode` is the predictor's verb; `target` holds what the benchmark grades with."""

    query: Query
    mode: Literal["score", "answer"]
    target: dict[str, Any]


class Benchmark(Protocol):
    """A component of kind "benchmark": a frozen dataclass whose fields are its configuration."""

    label: str
    batch_size: int
    seed: int

    def inputs(self) -> tuple[Path, ...]:
        """The files that decide what is asked and what is right."""

    def items(self) -> list[Item]:
        """Everything to ask, in a fixed order, with unique ids. DataError for malformed files."""

    def report(self, items: Sequence[Item], answers: Sequence[Answer], predictor: str) -> Report:
        """Metrics over answers aligned with items; `predictor` is its name."""

    def compare(self, items: Sequence[Item], answers: Sequence[Answer], others: Sequence[Answer]) -> tuple[Metric, ...]:
        """Metrics of `answers` minus those of `others`, on the items that both have, with significance."""


class OpenPredictor(Predictor, Protocol):
    """A predictor that is ready to answer; `fingerprint` changes whenever its answers could."""

    fingerprint: str


@runtime_checkable
class Planner(Protocol):
    """A predictor that prepares what it will be asked."""

    def plan(self, queries: Sequence[Query]) -> None:
        """Told before the first question what will be asked, in order."""

    def length(self, query: Query) -> int:
        """About how long a question is with its clip, in any unit; questions of one length are asked together."""


@runtime_checkable
class Described(Protocol):
    """A predictor whose checkpoint and settings go into result files."""

    provenance: dict[str, Any]


@dataclass(frozen=True)
class Grade:
    """`mark` in [0, 1], None where the item is not graded; `reason` is set where the reply could not be read."""

    item: Item
    mark: float | None
    reason: str = ""


def check_file(path: Path, prepare: str | None) -> None:
    """DataError for a file that is not there, with the command that gets it, where there is one."""
    if not path.is_file():
        how = "" if prepare is None else f"; get it with `{prepare}`"
        raise DataError(f"{path}: no such file{how}")


def shorten(text: str, limit: int = 80) -> str:
    """A reply on one line, for lists of failures."""
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def errors(items: Sequence[Item], answers: Sequence[Answer]) -> list[tuple[str, str]]:
    """(id, reason) of the items that gave no answer."""
    return [(i.query.id, a.error) for i, a in zip(items, answers, strict=True) if a.error is not None]


Breakdowns = Mapping[str, Callable[[Item], Sequence[Hashable]]]
"""Name of a breakdown -> the values of it that an item counts under."""


@dataclass(frozen=True)
class Marks:
    """Accuracy over grades with the benchmark's bootstrap settings."""

    bootstrap: int
    seed: int

    def mean(self, name: str, grades: Sequence[Grade], note: str = "") -> Metric:
        """Accuracy over the graded items, with its chance level where the items know theirs."""
        made = accuracy([g.mark for g in grades if g.mark is not None], name, bootstrap=self.bootstrap, seed=self.seed)
        parts = [made.note, _chance(grades), note]
        return replace(made, note="; ".join(filter(None, parts)))

    def parsed(self, grades: Sequence[Grade]) -> Metric:
        """Share of replies that could be read."""
        made = accuracy([float(not g.reason) for g in grades], "parsed", bootstrap=self.bootstrap, seed=self.seed)
        unread = sum(bool(g.reason) for g in grades)
        return replace(made, note=made.note or f"{unread} unparseable replies, counted as wrong")

    def by(self, grades: Sequence[Grade], key: Callable[[Item], Sequence[Hashable]]) -> tuple[Metric, ...]:
        """One accuracy per value of `key`; an item counts under each of its values. Values in order of appearance."""
        groups: dict[Hashable, list[Grade]] = {}
        for grade in grades:
            for value in key(grade.item):
                groups.setdefault(value, []).append(grade)
        return tuple(self.mean(str(value), members) for value, members in groups.items())

    def macro(self, name: str, grades: Sequence[Grade], key: Callable[[Item], Hashable]) -> Metric:
        """Unweighted mean, over the values of `key`, of the accuracies of their items. Undefined for no items."""
        known = [g for g in grades if g.mark is not None]
        if not known:
            return Metric(name=name, value=None, n=0, note="undefined: no items")
        marks = np.array([g.mark for g in known])
        _, group = np.unique([str(key(g.item)) for g in known], return_inverse=True)
        count = group.max() + 1

        def mean(index: np.ndarray) -> float:
            sizes = np.bincount(group[index], minlength=count)
            sums = np.bincount(group[index], marks[index], count)
            return float((sums / sizes).mean()) if sizes.all() else np.nan

        lo, hi = bootstrap_interval(mean, len(marks), self.bootstrap, self.seed)
        return Metric(name=name, value=mean(np.arange(len(marks))), n=len(marks), lo=lo, hi=hi)

    def differences(
        self, name: str, first: Sequence[Grade], second: Sequence[Grade], breakdowns: Breakdowns
    ) -> tuple[Metric, ...]:
        """Accuracy of `first` minus that of `second` on the items that both have a mark for: over all of them (`name`)
        and per value of each breakdown (`<breakdown> / <value>`)."""
        others = {g.item.query.id: g.mark for g in second if g.mark is not None}
        pairs = [(g.item, g.mark - others[g.item.query.id])
                 for g in first if g.mark is not None and g.item.query.id in others]  # fmt: skip
        groups: dict[str, list[float]] = {name: [d for _, d in pairs]}
        for breakdown, key in breakdowns.items():
            for item, found in pairs:
                for value in key(item):
                    groups.setdefault(f"{breakdown} / {value}", []).append(found)
        return tuple(self._difference(label, np.array(found)) for label, found in groups.items())

    def _difference(self, name: str, found: np.ndarray) -> Metric:
        return difference_metric(
            name, lambda i: float(found[i].mean()), len(found), bootstrap=self.bootstrap, seed=self.seed
        )


def _chance(grades: Sequence[Grade]) -> str:
    """Chance level: the mean of 1 / number of choices, where every item is a choice."""
    levels = [g.item.target["chance"] for g in grades if "chance" in g.item.target]
    return f"chance {sum(levels) / len(levels):.3f}" if levels and len(levels) == len(grades) else ""


def chance_of(metric: Metric) -> float | None:
    """The chance level that `Marks.mean` put into the note."""
    found = re.search(r"chance (\d\.\d+)", metric.note)
    return float(found[1]) if found else None
