"""Perceptual signatures of clips: a 64-bit hash of a few frames a second (imagehash's DCT hash), upright and gray.

Survives transcoding, resizing, another frame rate, and cutting at the start or end. Not: mirroring, cropping, borders,
overlays of any size, changed speed.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import av
import imagehash
import numpy as np
from annotated_types import Ge, Gt, Interval
from PIL import Image

from data_prep._media import Workers, unreadable
from data_prep._scan import batches
from vqa2.core.config import spec
from vqa2.core.errors import DataError, MediaError

_SIDE = 64
_BLOCK = 1 << 22
"""Pairs of frames compared at a time."""
_WINDOW = 64
"""Files that are read between two writings of the cache."""


@spec
class VideoRules:
    """`fps` sampled frames a second; frames flatter than `flat` (standard deviation, 0-255) are left out. Two frames
    are one within `max_bits` of 64 (`max_bits_few` where a clip has under `min_frames`); two clips are one where
    `min_share` of the shorter one's frames lie in the other, in order. `cache`: signatures of files that did not
    change."""

    enabled: bool
    cache: str
    fps: Annotated[float, Gt(0)]
    flat: Annotated[float, Ge(0)]
    max_bits: Annotated[int, Interval(ge=0, le=31)]
    max_bits_few: Annotated[int, Interval(ge=0, le=31)]
    min_frames: Annotated[int, Ge(1)]
    min_share: Annotated[float, Interval(gt=0, le=1)]


@dataclass(frozen=True)
class Signature:
    """`hashes` uint64 [F] and the slot on the sampling grid (time x fps) of each, int32 [F]."""

    hashes: np.ndarray
    slots: np.ndarray


@dataclass(frozen=True)
class Same:
    """Clips number `a` and `b` show the same: `frames` of the shorter's `of` frames at `offset_s` seconds."""

    a: int
    b: int
    frames: int
    of: int
    offset_s: float


def signature(path: Path, fps: float, flat: float) -> Signature:
    """Of one video or image. MediaError where it cannot be read or has no frame with structure."""
    hashes, slots = [], []
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise MediaError(path, "unreadable file: no video stream")
            for index, frame in enumerate(container.decode(video=0)):
                slot = int((frame.time or 0.0) * fps + 1e-6)
                if index and (frame.time is None or slot <= slots[-1]):
                    continue
                slots.append(slot)
                small = frame.reformat(_SIDE, _SIDE, "gray", interpolation="AREA").to_ndarray()
                upright = np.rot90(small, frame.rotation // 90)
                hashes.append(None if upright.std() < flat else _hash(upright))
    except MediaError:
        raise
    except (av.FFmpegError, ValueError) as err:
        raise MediaError(path, unreadable(err)) from None
    kept = [(h, s) for h, s in zip(hashes, slots) if h is not None]
    if not kept:
        raise MediaError(path, "no frame has enough structure to compare" if slots else "no frames")
    return Signature(np.array([h for h, _ in kept], np.uint64), np.array([s for _, s in kept], np.int32))


def _hash(gray: np.ndarray) -> int:
    bits = imagehash.phash(Image.fromarray(np.ascontiguousarray(gray)), hash_size=8).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def signatures(paths: Sequence[Path], rules: VideoRules, workers: int, advance) -> list[Signature | MediaError]:
    """Of many files, in order, failures in their place; from the cache where size and time of change are the old
    ones."""
    Path(rules.cache).parent.mkdir(parents=True, exist_ok=True)
    with closing(_cache(rules.cache)) as db:
        made: dict[Path, Signature | MediaError] = {}
        for path in dict.fromkeys(paths):
            row = db.execute("SELECT hashes, slots FROM signatures WHERE key = ?", (_key(path, rules),)).fetchone()
            if row is not None:
                made[path] = Signature(np.frombuffer(row[0], np.uint64), np.frombuffer(row[1], np.int32))
                advance()
        todo = [p for p in dict.fromkeys(paths) if p not in made]
        with closing(Workers(workers)) as pool:
            for window in batches(todo, _WINDOW):
                for path, found in zip(window, pool.map(_try, [(path, rules) for path in window], None)):
                    made[path] = found or MediaError(path, "the decoder crashed")
                    advance()
                    if isinstance(found, Signature):
                        values = (_key(path, rules), found.hashes.tobytes(), found.slots.tobytes())
                        with db:
                            db.execute("INSERT OR REPLACE INTO signatures VALUES (?, ?, ?)", values)
    return [made[p] for p in paths]


def _cache(path: str) -> sqlite3.Connection:
    try:
        db = sqlite3.connect(path, timeout=60)
        db.execute("CREATE TABLE IF NOT EXISTS signatures (key TEXT PRIMARY KEY, hashes BLOB, slots BLOB)")
    except sqlite3.Error as err:
        raise DataError(f"{path}: {err}; where it is damaged, remove it or set video.cache") from None
    return db


def _try(path: Path, rules: VideoRules) -> Signature | MediaError:
    try:
        return signature(path, rules.fps, rules.flat)
    except MediaError as err:
        return err


def _key(path: Path, rules: VideoRules) -> str:
    try:
        stat = path.stat()
    except OSError:
        return f"{path}: absent"
    return f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}:{rules.fps}:{rules.flat}"


def same_clips(a: Sequence[Signature], b: Sequence[Signature], rules: VideoRules) -> list[Same]:
    """Every pair of clips of two lists that show the same."""
    hits = _close_frames(a, b, rules.max_bits)
    hits = hits[np.lexsort((hits["clip_b"], hits["clip_a"]))]
    starts = np.flatnonzero(np.diff(hits["clip_a"]) | np.diff(hits["clip_b"])) + 1
    made = []
    for rows in np.split(hits, starts) if len(hits) else ():
        first, second = int(rows["clip_a"][0]), int(rows["clip_b"][0])
        shorter = min(len(a[first].hashes), len(b[second].hashes))
        if shorter < rules.min_frames:
            rows = rows[rows["bits"] <= rules.max_bits_few]
        frames, offset = _aligned(rows)
        if frames and frames >= rules.min_share * shorter:
            made.append(Same(first, second, frames, shorter, offset / rules.fps))
    return made


_HIT = np.dtype([("clip_a", "i4"), ("clip_b", "i4"), ("slot_a", "i4"), ("slot_b", "i4"), ("bits", "u1")])


def _close_frames(a: Sequence[Signature], b: Sequence[Signature], max_bits: int) -> np.ndarray:
    """Every pair of frames within `max_bits`, as rows of _HIT; compared block by block."""
    left, right = np.concatenate([s.hashes for s in a]), np.concatenate([s.hashes for s in b])
    where = [
        (np.repeat(np.arange(len(side)), [len(s.hashes) for s in side]), np.concatenate([s.slots for s in side]))
        for side in (a, b)
    ]
    found = [np.empty(0, _HIT)]
    step = max(1, _BLOCK // len(right))
    for start in range(0, len(left), step):
        bits = np.bitwise_count(left[start : start + step, None] ^ right[None])
        i, j = np.nonzero(bits <= max_bits)
        hit = np.empty(len(i), _HIT)
        hit["clip_a"], hit["slot_a"] = where[0][0][start + i], where[0][1][start + i]
        hit["clip_b"], hit["slot_b"] = where[1][0][j], where[1][1][j]
        hit["bits"] = bits[i, j]
        found.append(hit)
    return np.concatenate(found)


def _aligned(rows: np.ndarray) -> tuple[int, int]:
    """(frames, offset in slots) of the offset at which most frames of the one clip find one of the other.

    A cut between two sampling times moves a frame by less than one slot, so neighboring offsets count together. No
    frame counts twice, on either side: a still picture is not a match for a whole clip.
    """
    best = (0, 0)
    shift = rows["slot_b"] - rows["slot_a"]
    for offset in np.unique(shift):
        near = rows[(shift == offset) | (shift == offset + 1)]
        count = min(len(np.unique(near["slot_a"])), len(np.unique(near["slot_b"])))
        best = max(best, (count, int(offset)))
    return best
