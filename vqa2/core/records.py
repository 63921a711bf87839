"""The records that flow through the framework: clip -> instruction -> query -> answer -> report. Plain frozen data.

Units: MOS is on 0-100 (larger is better) unless a name says otherwise; score01 is in [0, 1]; times in seconds.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from vqa2.core.errors import DataError

T = TypeVar("T")
Kind = Literal["video", "image", "text"]


@dataclass(frozen=True, kw_only=True)
class Distortion:
    """One degradation of a clip: `name` is one of the 13 of VQA² stage 1, `variant` its mechanism (for example
    flicker and shake are two mechanisms of one name), `strength` in (0, 1]."""

    name: str
    strength: float
    variant: str = ""


@dataclass(frozen=True, kw_only=True)
class Stall:
    """A playback interruption: `start_s` on the played timeline; a stall at 0 is initial buffering."""

    start_s: float
    length_s: float


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A media file with its annotations. `path` is relative to the data root; clips that share `content` never
    lie in different splits. `mos` is on 0-100; `mos_rule` says where it comes from (`mos`, `vmaf`, `strength`)."""

    id: str
    path: str
    dataset: str
    split: str
    content: str
    kind: Kind
    mos: float | None = None
    mos_rule: str = ""
    distortions: tuple[Distortion, ...] = ()
    stalls: tuple[Stall, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Depiction:
    """What a person wrote about a clip's quality (VQA², stage 3): `overall`, and `in_context` sentences about moments
    or regions. `media` is relative to the data root; `mos` is on 0-100 where the clip is rated."""

    id: str
    clip_id: str
    media: str
    kind: Kind
    overall: str
    in_context: tuple[str, ...] = ()
    mos: float | None = None
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A degradation of known place and time in an otherwise clean clip: frames `start` to `end` (not included), pixels
    `box` = (left, top, right, bottom), the last two not included. `variant` is `none`, and the rest 0, in a clip that
    has none. `path` is relative to the data root."""

    id: str
    path: str
    split: str
    content: str
    variant: str
    strength: float
    start: int
    end: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One exchange; `user` holds the marks `<video>` (all visual content) and optionally `<motion>`."""

    user: str
    assistant: str


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One training row. `media` is relative to the data root and None for text-only rows."""

    id: str
    clip_id: str
    kind: Kind
    media: str | None
    task: str
    turns: tuple[Turn, ...]
    mos: float | None = None
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Query:
    """What a benchmark asks a predictor: `path` is absolute; `question` is None for plain scoring; `second` is the
    other clip of a question about two, or where `pristine`, the undistorted original of `path`; `prompt` is the text
    that a generated clip was made from. A `text` question has no clip. A question may hold the marks of
    vqa2/core/prompts.py for numbers of frames."""

    id: str
    path: Path
    kind: Kind
    question: str | None = None
    second: Path | None = None
    pristine: bool = False
    prompt: str | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A predictor's reply. Exactly one of (`text`, `score01`) and `error` is set; `levels` are the probabilities of
    high, good, fair, poor, low. A failure is never replaced by a value. `dropped_key_frames`: how many a clip lost so
    that its prompt fits the model."""

    id: str
    text: str | None = None
    score01: float | None = None
    levels: tuple[float, ...] | None = None
    error: str | None = None
    dropped_key_frames: int = 0


class Predictor(Protocol):
    """Anything that answers: a model, saved predictions, a baseline, one quality tool, the router, the agent."""

    name: str

    def score(self, queries: Sequence[Query]) -> list[Answer]:
        """One score01 per query, in order; an item that fails carries `error`."""

    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        """One text per query, in order; an item that fails carries `error`."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A value that never travels without its count; `lo`/`hi` bound the 95 % bootstrap interval; `value` is None
    where it is undefined and `note` says why."""

    name: str
    value: float | None
    n: int
    lo: float | None = None
    hi: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The outcome of one benchmark. n_expected = n_scored + n_failed; `failures` lists (id, reason).

    `deviations`: why these figures are not comparable with published ones (other items, split, frames); empty where
    they are. `limited`: such reasons that hold for some figures only, with their names: a metric, a group, or
    `<group> / <member>`. `provenance`: hashes, configuration and versions that the figures come from. `marks`: how
    well each graded item was answered, in [0, 1].
    """

    benchmark: str
    predictor: str
    metrics: tuple[Metric, ...]
    n_expected: int
    n_scored: int
    failures: tuple[tuple[str, str], ...] = ()
    groups: dict[str, tuple[Metric, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    deviations: tuple[str, ...] = ()
    limited: dict[str, tuple[str, ...]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    marks: dict[str, float] = field(default_factory=dict)

    @property
    def n_failed(self) -> int:
        return self.n_expected - self.n_scored

    def objections(self, figure: Sequence[str]) -> list[str]:
        """Why a figure (a metric's name, or a group's and a member's) is not comparable with a published one."""
        return [*self.deviations, *(text for text, figures in self.limited.items() if is_among(figure, figures))]


def is_among(figure: Sequence[str], figures: Sequence[str]) -> bool:
    """Whether a figure (a metric's name, or a group's and a member's) is one of `figures`: metrics, whole groups, or
    `<group> / <member>`."""
    return " / ".join(figure) in figures or figure[0] in figures


def write_jsonl(path: Path, records: Iterable) -> int:
    """Writes dataclass records, one JSON object a line, atomically; returns how many."""
    rows = [json.dumps(asdict(r), ensure_ascii=False, sort_keys=True) for r in records]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
    part.replace(path)
    return len(rows)


def read_jsonl(path: Path, cls: type[T]) -> list[T]:
    """Reads and validates records of dataclass `cls`. A malformed line is a DataError that names file and line."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    adapter, records = TypeAdapter(cls), []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            records.append(adapter.validate_json(line))
        except ValidationError as err:
            first = err.errors()[0]
            where = ".".join(str(x) for x in first["loc"])
            raise DataError(f"{path}:{number}: {where or 'row'}: {first['msg'].lower()}") from None
    return records


def json_object(line: str, where: str) -> dict[str, Any]:
    """One line as a JSON object; DataError that begins with `where` for anything else."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        row = None
    if not isinstance(row, dict):
        raise DataError(f"{where}: not a JSON object")
    return row


def inside(root: Path, relative: str) -> Path:
    """`root / relative`, refused where the name leaves the data root (absolute paths, `..`). Links in the root are
    followed: published datasets are large and often lie elsewhere."""
    base = root.resolve()
    path = Path(os.path.normpath(base / relative))
    if not path.is_relative_to(base):
        raise DataError(f"{relative}: leaves the data root {root}")
    return path
