"""Clean pictures with one or two known distortions, so that answers about them are known (AgenticIQA-Eval, B.5)."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from skimage.metrics import structural_similarity

from data_prep._contents import COLOR_PHOTOS, picture
from data_prep._degrade import COLOR, SPATIAL, degrade
from vqa2.core.config import suggest
from vqa2.core.errors import ConfigError, DataError

# Light, color and contrast happen in the camera before blur, noise in the sensor after it, coding last.
_ORDER = ("overexposure", "underexposure", "low contrast", "high contrast", "oversaturation", "desaturation",
          "spatial blur", "motion blur", "noise", "block effect", "compression artifact")  # fmt: skip
assert sorted(_ORDER) == sorted(SPATIAL)
_TRIES = 50


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How pictures are extracted and degraded; see conf/agentic_eval.yaml."""

    share: tuple[float, float]
    longest_side: int
    strengths: Mapping[str, float]
    jpeg_quality: tuple[int, int]
    min_change: float
    min_color: float


@dataclass(frozen=True)
class Sample:
    """A distorted picture and its clean one, RGB uint8 `[H,W,3]`; `severities` by distortion; `content` names the
    source; `ssim` of the two."""

    content: str
    clean: np.ndarray
    shown: np.ndarray
    severities: dict[str, str]
    ssim: float


def contents(folder: str | None, embedded: Sequence[str]) -> list[str]:
    """Files of a folder, or without one the `embedded` photographs. DataError where there are none, ConfigError for a
    name that is no embedded color photograph."""
    if folder is None:
        for name in embedded:
            if name not in COLOR_PHOTOS:
                raise ConfigError(f"agentic_eval.contents: no photograph {name!r}{suggest(name, list(COLOR_PHOTOS))}")
        return list(embedded)
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder of pictures")
    found = sorted(p for p in root.iterdir() if p.is_file() and not p.name.startswith("."))
    if not found:
        raise DataError(f"{root}: the folder is empty")
    return [str(p) for p in found]


def pixels_of(content: str, folder: str | None) -> np.ndarray:
    """RGB uint8 `[H,W,3]`. DataError for a file that is no picture."""
    if folder is None:
        return picture(content)
    try:
        with Image.open(content) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as err:
        raise DataError(f"{content}: not a readable picture ({type(err).__name__})") from None


def sample(
    content: str,
    pixels: np.ndarray,
    recipe: Recipe,
    apart: Mapping[str, Sequence[str]],
    count: int,
    rng: np.random.Generator,
) -> Sample | None:
    """An extract with `count` visible distortions, None where none can be seen. `apart`: the distortions that may
    stand beside one."""
    clean = _extract(pixels, recipe, rng)
    pool = [name for name in SPATIAL if name not in COLOR or np.ptp(clean, axis=-1).mean() >= recipe.min_color]
    levels = list(recipe.strengths)
    for _ in range(_TRIES):
        first = pool[int(rng.integers(len(pool)))]
        beside = [name for name in apart[first] if name in pool]
        if count > 1 and not beside:
            continue
        names = [first] if count == 1 else [first, beside[int(rng.integers(len(beside)))]]
        severities = {name: levels[int(rng.integers(len(levels)))] for name in sorted(names, key=_ORDER.index)}
        shown = clean
        for name, severity in severities.items():
            before, shown = shown, _degraded(shown, name, recipe.strengths[severity], recipe, rng)
            if np.abs(shown.astype(float) - before).mean() < recipe.min_change:
                break
        else:
            return Sample(content, clean, shown, severities, _ssim(clean, shown))
    return None


def _extract(pixels: np.ndarray, recipe: Recipe, rng: np.random.Generator) -> np.ndarray:
    height, width = pixels.shape[:2]
    share = rng.uniform(*recipe.share)
    size = max(16, round(height * share)), max(16, round(width * share))
    top, left = (int(rng.integers(max(1, full - part + 1))) for full, part in zip((height, width), size))
    image = Image.fromarray(pixels[top : top + size[0], left : left + size[1]])
    image.thumbnail((recipe.longest_side, recipe.longest_side), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _degraded(pixels: np.ndarray, name: str, strength: float, recipe: Recipe, rng: np.random.Generator) -> np.ndarray:
    if name != "compression artifact":
        return degrade(pixels[None], name, strength, rng)[0]
    best, worst = recipe.jpeg_quality
    coded = io.BytesIO()
    Image.fromarray(pixels).save(coded, "JPEG", quality=round(best + (worst - best) * strength))
    return np.asarray(Image.open(coded).convert("RGB"))


def _ssim(clean: np.ndarray, shown: np.ndarray) -> float:
    gray = [np.asarray(Image.fromarray(x).convert("L")) for x in (clean, shown)]
    return float(structural_similarity(*gray, data_range=255))
