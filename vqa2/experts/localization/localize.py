"""Tier 2 of Q-Router: where and when a clip is damaged, how badly, and by what; without a reference.

Frame probabilities -> stretches by hysteresis -> diverse frames of each -> difference maps against the nearest clean
frames -> boxes -> severity and kind. The kind is a multinomial regression on how the place inside the box changed (the
paper asks a VLM; its reviewers found no figures for that).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from vqa2.core.config import spec
from vqa2.core.errors import MediaError
from vqa2.data.video import frame_rate
from vqa2.experts.base import Media
from vqa2.experts.localization import detector as detectors
from vqa2.experts.localization.detector import Detector, diverse, hysteresis
from vqa2.experts.localization.features import GRID, changes, frame_features, reduced
from vqa2.experts.localization.maps import Box, boxes, difference_map
from vqa2.experts.localization.motion import alignments

Share = Annotated[float, Ge(0), Le(1)]
Span = tuple[int, int]


@spec
class LocalizeSpec:
    """`detector`: file of coefficients and thresholds; `min_frames`, `pad`: hysteresis; `frames`: maps per stretch;
    `min_share`: least part of the picture that a place covers."""

    detector: str
    min_frames: Annotated[int, Ge(1)]
    pad: Annotated[int, Ge(0)]
    frames: Annotated[int, Ge(1)]
    min_share: Share

    def open(self) -> "Localizer":
        return Localizer(self, detectors.load(Path(self.detector)))


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A damaged stretch. Frames `start` to `end` (not included) and their seconds; `frames` were mapped; `boxes` (left,
    top, right, bottom in pixels of the clip) with the most heat first, empty where `note` says why; `severity` is the
    mean of the fixed-scale map in the first place, 0-1; `kind` with its probability; `p` the largest frame
    probability."""

    start: int
    end: int
    start_s: float
    end_s: float
    p: float
    frames: tuple[int, ...]
    boxes: tuple[Box, ...]
    severity: float
    kind: str
    kind_p: float
    note: str


@dataclass(frozen=True, kw_only=True)
class Localization:
    """What was found in a clip; `probability` per frame. `heat` (frame -> map `[h,w]` in [0, 1]) is not part of the
    JSON."""

    media: str
    fps: float
    size_px: tuple[int, int]
    probability: tuple[float, ...]
    findings: tuple[Finding, ...]
    heat: dict[int, np.ndarray]

    def to_json(self) -> str:
        return json.dumps({key: value for key, value in asdict(self).items() if key != "heat"}, indent=1)


@dataclass(frozen=True)
class Look:
    """What is computed once per clip: reduced frames `[T,h,w,3]`, their reduction, the clip's (width, height), motion
    `[T,3,3]`, changes `[T,r,c,S]`, frame features `[T,F]`."""

    frames: np.ndarray
    factor: int
    size_px: tuple[int, int]
    alignment: np.ndarray
    changed: np.ndarray
    features: np.ndarray


def look(media: Media) -> Look:
    """MediaError for a still (there is no other time to compare with) or an unreadable clip."""
    if media.kind != "video":
        raise MediaError(media.path, "localization needs a video")
    frames, factor, size = reduced(media)
    alignment = alignments(frames)
    changed = changes(frames, alignment)
    return Look(frames, factor, size, alignment, changed, frame_features(changed))


class Localizer:
    """Finds local damage in clips."""

    def __init__(self, made: LocalizeSpec, detector: Detector) -> None:
        self._made, self._detector = made, detector

    def __call__(self, media: Media) -> Localization:
        """MediaError as `look`."""
        return self.judge(media.key, look(media), frame_rate(media.path))

    def judge(self, name: str, seen: Look, fps: float) -> Localization:
        """The findings of a clip that was looked at."""
        made, detector = self._made, self._detector
        p = detector.frame(seen.features)
        spans = hysteresis(p.tolist(), detector.high, detector.low, made.min_frames, made.pad)
        heat, findings = {}, []
        for span in spans:
            maps = heats(seen, spans, diverse(seen.features, p.tolist(), span, made.frames))
            heat |= maps
            findings.append(self._finding(seen, span, maps, p, fps))
        return Localization(
            media=name,
            fps=fps,
            size_px=seen.size_px,
            probability=tuple(p.tolist()),
            findings=tuple(findings),
            heat=heat,
        )

    def _finding(self, seen: Look, span: Span, maps: dict[int, np.ndarray], p: np.ndarray, fps: float) -> Finding:
        mean = mean_heat(maps)
        found = [] if mean is None else boxes(mean, self._detector.heat, self._made.min_share)
        note = "no clean frame to compare with" if mean is None else "no place is above the threshold"
        chances = self._detector.kind(kind_features(seen.changed, span, found[0][0] if found else None)[None])[0]
        kind = int(np.argmax(chances))
        return Finding(
            start=span[0],
            end=span[1],
            start_s=span[0] / fps,
            end_s=span[1] / fps,
            p=float(p[span[0] : span[1]].max()),
            frames=tuple(maps),
            boxes=tuple(tuple(int(v * seen.factor) for v in box) for box, _ in found),
            severity=found[0][1] if found else 0.0,
            kind=self._detector.kind.classes[kind],
            kind_p=float(chances[kind]),
            note="" if found else note,
        )


def heats(seen: Look, spans: Sequence[Span], kept: Sequence[int]) -> dict[int, np.ndarray]:
    """Difference maps of the kept frames against the nearest frame before and after that lies in no stretch; empty
    where the clip has none."""
    clean = [t for t in range(len(seen.frames)) if not any(a <= t < b for a, b in spans)]
    made = {}
    for t in kept:
        near = (max((c for c in clean if c < t), default=None), min((c for c in clean if c > t), default=None))
        back = np.linalg.inv(seen.alignment[t])
        others = [(seen.frames[c], seen.alignment[c] @ back) for c in near if c is not None]
        if others:
            made[t] = difference_map(seen.frames[t], others)
    return made


def mean_heat(maps: dict[int, np.ndarray]) -> np.ndarray | None:
    """The place of an artifact over a stretch; None without maps."""
    return np.mean(list(maps.values()), axis=0) if maps else None


def kind_features(changed: np.ndarray, span: Span, box: Box | None) -> np.ndarray:
    """`[2S]`: mean and spread over the stretch of the signed changes inside the box (reduced pixels; None:
    everywhere)."""
    part = changed[span[0] : span[1]]
    if box is not None:
        left, top, right, bottom = (v // GRID for v in box)
        part = part[:, top : max(bottom, top + 1), left : max(right, left + 1)]
    over_time = part.mean((1, 2))
    return np.concatenate([over_time.mean(0), over_time.std(0)])
