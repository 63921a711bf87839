"""Expert `temporal`: what only time shows, measured on luma reduced to about 96 lines, all frames, no reference.

    flicker   mean luminance that goes up and down again, share of the mean luminance
    jerk      change of the picture's global displacement from frame to frame, percent of the height (shake, judder)
    stutter   share of frames that repeat the one before while the picture otherwise moves
    stall     share of the time in which the picture stands (or is black at the start) for at least `min_stall_s`

All are larger for worse. Repeated frames are left out of jerk, or every stutter would be a shake.
"""

from typing import Annotated, Literal

import numpy as np
from annotated_types import Gt
from scipy import fft

from vqa2.core.config import register
from vqa2.data.video import frame_rate
from vqa2.experts._frames import small
from vqa2.experts.base import Info, Media, NotApplicable, Raw

STILL = 0.25
"""Mean absolute difference of luma (0-255) up to which two frames are the same picture coded twice."""
SHARE = 0.08
"""... or up to this share of the clip's 90th percentile of differences, whichever is larger."""


@register("expert", "temporal")
class Temporal:
    """`measure`: see the module; `min_stall_s`: shorter stand-stills are stutter."""

    info: Info
    measure: Literal["flicker", "jerk", "stutter", "stall"]
    min_stall_s: Annotated[float, Gt(0)]

    def missing(self) -> str:
        return ""

    def content(self) -> str:
        return ""

    def open(self) -> "TemporalScorer":
        return TemporalScorer(self)


class TemporalScorer:
    """Holds no state between media."""

    def __init__(self, made: Temporal) -> None:
        self._made = made

    def score(self, media: Media, reference: Media | None, prompt: str | None) -> Raw:
        """The measure. NotApplicable below four frames."""
        frames = small(media)
        if len(frames) < 4:
            raise NotApplicable(f"{len(frames)} frames, 4 are needed")
        if self._made.measure == "flicker":
            return flicker(frames)
        if self._made.measure == "jerk":
            return jerk(frames)
        if self._made.measure == "stutter":
            return stutter(frames)
        return stall(frames, frame_rate(media.path), self._made.min_stall_s)


def flicker(frames: np.ndarray) -> Raw:
    """Reversals only: the smaller of two luminance steps of opposite sign. A fade or a cut has none."""
    mean = frames.mean((1, 2))
    before, after = np.diff(mean)[:-1], np.diff(mean)[1:]
    reversal = np.where(before * after < 0, np.minimum(abs(before), abs(after)), 0.0)
    return Raw(value=float(reversal.mean() / (mean.mean() + 1)), parts={"largest": float(reversal.max())})


def jerk(frames: np.ndarray) -> Raw:
    """Mean length of the second difference of displacement."""
    kept = frames[np.concatenate([[True], ~repeated(frames)])]
    if len(kept) < 3:
        return Raw(value=0.0, parts={"displacement": 0.0})
    moves = np.array([displacement(a, b) for a, b in zip(kept, kept[1:])]) / frames.shape[1] * 100
    change = np.hypot(*np.diff(moves, axis=0).T)
    return Raw(value=float(change.mean()), parts={"displacement": float(np.hypot(*moves.T).mean())})


def stutter(frames: np.ndarray) -> Raw:
    """Share of repeated frames among the steps; `parts.moving`: 90th percentile of the differences."""
    same = repeated(frames)
    return Raw(value=float(same.mean()), parts={"moving": float(np.percentile(_steps(frames), 90))})


def stall(frames: np.ndarray, fps: float, min_stall_s: float) -> Raw:
    """Share of the clip's time in runs of repeated frames of at least `min_stall_s`; events, and the longest in s."""
    runs = [length / fps for length in _runs(repeated(frames))]
    long = [s for s in runs if s >= min_stall_s]
    share = sum(long) * fps / (len(frames) - 1)
    return Raw(value=float(share), parts={"events": float(len(long)), "longest_s": float(max(long, default=0.0))})


def repeated(frames: np.ndarray) -> np.ndarray:
    """Whether frame t+1 repeats frame t, bool `[T-1]`. A clip in which nothing moves repeats no frame: a still scene
    cannot be told from a frozen one."""
    steps = _steps(frames)
    moving = np.percentile(steps, 90)
    if moving <= STILL:
        return np.zeros(len(steps), bool)
    return steps <= max(STILL, SHARE * moving)


def displacement(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """(rows, columns) by which the picture moved from `a` to `b`: peak of the windowed phase correlation, refined by a
    parabola through its neighbors."""
    window = np.outer(np.hanning(a.shape[0]), np.hanning(a.shape[1]))
    cross = fft.rfft2((b - b.mean()) * window) * np.conj(fft.rfft2((a - a.mean()) * window))
    peaks = fft.irfft2(cross / (np.abs(cross) + 1e-6 * np.abs(cross).max() + 1e-12), s=a.shape)
    row, column = np.unravel_index(np.argmax(peaks), a.shape)
    return _refined(peaks[:, column], int(row)), _refined(peaks[row], int(column))


def _refined(line: np.ndarray, at: int) -> float:
    low, mid, high = line[at - 1], line[at], line[(at + 1) % len(line)]
    bend = low - 2 * mid + high
    place = at + (0.5 * (low - high) / bend if bend else 0.0)
    return float(place - len(line) if place > len(line) / 2 else place)


def _steps(frames: np.ndarray) -> np.ndarray:
    return np.abs(np.diff(frames, axis=0)).mean((1, 2))


def _runs(same: np.ndarray) -> list[int]:
    """Lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], same.astype(int), [0]])))
    return (edges[1::2] - edges[::2]).tolist()
