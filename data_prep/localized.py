"""Clips with an artifact of known place and time, for training and scoring localization (Q-Router 2.3).

A clean clip of the data root, degraded inside one box and one stretch of frames; contents keep their split. `freeze` is
the box of the frame before, held; the other variants are those of data_prep/_degrade.py.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge

from data_prep._build import making
from data_prep._degrade import degrade
from data_prep._encode import read_frames, write_video
from data_prep._write import rng_of
from vqa2.core.config import spec
from vqa2.core.errors import DataError
from vqa2.core.records import Artifact, Clip, read_jsonl, write_jsonl
from vqa2.core.run import fingerprint

FILE = "localization_{split}.jsonl"
"""Not `<set>.<split>.jsonl`: they are no instruction rows, and training looks through all of those (overlap.py)."""


@spec
class LocalizedSpec:
    """`variants` are taken in turn, `per_clip` [train, test] of them for every clean clip; `none` stays clean. Shares
    are of the clip's length and of its sides; `whole` is the share of artifacts that cover the whole picture."""

    variants: tuple[str, ...]
    per_clip: tuple[int, int]
    strength: tuple[float, float]
    length_share: tuple[float, float]
    side_share: tuple[float, float]
    whole: float
    fps: Annotated[int, Ge(1)]
    store_qp: Annotated[int, Ge(0)]
    seed: Annotated[int, Ge(0)]


def make(root: Path, made: LocalizedSpec) -> dict[str, list[Artifact]]:
    """Writes clips below `media/localization` and one JSONL a split under `root`. The folder's name depends on every
    value and on the media code, so that what is there already can be kept."""
    clean = [c for c in read_jsonl(root / "clips.jsonl", Clip) if c.kind == "video" and not c.distortions]
    if not clean:
        raise DataError(f"{root}/clips.jsonl: no clean clips; prepare the synthetic source first")
    folder = root / "media" / "localization" / fingerprint([asdict(made), making()])
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Artifact]] = {"train": [], "test": []}
    for number, clip in enumerate(clean):
        for copy in range(made.per_clip[clip.split == "test"]):
            path = folder / f"{clip.id}-{copy}.mp4"
            found[clip.split].append(_one(root, path, made, clip, number + copy * len(clean)))
    for split, rows in found.items():
        write_jsonl(root / FILE.format(split=split), rows)
    return found


def _one(root: Path, path: Path, made: LocalizedSpec, clip: Clip, turn: int) -> Artifact:
    variant, name = made.variants[turn % len(made.variants)], path.stem
    rng = rng_of(made.seed, "localization", name)
    frames = read_frames(root / clip.path)
    count, height, width = frames.shape[:3]
    strength = float(rng.uniform(*made.strength))
    length = max(2, round(rng.uniform(*made.length_share) * count))
    start = int(rng.integers(1, count - length + 1))
    if rng.random() < made.whole:
        box = (0, 0, width, height)
    else:
        w, h = (round(rng.uniform(*made.side_share) * side) for side in (width, height))
        left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        box = (left, top, left + w, top + h)
    if variant == "none":
        strength, start, length, box = 0.0, 0, 0, (0, 0, 0, 0)
    if not path.is_file():
        write_video(path, damaged(frames, variant, strength, (start, start + length), box, rng), made.fps, "x264",
                    made.store_qp)  # fmt: skip
    return Artifact(id=name, path=path.relative_to(root).as_posix(), split=clip.split, content=clip.content,
                    variant=variant, strength=strength, start=start, end=start + length, box=box)  # fmt: skip


def damaged(
    frames: np.ndarray,
    variant: str,
    strength: float,
    span: tuple[int, int],
    box: tuple[int, int, int, int],
    rng: np.random.Generator,
) -> np.ndarray:
    """A copy of RGB uint8 `[T,H,W,3]` with the artifact inside `span` and `box`."""
    if variant == "none":
        return frames
    (start, end), (left, top, right, bottom) = span, box
    if variant == "freeze":
        bad = np.repeat(frames[start - 1 : start], end - start, 0)
    else:
        bad = degrade(frames, variant, strength, rng)[start:end]
    out = frames.copy()
    out[start:end, top:bottom, left:right] = bad[:, top:bottom, left:right]
    return out
