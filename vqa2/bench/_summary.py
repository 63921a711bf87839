"""What the report page shows beside the benchmark reports; plain frozen data that the entry points fill in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vqa2.bench._matrix import Row
from vqa2.core.records import Report


@dataclass(frozen=True, kw_only=True)
class Point:
    """One clip of the scatter plot: both values on 0-100; `group` (its distortion) gives the color."""

    predicted: float
    target: float
    group: str


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One trained stage: its metrics.jsonl (rows with `step`), its duration and what else is worth a line."""

    name: str
    metrics: Path
    seconds: float | None
    numbers: Mapping[str, str | int | float]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One item as asked; `mark` is 1 for right, 0 for wrong, between them for partly right, None where answers are
    not graded; `thumbnail` is a JPEG, None where there is none."""

    id: str
    question: str
    reference: str
    reply: str
    mark: float | None
    thumbnail: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """Everything but the reports. `worst`: benchmark -> its worst items. `abilities`: the run's stages x abilities.
    `ablation`: variant name -> its reports. `data_note`: what the data are, empty where that needs no word. `earlier`:
    the benchmarks that an earlier evaluation asked; figures and worst items are not theirs. `environment`: as
    core.run.environment gives it. `config`: the composed configuration as YAML."""

    data_note: str
    earlier: Sequence[str] = ()
    stages: Sequence[Stage] = ()
    points: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    samples: Sequence[Sample] = ()
    samples_note: str = ""
    worst: Mapping[str, Sequence[Sample]] = field(default_factory=dict)
    abilities: Sequence[Row] = ()
    ablation: Mapping[str, Sequence[Report]] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    config: str = ""
