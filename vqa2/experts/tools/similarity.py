"""Expert `similarity`: a full-reference metric (PSNR, SSIM, MS-SSIM, GMSD, VIF, VSI), frame by frame.

Departs from the metrics' papers, which rate stills: `frames` evenly spaced pairs, mean over them.
"""

from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge

from vqa2.core.config import register
from vqa2.experts._frames import enlarged, pairs
from vqa2.experts._similarity import METRICS
from vqa2.experts.base import Info, Media, Raw


@register("expert", "similarity")
class Similarity:
    """`metric`; `frames` pairs per clip; pictures whose shorter side is below `min_side_px` are enlarged by a whole
    factor (0: never), which metrics with a least size need on small clips."""

    info: Info
    metric: Literal["psnr", "ssim", "ms_ssim", "gmsd", "vif", "vsi"]
    frames: Annotated[int, Ge(1)]
    min_side_px: Annotated[int, Ge(0)]

    def missing(self) -> str:
        return ""

    def content(self) -> str:
        return ""

    def open(self) -> "Compared":
        return Compared(self)


class Compared:
    """Holds no state between media."""

    def __init__(self, made: Similarity) -> None:
        self._made = made

    def score(self, media: Media, reference: Media | None, prompt: str | None) -> Raw:
        """Mean over the sampled pairs; `parts`: the worst pair and the spread."""
        assert reference is not None
        metric, side = METRICS[self._made.metric], self._made.min_side_px
        values = [metric(enlarged(a, side), enlarged(b, side)) for a, b in pairs(media, reference, self._made.frames)]
        worst = min(values) if self._made.info.higher_is_better else max(values)
        return Raw(value=float(np.mean(values)), parts={"worst": float(worst), "std": float(np.std(values))})
