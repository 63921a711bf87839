"""The expert protocol: what a quality tool declares, what it is given, what it returns (Q-Router 2.1, AgenticIQA 3.2).

An expert is a component (`@register("expert", "<file>")` in vqa2/experts/tools, YAMLs in conf/expert). Its values hold
an `Info`; `missing()` says in one line what is not installed; `open()` gives the object that scores. Experts run behind
`vqa2.experts.pool.Pool`, which adds calibration, time limits and failures.

Units: raw scores are in the expert's own unit; `score` is calibrated to MOS on 0-100, larger is better.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Protocol

from annotated_types import Ge

from vqa2.core.config import spec
from vqa2.core.records import Kind

Failure = Literal["unavailable", "not applicable", "timeout", "crash", "error", "uncalibrated", "budget"]
"""Why there is no score. `crash` is the death of the tool's process, `error` an exception or unreadable output."""


@spec
class Info:
    """What is known about an expert before it runs.

    `reference`: it needs the pristine media (FR), else it is NR. `prompt`: it needs the text that a clip was generated
    from. `raw_range`: nominal, least to largest; the calibration keeps the range that was seen. `cost_s`: seconds for
    100 megapixels of video (two seconds of 1080p) on one core. `strengths`: distortions (names of the stage-1 data) and
    content types it is meant for. `weights`: an id (file, release, package version), empty where nothing was trained.
    `trained_on`: for the leak column of tables. `pooling`: how frames become a clip's score.
    """

    kinds: tuple[Kind, ...]
    reference: bool
    prompt: bool
    raw_range: tuple[float, float]
    higher_is_better: bool
    cost_s: Annotated[float, Ge(0)]
    strengths: tuple[str, ...]
    license: str
    commercial: bool
    weights: str
    trained_on: tuple[str, ...]
    pooling: str

    def __post_init__(self) -> None:
        lo, hi = self.raw_range
        if not lo < hi:
            raise ValueError(f"info.raw_range: from the least to the largest raw score, got [{lo:g}, {hi:g}]")


@dataclass(frozen=True, kw_only=True)
class Media:
    """What is rated. `id` is the key of replayed scores (the path where it is empty)."""

    path: Path
    kind: Kind
    id: str = ""

    @property
    def key(self) -> str:
        return self.id or str(self.path)


@dataclass(frozen=True, kw_only=True)
class Raw:
    """An expert's own result: `value` in its own unit and named sub-scores."""

    value: float
    parts: dict[str, float] = field(default_factory=dict)


def files_hash(paths: Sequence[Path]) -> str:
    """Of contents, in order; `content()` of experts with files."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


class NotApplicable(Exception):
    """Raised by a scorer: this expert has nothing to say about this media (too small, a still for a temporal tool)."""


class Scorer(Protocol):
    """An opened expert; it may hold weights. Raises MediaError for unreadable media, NotApplicable, or anything else,
    which the pool records as evidence."""

    def score(self, media: Media, reference: Media | None, prompt: str | None) -> Raw:
        """The raw score of one media."""


class Expert(Protocol):
    """A registered component."""

    info: Info

    def missing(self) -> str:
        """Empty where it can run; else one line: what is missing and how to get it."""

    def content(self) -> str:
        """A hash of the files that a score depends on (weights, recorded scores), to which a calibration is bound;
        empty where there are none."""

    def open(self) -> Scorer:
        """Loads what it needs. ConfigError where `missing()` is not empty."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One expert on one media. Exactly one of `raw` and `failure` is set, but for `uncalibrated`, where both are.

    `score`: calibrated, 0-100, larger is better. `outside`: distance of the raw score from the range that its
    calibration was fitted on, as a share of that range's width; 0 inside. `seconds`: wall clock, of failures too.
    """

    expert: str
    media: str
    raw: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    score: float | None = None
    outside: float = 0.0
    seconds: float = 0.0
    failure: Failure | None = None
    reason: str = ""


def applicable(info: Info, media: Media, reference: Media | None, prompt: str | None) -> str:
    """Empty, or the reason why an expert cannot be asked about this media."""
    if media.kind not in info.kinds:
        return f"takes {' and '.join(info.kinds)}, not {media.kind}"
    if info.reference and reference is None:
        return "needs a reference"
    if info.prompt and not prompt:
        return "needs the text prompt of the generated media"
    return ""
