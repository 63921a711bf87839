"""Source `folder`: the user's own clips as pristine material; the same degradations, sets and splits as `synthetic`.

A clip is sampled at the recipe's frame rate, cropped to the recipe's aspect ratio and reduced to its size, which hides
most of the damage it may already carry; "pristine" means as the user gave it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import av
import numpy as np
from annotated_types import Ge, Interval
from PIL import Image

from data_prep._build import Job, make_jobs, run_jobs
from data_prep._degrade import COLOR
from data_prep._recipe import Recipe
from vqa2.core.config import register
from vqa2.core.errors import DataError, MediaError
from vqa2.core.frames import UprightRgb
from vqa2.core.records import Clip


@dataclass(frozen=True)
class FileShot:
    """Part of a file: `start` in [0, 1] of the room that the wanted duration leaves."""

    content: str
    path: str
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


@dataclass(frozen=True)
class Material:
    """A usable file and what can be shown on it: `color`, `motion` are mean differences on 0-255."""

    path: Path
    color: float
    motion: float


@register("source", "folder")
class Folder:
    """`root`: folder of clips of one `origin`; `test_share` of the files (at least one) is held out.

    Color distortions are made of files whose channels differ by `min_color` on average, stuttering of files whose
    successive frames do by `min_motion` (both on 0-255): elsewhere the label would say what nobody can see.
    """

    recipe: Recipe
    root: str
    origin: Literal["natural", "CG"]
    test_share: Annotated[float, Interval(gt=0, lt=1)]
    min_color: Annotated[float, Ge(0)]
    min_motion: Annotated[float, Ge(0)]

    def clips(
        self, root: Path, seed: int, workers: int, advance: Callable[[int, int], None]
    ) -> tuple[list[Clip], list[tuple[str, str]]]:
        """Writes `root/media` and returns (clips, unreadable or too short files and impossible clips with reasons)."""
        jobs, left_out = self.jobs(seed)
        return run_jobs(root, self.recipe, jobs, workers, advance), left_out

    def jobs(self, seed: int) -> tuple[list[Job], list[tuple[str, str]]]:
        """What `clips` makes, and what cannot be made with the reason."""
        usable, excluded = self._files()
        order = np.random.default_rng(seed).permutation(len(usable))
        held_out = min(len(usable) - 1, max(1, round(self.test_share * len(usable))))
        pools = {"test": [usable[i] for i in order[:held_out]], "train": [usable[i] for i in order[held_out:]]}

        def shots(split: str, rng: np.random.Generator, variant: str | None) -> FileShot | None:
            pool = [m for m in pools[split] if self._shows(m, variant)]
            if not pool:
                return None
            material = pool[int(rng.integers(len(pool)))]
            start, number = float(rng.random()), int(rng.integers(2**31))
            tags = {"origin": self.origin, "color": "yes" if self._shows(material, COLOR[0]) else "no"}
            return FileShot(material.path.name, str(material.path), tags, start, number)

        jobs, left_out = make_jobs(self.recipe, shots, seed, "folder")
        return jobs, excluded + left_out

    def _shows(self, material: Material, variant: str | None) -> bool:
        if variant in COLOR:
            return material.color >= self.min_color
        return variant != "stutter" or material.motion >= self.min_motion

    def _files(self) -> tuple[list[Material], list[tuple[str, str]]]:
        """The usable files of the folder, and the others with reasons; DataError where they do not suffice."""
        folder = Path(self.root)
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; source.root must name a folder of clips")
        files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
        if not files:
            raise DataError(f"{folder}: the folder is empty")
        usable, excluded = [], []
        for path in files:
            try:
                usable.append(_measured(path, self.recipe))
            except MediaError as err:
                excluded.append((str(path), err.reason))
        if len(usable) < 2:
            reasons = f"; {Path(excluded[0][0]).name}: {excluded[0][1]}" if excluded else ""
            raise DataError(f"{folder}: {len(usable)} of {len(files)} files usable, 2 needed to split by file{reasons}")
        return usable, excluded


def _measured(path: Path, recipe: Recipe) -> Material:
    small = (recipe.width // 2, recipe.height // 2)
    x = np.stack([np.asarray(_cover(image, small), np.float32) for image in sample_frames(path, recipe)])
    color = float(np.ptp(x, axis=-1).mean())
    return Material(path, color, float(np.abs(np.diff(x, axis=0)).mean()))


def sample_frames(path: Path, recipe: Recipe) -> tuple[Image.Image, ...]:
    """The first frames of a file at the recipe's rate, at most four times as many as a clip needs, upright.

    MediaError where the file cannot be read or is shorter than one clip.
    """
    return _sample(path, recipe.fps, recipe.frames, 4 * recipe.width)


# Every file serves many clips, one after the other; a worker holds a few files' reduced frames.
@lru_cache(maxsize=4)
def _sample(path: Path, fps: int, count: int, side: int) -> tuple[Image.Image, ...]:
    pixels, frames = UprightRgb(), []
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise MediaError(path, "has no video stream")
            for frame in container.decode(video=0):
                if frame.time is not None and frame.time * fps >= len(frames):
                    frames.append(Image.fromarray(pixels(frame)))
                    frames[-1].thumbnail((side, side))
                if len(frames) >= 4 * count:
                    break
    except MediaError:
        raise
    except (av.FFmpegError, ValueError) as err:
        raise MediaError(path, f"not a readable video ({' '.join(str(err).split())[:80]})") from None
    if len(frames) < count:
        raise MediaError(path, f"{len(frames)} frames at {fps} a second, {count} are needed")
    return tuple(frames)


def _cover(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The largest centered part of `image` with the aspect ratio of `size`, reduced to it."""
    width, height = size
    scale = max(width / image.width, height / image.height)
    w, h = width / scale, height / scale
    box = ((image.width - w) / 2, (image.height - h) / 2, (image.width + w) / 2, (image.height + h) / 2)
    return image.resize(size, Image.Resampling.LANCZOS, box=box)
