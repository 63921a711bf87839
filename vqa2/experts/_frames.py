"""Frames for experts: decoded once per media and worker, in the few forms that experts take.

Shapes: F sampled frames, T all frames, H x W pixels. Luma is BT.601, 0-255, float64.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.transform import downscale_local_mean

from vqa2.core.records import Kind
from vqa2.data.video import native_frames
from vqa2.experts.base import Media, NotApplicable

_LUMA = np.array([0.299, 0.587, 0.114])
THUMB_PX = 96
"""Height to which `small` reduces frames (whole factors, so that pixels are averaged and never invented)."""


def luma(frame: np.ndarray) -> np.ndarray:
    """`[..., H, W, 3]` uint8 to `[..., H, W]` float64."""
    return frame @ _LUMA


def sampled(media: Media, count: int) -> np.ndarray:
    """Up to `count` evenly spaced frames `[F,H,W,3]`, RGB uint8, of native size; all of them where there are fewer."""
    return _sampled(*_key(media), count)


def small(media: Media) -> np.ndarray:
    """Luma of every frame `[T,h,w]`, reduced by a whole factor to about THUMB_PX lines."""
    return _small(*_key(media))


def pairs(media: Media, reference: Media, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(distorted, pristine) frames at the same places in time. A distorted clip of another size is enlarged or reduced
    to the reference's (bicubic), as a player would show it. NotApplicable where the numbers of frames differ."""
    check_lengths(media, reference)
    for made, clean in zip(sampled(media, count), sampled(reference, count)):
        yield resized(made, clean.shape[:2]), clean


def check_lengths(media: Media, reference: Media) -> None:
    """NotApplicable where the numbers of frames differ."""
    n, m = length(media), length(reference)
    if n != m:
        raise NotApplicable(f"{n} frames against {m} of the reference")


def length(media: Media) -> int:
    """Frames that decode."""
    return len(small(media))


def resized(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame at (height, width), bicubic."""
    if frame.shape[:2] == size:
        return frame
    return np.asarray(Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def enlarged(frame: np.ndarray, min_side_px: int) -> np.ndarray:
    """A frame enlarged by the least whole factor that gives its shorter side `min_side_px` (bicubic)."""
    factor = -(-min_side_px // min(frame.shape[:2]))
    return resized(frame, (frame.shape[0] * max(1, factor), frame.shape[1] * max(1, factor)))


def _key(media: Media) -> tuple[Path, Kind, int]:
    # The time of change is part of the key: a file that was written anew is another media.
    return media.path, media.kind, media.path.stat().st_mtime_ns if media.path.is_file() else 0


@lru_cache(maxsize=4)
def _sampled(path: Path, kind: Kind, changed: int, count: int) -> np.ndarray:
    wanted = set(np.linspace(0, len(_small(path, kind, changed)) - 1, count).round().astype(int).tolist())
    return np.stack([frame for i, frame in enumerate(native_frames(path, kind)) if i in wanted])


@lru_cache(maxsize=4)
def _small(path: Path, kind: Kind, changed: int) -> np.ndarray:
    frames = []
    for frame in native_frames(path, kind):
        factor = max(1, frame.shape[0] // THUMB_PX)
        frames.append(downscale_local_mean(luma(frame), (factor, factor)))
    return np.stack(frames)
