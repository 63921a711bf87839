"""Source pictures of the embedded data: photographs inside installed wheels, and procedural textures from seeds.

Nothing is downloaded. Licenses are those of the packages (scikit-image: BSD and public domain; scikit-learn: CC-BY;
matplotlib: public domain); see docs/data.md. Every picture is RGB uint8 `[H,W,3]`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage, spatial

from vqa2.core.errors import DataError

_SKIMAGE, _SKLEARN, _MPL = "skimage/data", "sklearn/datasets/images", "matplotlib/mpl-data/sample_data"
COLOR_PHOTOS = {
    "astronaut": f"{_SKIMAGE}/astronaut.png",
    "chelsea": f"{_SKIMAGE}/chelsea.png",
    "coffee": f"{_SKIMAGE}/coffee.png",
    "tissue": f"{_SKIMAGE}/ihc.png",
    "motorcycle": f"{_SKIMAGE}/motorcycle_left.png",
    "retina": f"{_SKIMAGE}/retina.jpg",
    "rocket": f"{_SKIMAGE}/rocket.jpg",
    "china": f"{_SKLEARN}/china.jpg",
    "flower": f"{_SKLEARN}/flower.jpg",
    "hopper": f"{_MPL}/grace_hopper.jpg",
}
# Gray, or with hardly any color. scikit-image's clock (motion blur) and moon (low contrast) are absent: as pristine
# pictures they would carry wrong labels.
GRAY_PHOTOS = {
    "brick": f"{_SKIMAGE}/brick.png",
    "camera": f"{_SKIMAGE}/camera.png",
    "coins": f"{_SKIMAGE}/coins.png",
    "grass": f"{_SKIMAGE}/grass.png",
    "gravel": f"{_SKIMAGE}/gravel.png",
    "page": f"{_SKIMAGE}/page.png",
    "hubble": f"{_SKIMAGE}/hubble_deep_field.jpg",
}


@dataclass(frozen=True)
class Content:
    """A source picture. `origin`: natural (photograph) or CG (procedural); gray pictures take no color distortion."""

    name: str
    origin: str
    color: bool


def catalog() -> dict[str, Content]:
    """Every embedded content by name."""
    photos = [Content(n, "natural", True) for n in COLOR_PHOTOS] + [Content(n, "natural", False) for n in GRAY_PHOTOS]
    drawn = [Content(n, "CG", True) for n in TEXTURES]
    return {c.name: c for c in [*photos, *drawn]}


@lru_cache(maxsize=64)
def picture(name: str) -> np.ndarray:
    """The pixels of a content, RGB uint8; DataError where the wheel does not carry the file."""
    family, _, variant = name.partition("#")
    if family in TEXTURES:
        rng = np.random.default_rng([sum(map(ord, family)), int(variant or 0)])
        return (np.clip(TEXTURES[family](rng), 0, 1) * 255).round().astype(np.uint8)
    relative = {**COLOR_PHOTOS, **GRAY_PHOTOS}[family]
    package, _, rest = relative.partition("/")
    spec = find_spec(package)
    path = Path(spec.origin).parent / rest if spec and spec.origin else Path(relative)
    if not path.is_file():
        raise DataError(f"{path}: photograph {family!r} is missing from the installed {package}; reinstall it")
    image = Image.open(path).convert("RGB")
    # Bounded so that a crop window of any picture shows structure, not a flat patch of a huge photograph.
    image.thumbnail((640, 640), Image.Resampling.LANCZOS)
    return _varied(np.asarray(image), int(variant)) if variant else np.asarray(image)


def _varied(pixels: np.ndarray, number: int) -> np.ndarray:
    """A photograph turned, mirrored, with its color channels exchanged and a mild gamma."""
    rng = np.random.default_rng(number)
    turned = np.rot90(pixels, rng.integers(4))
    if rng.random() < 0.5:
        turned = turned[:, ::-1]
    turned = turned[..., rng.permutation(3)]
    gamma = np.exp(rng.uniform(-0.3, 0.3))
    return (255 * (turned / 255.0) ** gamma).round().astype(np.uint8)


_SIDE = 448


def _grid() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:_SIDE, 0:_SIDE] / _SIDE
    return x, y


def _fractal(rng: np.random.Generator, decay: float = 1.1) -> np.ndarray:
    """Noise with a power-law spectrum, scaled to [0,1]."""
    f = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.rfftfreq(_SIDE)[None]) + 1 / _SIDE
    spectrum = np.fft.rfft2(rng.standard_normal((_SIDE, _SIDE))) / f**decay
    field = np.fft.irfft2(spectrum, (_SIDE, _SIDE))
    return (field - field.min()) / np.ptp(field)


def _tint(field: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    a, b = rng.uniform(0.05, 0.95, (2, 3))
    return a + (b - a) * field[..., None]


def _plasma(rng: np.random.Generator) -> np.ndarray:
    return np.stack([_fractal(rng, rng.uniform(1.1, 1.8)) for _ in range(3)], -1)


def _clouds(rng: np.random.Generator) -> np.ndarray:
    return _tint(_fractal(rng, rng.uniform(0.8, 1.6)), rng)


def _checker(rng: np.random.Generator) -> np.ndarray:
    x, y = _grid()
    count = rng.integers(8, 20)
    cells = (np.floor(x * count + 0.6 * np.sin(6 * y)) + np.floor(y * count)).astype(int) % 2
    return _tint(0.75 * cells + 0.25 * _fractal(rng), rng)


def _voronoi(rng: np.random.Generator) -> np.ndarray:
    points, colors = rng.uniform(0, 1, (90, 2)), rng.uniform(0, 1, (90, 3))
    x, y = _grid()
    nearest = spatial.KDTree(points).query(np.stack([x, y], -1))[1]
    return 0.85 * colors[nearest] + 0.15 * _fractal(rng)[..., None]


def _disks(rng: np.random.Generator) -> np.ndarray:
    out = np.repeat(_fractal(rng, 1.8)[..., None], 3, -1)
    x, y = _grid()
    for _ in range(60):
        cx, cy, radius = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.02, 0.09)
        out[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = rng.uniform(0, 1, 3)
    return ndimage.gaussian_filter(out, (0.6, 0.6, 0))


def _waves(rng: np.random.Generator) -> np.ndarray:
    x, y = _grid()
    field = sum(np.sin(2 * np.pi * (fx * x + fy * y) + p) for fx, fy, p in rng.uniform(-12, 12, (6, 3)))
    return _tint((field - field.min()) / np.ptp(field), rng)


TEXTURES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "plasma": _plasma,
    "clouds": _clouds,
    "checker": _checker,
    "voronoi": _voronoi,
    "disks": _disks,
    "waves": _waves,
}
