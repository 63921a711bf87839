"""Small video files for tests, written with PyAV."""

from pathlib import Path

import av
import numpy as np


def write_clip(
    path: Path,
    frames: np.ndarray,
    fps: int,
    codec: str = "ffv1",
    pix_fmt: str = "bgr0",
    faststart: bool = False,
    **options: str,
) -> None:
    """Encodes RGB uint8 `[T,H,W,3]`; ffv1 with bgr0 keeps every pixel (use .mkv). `faststart` puts an MP4's index in
    front of its frames; `options` are the codec's."""
    with av.open(str(path), "w", options={"movflags": "faststart"} if faststart else {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.options = options
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def numbered(count: int, height: int = 24, width: int = 32) -> np.ndarray:
    """Frames whose brightness tells their number, with some structure."""
    base = np.linspace(0, 40, width)[None, :, None] + np.linspace(0, 20, height)[:, None, None]
    return np.stack([np.broadcast_to(base + 2 * t, (height, width, 3)).astype(np.uint8) for t in range(count)])
