"""Expert `picture`: one plain statistic of sampled frames, no reference, nothing trained.

noise         standard deviation of additive noise, 0-255 (Immerkaer 1996, on the flatter half of the picture)
sharpness     log10 of the variance of the Laplacian
contrast      standard deviation of luma
exposure      distance of mean luma from mid gray, 0-1
clipping      share of pixels at either end of luma
colorfulness  Hasler and Suesstrunk 2003
"""

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge
from scipy import ndimage

from vqa2.core.config import register
from vqa2.experts._frames import luma, sampled
from vqa2.experts.base import Info, Media, Raw


@register("expert", "picture")
class Picture:
    """`measure`: see the module; mean over `frames` evenly spaced frames."""

    info: Info
    measure: Literal["noise", "sharpness", "contrast", "exposure", "clipping", "colorfulness"]
    frames: Annotated[int, Ge(1)]

    def missing(self) -> str:
        return ""

    def content(self) -> str:
        return ""

    def open(self) -> "PictureScorer":
        return PictureScorer(self)


class PictureScorer:
    """Holds no state between media."""

    def __init__(self, made: Picture) -> None:
        self._made = made

    def score(self, media: Media, reference: Media | None, prompt: str | None) -> Raw:
        """Mean over frames; `parts`: the spread."""
        values = [MEASURES[self._made.measure](f) for f in sampled(media, self._made.frames)]
        return Raw(value=float(np.mean(values)), parts={"std": float(np.std(values))})


def noise(frame: np.ndarray) -> float:
    """A mask blind to planes and edges of constant slope, averaged where the picture changes least."""
    y = luma(frame)
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
    response = np.abs(ndimage.correlate(y, mask, mode="reflect"))[1:-1, 1:-1]
    activity = ndimage.gaussian_gradient_magnitude(y, 2)[1:-1, 1:-1]
    return float(np.sqrt(np.pi / 2) / 6 * response[activity <= np.median(activity)].mean())


def sharpness(frame: np.ndarray) -> float:
    return float(np.log10(ndimage.laplace(luma(frame)).var() + 1e-3))


def contrast(frame: np.ndarray) -> float:
    return float(luma(frame).std())


def exposure(frame: np.ndarray) -> float:
    return float(abs(luma(frame).mean() - 127.5) / 127.5)


def clipping(frame: np.ndarray) -> float:
    y = luma(frame)
    return float(((y <= 3) | (y >= 252)).mean())


def colorfulness(frame: np.ndarray) -> float:
    red, green, blue = frame.astype(float).transpose(2, 0, 1)
    rg, yb = red - green, (red + green) / 2 - blue
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


MEASURES: dict[str, Callable[[np.ndarray], float]] = {
    "noise": noise, "sharpness": sharpness, "contrast": contrast, "exposure": exposure, "clipping": clipping,
    "colorfulness": colorfulness,
}  # fmt: skip
