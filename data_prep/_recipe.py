"""Sizes, counts and rules of generated media: the part of a source's configuration that all sources share."""

from typing import Annotated

from annotated_types import Ge, Gt, Interval

from data_prep._degrade import SPATIAL, TEMPORAL_VARIANTS
from data_prep._pseudo_mos import VMAF_VALID
from vqa2.core.config import spec, suggest
from vqa2.core.errors import ConfigError

Count = Annotated[int, Ge(0)]
Strength = Annotated[float, Interval(gt=0, le=1)]
Quantizer = Annotated[int, Interval(ge=0, le=51)]
WHERE = "source.recipe"


@spec
class Recipe:
    """Sizes in px, `frames` per clip at `fps`; counts are per distortion (or variant) for (train, test).

    `strength` and `still_strength` are ranges in (0, 1]; `store_qp` is the quantizer of clips whose distortion is not
    compression, `compression_qp` the range that strength maps to; `shake_px` the range of the shake's amplitude.
    `drop`: how far pseudo_mos falls at strength 1, for every distortion (or variant) that VMAF does not rate; stalls
    cost `stall_per_event` each and `stall_per_percent` of the played time.
    """

    width: Annotated[int, Ge(32)]
    height: Annotated[int, Ge(32)]
    fps: Annotated[int, Ge(4)]
    frames: Annotated[int, Ge(8)]
    stills: tuple[Count, Count]
    spatial_videos: tuple[Count, Count]
    temporal_videos: tuple[Count, Count]
    clean_videos: tuple[Count, Count]
    streaming: tuple[Count, Count]
    strength: tuple[Strength, Strength]
    still_strength: tuple[Strength, Strength]
    store_qp: Quantizer
    compression_qp: tuple[Quantizer, Quantizer]
    shake_px: tuple[Annotated[float, Gt(0)], float]
    vmaf_upscale: Annotated[int, Ge(1)]
    clean_mos: Annotated[float, Interval(ge=0, le=100)]
    drop: dict[str, Annotated[float, Interval(gt=0, le=100)]]
    stall_per_event: Annotated[float, Ge(0)]
    stall_per_percent: Annotated[float, Ge(0)]
    max_stall_frames: Annotated[int, Ge(2)]

    def __post_init__(self) -> None:
        for name, size in (("width", self.width), ("height", self.height)):
            if size % 2:
                raise ConfigError(f"{WHERE}.{name}: {size} is odd; video codecs need an even number")
        ranges = {"strength": self.strength, "still_strength": self.still_strength,
                  "compression_qp": self.compression_qp, "shake_px": self.shake_px}  # fmt: skip
        for name, (low, high) in ranges.items():
            if low > high:
                raise ConfigError(f"{WHERE}.{name}: {low} to {high} is no range; the smaller value comes first")
        rated = [n for n in (*SPATIAL, *TEMPORAL_VARIANTS) if n not in VMAF_VALID]
        for name in rated:
            if name not in self.drop:
                raise ConfigError(f"{WHERE}.drop.{name}: required and missing")
        for name in self.drop:
            if name not in rated:
                raise ConfigError(f"{WHERE}.drop.{name}: unknown key{suggest(name, rated)}")
