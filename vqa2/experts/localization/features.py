"""What a frame says about a local artifact: its statistics against those of the same content at other times.

Q-Router names motion residual and gradient kurtosis and gives no list. Here S local statistics are mapped per frame,
laid on one frame of a window by the camera motion (motion.py), and their median over time, carried back to each frame,
is what the frame should look like. A frame is described by the largest and the mean deviation of each, absolute and
against its own window. An artifact that lasts for more than half of a window is therefore seen as its normal state.

Shapes: T frames, h x w reduced pixels, r x c map points (every GRID-th pixel), S statistics.
"""

import numpy as np
from scipy import ndimage
from skimage.transform import downscale_local_mean

from vqa2.data.video import native_frames
from vqa2.experts._frames import luma
from vqa2.experts.base import Media
from vqa2.experts.localization.motion import visible, warped

LINES = 96
"""Pictures are reduced by a whole factor to about this height."""
GRID = 4
WINDOW = 24
"""Frames that are laid on each other at most; longer clips are cut into windows."""
STATISTICS = ("contrast", "brightness", "sharpness", "kurtosis", "chroma", "noise", "red", "blue")
NAMES = tuple(
    f"{scale}{how} {s}" for scale in ("", "relative ") for how in ("largest", "mean", "rms") for s in STATISTICS
)
_IMMERKAER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]]) / 6


def reduced(media: Media) -> tuple[np.ndarray, int, tuple[int, int]]:
    """RGB float `[T,h,w,3]` on 0-255 of every frame, the factor by which sides were divided (what is left over at the
    right and at the bottom is cut off), and the clip's own (width, height)."""
    frames, factor, size = [], 1, (0, 0)
    for frame in native_frames(media.path, media.kind):
        size = (frame.shape[1], frame.shape[0])
        factor = max(1, round(frame.shape[0] / LINES))
        height, width = (side // factor * factor for side in frame.shape[:2])
        frames.append(downscale_local_mean(frame[:height, :width], (factor, factor, 1)))
    return np.stack(frames), factor, size


def windows(count: int) -> list[tuple[int, int]]:
    """(start, end) of the windows of a clip of `count` frames: equal lengths, none above WINDOW."""
    pieces = -(-count // WINDOW)
    edges = np.linspace(0, count, pieces + 1).round().astype(int).tolist()
    return list(zip(edges, edges[1:]))


def changes(frames: np.ndarray, alignment: np.ndarray) -> np.ndarray:
    """`[T,r,c,S]`: statistics minus what the same content has at other times; 0 where too little of it is seen."""
    parts = []
    for start, end in windows(len(frames)):
        stats = np.stack([_statistics(f)[GRID // 2 :: GRID, GRID // 2 :: GRID] for f in frames[start:end]])
        there = alignment[start:end] @ np.linalg.inv(alignment[(start + end) // 2])
        parts.append(_against_median(stats, [_coarse(m) for m in there]))
    return np.concatenate(parts)


def frame_features(changed: np.ndarray) -> np.ndarray:
    """`[T, 6S]` of `changes`, named by NAMES."""
    apart = np.abs(changed)
    smooth = ndimage.uniform_filter(apart, (0, 5, 5, 0))
    plain = np.concatenate([smooth.max((1, 2)), apart.mean((1, 2)), np.sqrt((apart**2).mean((1, 2)))], 1)
    ratio = np.log(plain + 1e-3)
    for start, end in windows(len(changed)):
        ratio[start:end] -= np.median(ratio[start:end], axis=0)
    return np.concatenate([plain, ratio], axis=1)


def _against_median(stats: np.ndarray, there: list[np.ndarray]) -> np.ndarray:
    size = stats.shape[1:3]
    laid = np.stack([warped(s, m) for s, m in zip(stats, there)])
    seen = np.stack([visible(size, m) for m in there])
    middle = np.ma.median(np.ma.array(laid, mask=np.repeat(~seen[..., None], stats.shape[-1], -1)), axis=0).filled(0.0)
    enough = (seen.sum(0) >= min(4, len(stats))).astype(float)
    made = np.empty_like(stats)
    for t, matrix in enumerate(there):
        back = np.linalg.inv(matrix)
        known = (warped(enough, back) > 0.99) & visible(size, back)
        made[t] = (stats[t] - warped(middle, back)) * known[..., None]
    return made


def _coarse(matrix: np.ndarray) -> np.ndarray:
    """The same motion between map points."""
    out = matrix.copy()
    out[:2, 2] /= GRID
    return out


def _statistics(frame: np.ndarray) -> np.ndarray:
    """`[h,w,S]` over a Gaussian neighborhood. Logarithms where a ratio is what matters."""

    def near(x: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(x, 3.0)

    y = luma(frame)
    mean = near(y)
    steps = sum(g**2 for g in np.gradient(y))
    red, blue = frame[..., 0] - y, frame[..., 2] - y
    return np.stack([
        np.log(np.sqrt(np.maximum(near(y**2) - mean**2, 0)) + 2),
        mean / 32,
        np.log(near(np.abs(ndimage.laplace(y))) + 1),
        np.log(near(steps**2) / (near(steps) ** 2 + 25) + 1),
        near(np.abs(red) + np.abs(blue)) / 16,
        np.log(near(np.abs(ndimage.correlate(y, _IMMERKAER))) + 0.5),
        near(red) / 16,
        near(blue) / 16,
    ], -1)  # fmt: skip
