"""Trains the detector on clips with known artifacts and scores it on others, beside the baselines of score.py."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt

from vqa2.core.config import spec
from vqa2.core.errors import DataError
from vqa2.core.records import Artifact, Metric, inside, read_jsonl
from vqa2.experts.base import Media
from vqa2.experts.localization.detector import Detector, diverse, fit_linear, hysteresis, save
from vqa2.experts.localization.features import NAMES, STATISTICS
from vqa2.experts.localization.localize import (
    Localizer,
    LocalizeSpec,
    Look,
    heats,
    kind_features,
    look,
    mean_heat,
)
from vqa2.experts.localization.maps import boxes
from vqa2.experts.localization.score import Found, frame_difference, pointing, report, spatial_iou, tuned, uniform

HEATS = tuple(np.linspace(0.05, 0.5, 10).tolist())
"""Thresholds of a map that are tried."""


@spec
class LocalizationRun:
    """`clips`: values of data_prep/localized.py; `root`: the data root; `regularization`: C of the regressions;
    `tune_clips`: training clips on which the map threshold is tuned."""

    root: str
    clips: dict[str, Any]
    localize: LocalizeSpec
    regularization: Annotated[float, Gt(0)]
    tune_clips: Annotated[int, Ge(1)]
    bootstrap: Annotated[int, Ge(0)]
    seed: Annotated[int, Ge(0)]


@dataclass(frozen=True)
class Seen:
    """A clip with known artifact, and what was computed of it."""

    truth: Artifact
    look: Look

    @property
    def span(self) -> tuple[int, int]:
        return self.truth.start, self.truth.end

    @property
    def bad(self) -> bool:
        return self.truth.variant != "none"


def seen(root: Path, split: str, advance: Callable[[int, int], None]) -> list[Seen]:
    """Every clip of a split. DataError where the split has not been made."""
    rows = read_jsonl(root / f"localization_{split}.jsonl", Artifact)
    if not any(r.variant != "none" for r in rows):
        raise DataError(f"{root}/localization_{split}.jsonl: no damaged clips")
    found = []
    for number, row in enumerate(rows, 1):
        found.append(Seen(row, look(Media(path=inside(root, row.path), kind="video", id=row.id))))
        advance(number, len(rows))
    return found


def train(made: LocalizationRun, clips: Sequence[Seen]) -> Detector:
    """Frame and kind regressions, then thresholds, all on training clips; saved where the configuration says."""
    features = np.concatenate([c.look.features for c in clips])
    labels = ["yes" if c.span[0] <= t < c.span[1] else "no" for c in clips for t in range(len(c.look.features))]
    frame = fit_linear(features, labels, NAMES, made.regularization)
    bad = [c for c in clips if c.bad]
    inside_box = np.stack([kind_features(c.look.changed, c.span, _reduced(c)) for c in bad])
    names = [f"{how} {s}" for how in ("mean", "spread") for s in STATISTICS]
    kind = fit_linear(inside_box, [c.truth.variant for c in bad], names, made.regularization)
    high, low = tuned([frame(c.look.features) for c in clips], [c.truth for c in clips], made.localize.min_frames,
                      made.localize.pad)  # fmt: skip
    maps = [(c, mean_heat(heats(c.look, [c.span], _kept(c, made)))) for c in bad[: made.tune_clips]]
    heat = max(HEATS, key=lambda level: np.mean([_iou(c, h, level, made) for c, h in maps]))
    detector = Detector(frame=frame, kind=kind, high=high, low=low, heat=heat, data=made.root, n=len(clips))
    save(detector, Path(made.localize.detector))
    return detector


def evaluate(
    made: LocalizationRun, detector: Detector, train_clips: Sequence[Seen], test: Sequence[Seen]
) -> dict[str, tuple[Metric, ...]]:
    """Metrics by method on test clips."""
    truths = [c.truth for c in test]
    size = test[0].look.size_px
    localizer = Localizer(made.localize, detector)
    methods = {
        "ours": [_ours(localizer, c) for c in test],
        "frame difference": _difference(made, train_clips, test),
        "uniform": [uniform(c.truth, len(c.look.frames), size) for c in test],
    }
    return {name: report(found, truths, size, made.bootstrap, made.seed) for name, found in methods.items()}


def _ours(localizer: Localizer, clip: Seen) -> Found:
    made = localizer.judge(clip.truth.id, clip.look, 1.0)
    if not made.findings:
        return Found(spans=(), box=None, hit=None)
    first = max(made.findings, key=lambda f: f.p)
    heat = mean_heat({t: made.heat[t] for t in first.frames})
    return Found(
        spans=tuple((f.start, f.end) for f in made.findings),
        box=first.boxes[0] if first.boxes else None,
        hit=pointing(heat, clip.truth.box, clip.look.factor),
        kind=first.kind,
    )


def _difference(made: LocalizationRun, clips: Sequence[Seen], test: Sequence[Seen]) -> list[Found]:
    """The baseline with its own hysteresis and map threshold, tuned as ours."""
    least, pad = made.localize.min_frames, made.localize.pad
    learned = [frame_difference(c.look.frames) for c in clips]
    high, low = tuned([p for p, _ in learned], [c.truth for c in clips], least, pad)
    pairs = [(c, m[c.span[0] : c.span[1]].mean(0)) for c, (_, m) in zip(clips, learned, strict=True) if c.bad]
    level = max(HEATS, key=lambda h: np.mean([_iou(c, m, h, made) for c, m in pairs[: made.tune_clips]]))
    found = []
    for clip in test:
        p, maps = frame_difference(clip.look.frames)
        spans = hysteresis(p.tolist(), high, low, least, pad)
        if not spans:
            found.append(Found(spans=(), box=None, hit=None))
            continue
        start, end = max(spans, key=lambda s: p[s[0] : s[1]].max())
        heat = maps[start:end].mean(0)
        places = boxes(heat, level, made.localize.min_share)
        box = tuple(v * clip.look.factor for v in places[0][0]) if places else None
        found.append(Found(spans=tuple(spans), box=box, hit=pointing(heat, clip.truth.box, clip.look.factor)))
    return found


def _kept(clip: Seen, made: LocalizationRun) -> list[int]:
    count = len(clip.look.features)
    return diverse(clip.look.features, [0.0] * count, clip.span, made.localize.frames)


def _iou(clip: Seen, heat: np.ndarray | None, level: float, made: LocalizationRun) -> float:
    places = [] if heat is None else boxes(heat, level, made.localize.min_share)
    return spatial_iou(places[0][0] if places else None, _reduced(clip))


def _reduced(clip: Seen) -> tuple[int, int, int, int]:
    return tuple(round(v / clip.look.factor) for v in clip.truth.box)
