"""Real video files through PyAV's codecs, single-threaded so that the same input gives the same bytes."""

from pathlib import Path

import av
import numpy as np

from vqa2.core.frames import UprightRgb

CODECS = {"x264": "libx264", "x265": "libx265"}


def write_video(path: Path, frames: np.ndarray, fps: int, codec: str, qp: int) -> None:
    """Encodes RGB uint8 `[T,H,W,3]` at constant quantizer `qp` (0-51) into an .mp4, atomically."""
    part = path.with_name(f".{path.stem}.part.mp4")
    with av.open(str(part), "w") as container:
        stream = container.add_stream(CODECS[codec], rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        quiet = {"x265-params": f"qp={qp}:log-level=none:pools=none:frame-threads=1"}
        stream.options = {"qp": str(qp), "preset": "fast"} if codec == "x264" else {"preset": "fast", **quiet}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    part.replace(path)


def read_frames(path: Path) -> np.ndarray:
    """All frames of a file as upright RGB uint8 `[T,H,W,3]`."""
    pixels = UprightRgb()
    with av.open(str(path)) as container:
        return np.stack([pixels(frame) for frame in container.decode(video=0)])
