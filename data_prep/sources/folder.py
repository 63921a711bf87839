"""Source `folder`: the user's own clips as pristine material; the same degradations, sets and splits as `synthetic`.

A clip is sampled at the recipe's frame rate, cropped to the recipe's aspect ratio and reduced to its size, which hides
most of the damage it may already carry; "pristine" means as the user gave it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import av
import numpy as np
from annotated_types import Interval
from PIL import Image

from data_prep._build import Recipe, make_jobs, run_jobs
from vqa2.core.config import register
from vqa2.core.errors import DataError, MediaError
from vqa2.core.records import Clip


@dataclass(frozen=True)
class FileShot:
    """Part of a file: `start` in [0, 1] of the room that the wanted duration leaves."""

    content: str
    path: str
    color: bool
    tags: dict[str, str]
    start: float
    seed: int

    def frames(self, recipe: Recipe, count: int, jitter: float) -> np.ndarray:
        sampled = sample_frames(Path(self.path), recipe)
        first = round(self.start * (len(sampled) - count))
        rng = np.random.default_rng(self.seed)
        margin = int(np.ceil(jitter))
        size = (recipe.width + 2 * margin, recipe.height + 2 * margin)
        out = np.empty((count, recipe.height, recipe.width, 3), np.uint8)
        for t in range(count):
            image = _cover(sampled[first + t], size)
            # Whole pixels: the shake moves the crop window inside a slightly larger picture.
            x, y = (rng.integers(-margin, margin + 1, 2) if margin else (0, 0)) + np.array([margin, margin])
            out[t] = np.asarray(image.crop((x, y, x + recipe.width, y + recipe.height)))
        return out


@register("source", "folder")
class Folder:
    """`root`: folder of clips; `test_share` of the files (at least one) is held out."""

    recipe: Recipe
    root: str
    test_share: Annotated[float, Interval(gt=0, lt=1)]

    def clips(
        self, root: Path, seed: int, workers: int, advance: Callable[[int, int], None]
    ) -> tuple[list[Clip], list[tuple[str, str]]]:
        """Writes `root/media` and returns (clips, unreadable or too short files with reasons)."""
        folder = Path(self.root)
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; source.root must name a folder of clips")
        files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
        if not files:
            raise DataError(f"{folder}: the folder is empty")
        usable, excluded = [], []
        for path in files:
            try:
                sample_frames(path, self.recipe)
                usable.append(path)
            except MediaError as err:
                excluded.append((str(path), err.reason))
        if len(usable) < 2:
            raise DataError(f"{folder}: {len(usable)} of {len(files)} files are usable, 2 are needed to split by file")
        order = np.random.default_rng(seed).permutation(len(usable))
        held_out = max(1, round(self.test_share * len(usable)))
        pools = {"test": [usable[i] for i in order[:held_out]], "train": [usable[i] for i in order[held_out:]]}

        def shots(split: str, rng: np.random.Generator, color: bool) -> FileShot:
            path = pools[split][int(rng.integers(len(pools[split])))]
            start, number = float(rng.random()), int(rng.integers(2**31))
            return FileShot(path.name, str(path), True, {"origin": "natural"}, start, number)

        return run_jobs(root, self.recipe, make_jobs(self.recipe, shots, seed), workers, advance), excluded


def sample_frames(path: Path, recipe: Recipe) -> list[Image.Image]:
    """The first frames of a file at the recipe's rate, at most four times as many as a clip needs, upright.

    MediaError where the file cannot be read or is shorter than one clip.
    """
    frames: list[Image.Image] = []
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise MediaError(path, "has no video stream")
            for frame in container.decode(video=0):
                if frame.time is not None and frame.time * recipe.fps >= len(frames):
                    turn = frame.rotation // 90
                    frames.append(Image.fromarray(np.rot90(frame.to_ndarray(format="rgb24"), turn)))
                    frames[-1].thumbnail((4 * recipe.width, 4 * recipe.width))
                if len(frames) >= 4 * recipe.frames:
                    break
    except MediaError:
        raise
    except (av.FFmpegError, ValueError) as err:
        raise MediaError(path, f"not a readable video ({' '.join(str(err).split())[:80]})") from None
    if len(frames) < recipe.frames:
        raise MediaError(path, f"{len(frames)} frames at {recipe.fps} a second, {recipe.frames} are needed")
    return frames


def _cover(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The largest centered part of `image` with the aspect ratio of `size`, reduced to it."""
    width, height = size
    scale = max(width / image.width, height / image.height)
    w, h = width / scale, height / scale
    box = ((image.width - w) / 2, (image.height - h) / 2, (image.width + w) / 2, (image.height + h) / 2)
    return image.resize(size, Image.Resampling.LANCZOS, box=box)
