"""Decoded frames as pixels: the one place that turns PyAV's frames into arrays."""

import av
import numpy as np
from av.video.reformatter import VideoReformatter


class UprightRgb:
    """Frames as upright RGB uint8 `[H,W,3]`; one object per clip.

    It keeps one converter: `to_ndarray(format=...)` alone sets up a new one, with its threads, for every frame.
    """

    def __init__(self) -> None:
        self._converter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        pixels = self._converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        # Rotation metadata is counter-clockwise degrees in steps of 90.
        return np.rot90(pixels, frame.rotation // 90) if frame.rotation else pixels
