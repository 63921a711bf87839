"""How well localization finds artifacts of known place and time, beside two baselines.

temporal IoU: frames found against frames damaged. spatial IoU: first box against the true box, 0 where nothing was
found. pointing game: whether the hottest pixel of the mean map lies in the true box (of artifacts that do not cover the
whole picture). The baselines: `uniform` calls everything damaged (its pointing is the share of the picture that the box
covers); `frame difference` puts the plain difference of neighboring frames in place of the detector and of the maps,
with its own thresholds tuned on the same training clips.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vqa2.core.records import Artifact, Metric
from vqa2.core.scale import accuracy
from vqa2.experts._frames import luma
from vqa2.experts.localization.detector import hysteresis

OF_KIND = "temporal IoU of "
"""How the metrics of one kind of artifact are called."""
Box = tuple[int, int, int, int]
Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a method says about one clip: stretches, first box, whether the hottest point hits (None: no map)."""

    spans: tuple[Span, ...]
    box: Box | None
    hit: float | None
    kind: str = ""


def temporal_iou(spans: Sequence[Span], truth: Span) -> float:
    """Over frames; several stretches count together."""
    found = {t for a, b in spans for t in range(a, b)}
    true = set(range(*truth))
    return len(found & true) / len(found | true)


def spatial_iou(box: Box | None, truth: Box) -> float:
    """Over pixels; 0 without a box."""
    if box is None:
        return 0.0
    width = min(box[2], truth[2]) - max(box[0], truth[0])
    height = min(box[3], truth[3]) - max(box[1], truth[1])
    both = max(0, width) * max(0, height)
    return both / (_area(box) + _area(truth) - both)


def pointing(heat: np.ndarray | None, truth: Box, factor: int) -> float:
    """1 where the hottest place of a map `[h,w]` (reduced by `factor`) lies in the true box; 0 without a map."""
    if heat is None:
        return 0.0
    row, column = np.unravel_index(np.argmax(heat), heat.shape)
    x, y = (column + 0.5) * factor, (row + 0.5) * factor
    return float(truth[0] <= x < truth[2] and truth[1] <= y < truth[3])


def uniform(truth: Artifact, frames: int, size: tuple[int, int]) -> Found:
    """Everything, always; a random point."""
    whole = (0, 0, *size)
    return Found(spans=((0, frames),), box=whole, hit=_area(truth.box) / _area(whole))


def frame_difference(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Suspicion per frame (mean difference from the frame before, over the clip's median) squeezed to [0, 1), and the
    difference maps `[T,h,w]` on 0-1."""
    y = luma(frames) / 255
    maps = np.abs(np.diff(y, axis=0, prepend=y[:1]))
    maps[0] = maps[1] if len(maps) > 1 else maps[0]
    mean = maps.mean((1, 2))
    ratio = mean / (np.median(mean) + 1e-6)
    return ratio / (1 + ratio), maps


def tuned(
    probability: Sequence[np.ndarray], truths: Sequence[Artifact], min_frames: int, pad: int
) -> tuple[float, float]:
    """(high, low) with the best mean temporal IoU on training clips; clean clips count as 1 where nothing is found."""
    levels = np.unique(np.quantile(np.concatenate(list(probability)), np.linspace(0.3, 0.98, 18)))
    best = (-1.0, 1.0, 1.0)
    for high in levels:
        for low in levels[levels <= high]:
            marks = []
            for p, truth in zip(probability, truths, strict=True):
                spans = hysteresis(p.tolist(), high, low, min_frames, pad)
                clean = truth.variant == "none"
                marks.append(float(not spans) if clean else temporal_iou(spans, (truth.start, truth.end)))
            best = max(best, (float(np.mean(marks)), float(high), float(low)))
    return best[1], best[2]


def report(
    found: Sequence[Found], truths: Sequence[Artifact], size: tuple[int, int], bootstrap: int, seed: int
) -> tuple[Metric, ...]:
    """temporal IoU, spatial IoU, pointing game, kind accuracy over damaged clips; false alarms over clean ones; then
    the temporal IoU of each kind of artifact, by name."""
    pairs = list(zip(found, truths, strict=True))
    bad = [(f, t) for f, t in pairs if t.variant != "none"]
    small = [(f, t) for f, t in bad if _area(t.box) < size[0] * size[1]]
    clean = [f for f, t in pairs if t.variant == "none"]

    def mean(name: str, marks: list[float]) -> Metric:
        return accuracy(marks, name, bootstrap=bootstrap, seed=seed)

    return (
        mean("temporal IoU", [temporal_iou(f.spans, (t.start, t.end)) for f, t in bad]),
        mean("spatial IoU", [spatial_iou(f.box, t.box) for f, t in bad]),
        mean("spatial IoU, local", [spatial_iou(f.box, t.box) for f, t in small]),
        mean("pointing game, local", [f.hit or 0.0 for f, _ in small]),
        mean("kind", [float(f.kind == t.variant) for f, t in bad]),
        mean("false alarms", [float(bool(f.spans)) for f in clean]),
        *(
            mean(OF_KIND + kind, [temporal_iou(f.spans, (t.start, t.end)) for f, t in bad if t.variant == kind])
            for kind in sorted({t.variant for _, t in bad})
        ),
    )


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
