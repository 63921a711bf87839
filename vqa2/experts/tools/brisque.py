"""Expert `brisque`: 36 scene statistics at two scales, read by a support vector regression (Mittal 2012).

The regression and the feature ranges are files of the brisque wheel (Apache-2.0, trained on LIVE IQA); the code is ours
and gives that package's values without its dependencies (OpenCV, libsvm, requests).
"""

import pickle
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge
from scipy import ndimage
from skimage.color import rgb2gray

from vqa2.core.config import register
from vqa2.core.errors import ConfigError
from vqa2.experts._frames import enlarged, sampled
from vqa2.experts._nss import aggd, mscn
from vqa2.experts.base import Info, Media, Raw, files_hash

_HALF = np.array([-0.09375, 0.59375, 0.59375, -0.09375])
"""Cubic convolution (a = -0.75) halfway between two pixels."""


@register("expert", "brisque")
class Brisque:
    """`frames` per clip, mean over them; pictures below `min_side_px` are enlarged by a whole factor (0: never)."""

    info: Info
    frames: Annotated[int, Ge(1)]
    min_side_px: Annotated[int, Ge(0)]

    def missing(self) -> str:
        return "" if _folder() else "brisque (its regression) is not installed; pip install 'vqa2[experts]'"

    def content(self) -> str:
        return files_hash([_folder() / "svm.txt", _folder() / "normalize.pickle"])

    def open(self) -> "BrisqueScorer":
        if self.missing():
            raise ConfigError(f"brisque: {self.missing()}")
        return BrisqueScorer(self)


class BrisqueScorer:
    """Holds the regression: `support [n,36]`, `weight [n]`."""

    def __init__(self, made: Brisque) -> None:
        self._made, folder = made, _folder()
        with (folder / "normalize.pickle").open("rb") as handle:
            ranges = _Plain(handle).load()
        self._low, self._high = np.array(ranges["min_"]), np.array(ranges["max_"])
        head, _, body = (folder / "svm.txt").read_text(encoding="ascii").partition("SV\n")
        values = dict(line.split(" ", 1) for line in head.strip().splitlines())
        self._gamma, self._rho = float(values["gamma"]), float(values["rho"])
        rows = [line.split() for line in body.strip().splitlines()]
        self._weight = np.array([float(row[0]) for row in rows])
        self._support = np.zeros((len(rows), len(self._low)))
        for number, row in enumerate(rows):
            for cell in row[1:]:
                index, _, value = cell.partition(":")
                self._support[number, int(index) - 1] = float(value)

    def score(self, media: Media, reference: Media | None, prompt: str | None) -> Raw:
        """Mean over the sampled frames, larger is worse."""
        frames = sampled(media, self._made.frames)
        return Raw(value=float(np.mean([self.frame(enlarged(f, self._made.min_side_px)) for f in frames])))

    def frame(self, picture: np.ndarray) -> float:
        """BRISQUE of RGB uint8 `[H,W,3]`."""
        gray = rgb2gray(picture)
        features = np.array(_features(gray) + _features(_halved(gray)))
        scaled = -1 + 2 * (features - self._low) / (self._high - self._low)
        kernel = np.exp(-self._gamma * ((self._support - scaled) ** 2).sum(1))
        return float(self._weight @ kernel - self._rho)


def _features(gray: np.ndarray) -> list[float]:
    x = mscn(gray, 1 / 255)
    shape, _, low, high, _ = aggd(x)
    made = [shape, (low**2 + high**2) / 2]
    pairs = (x[:, :-1] * x[:, 1:], x[:-1] * x[1:], x[:-1, :-1] * x[1:, 1:], x[1:, :-1] * x[:-1, 1:])
    for product in pairs:
        shape, mean, low, high, _ = aggd(product)
        made += [shape, mean, low**2, high**2]
    return made


def _halved(x: np.ndarray) -> np.ndarray:
    """Half the size by cubic convolution without a low-pass, borders replicated, as the features were trained."""
    for axis in (0, 1):
        # Sample k lies between pixels 2k and 2k+1; an even kernel's origin puts its result on the left of the two.
        x = ndimage.correlate1d(x, _HALF, axis, mode="nearest", origin=-1)
        x = x[::2] if axis == 0 else x[:, ::2]
    return x


class _Plain(pickle.Unpickler):
    """Reads lists and numbers; refuses anything that would import or call."""

    def find_class(self, module: str, name: str):
        raise ConfigError(f"brisque: normalize.pickle asks for {module}.{name}; reinstall the package")


@cache
def _folder() -> Path | None:
    """The models inside the installed package, which is not imported."""
    spec = find_spec("brisque")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "models"
    return folder if (folder / "svm.txt").is_file() else None
