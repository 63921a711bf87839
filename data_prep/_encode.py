"""Real video files through PyAV's codecs, single-threaded so that the same input gives the same bytes."""

from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

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
    """All frames of a file as RGB uint8 `[T,H,W,3]`."""
    converter = VideoReformatter()  # one for all frames: each frame's own would start threads anew
    with av.open(str(path)) as container:
        frames = (converter.reformat(f, format="rgb24", threads=1) for f in container.decode(video=0))
        return np.stack([f.to_ndarray() for f in frames])
