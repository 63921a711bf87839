"""Is reading clips a bottleneck of training? `python benchmarks/loading.py FOLDER` reads each clip of a folder as
preset=paper does (key frames one a second and all motion frames, at the model's sizes), on one core, as a worker does.

Per clip, in seconds of processor time: decoding alone, the whole way to tensors, the same for eight seconds of it
(short samples count as if they went on), and the workers that a GPU needs which takes a row every 2.4 s (VQA²'s
released log: 3,507 steps of 8 GPUs in 8,472 s).
"""

import math
import sys
import time
from pathlib import Path

import av
import torch
from rich.console import Console
from rich.table import Table

from vqa2.core.config import decode
from vqa2.core.errors import MediaError
from vqa2.data.video import native_frames, read_video
from vqa2.launch import composed
from vqa2.model.build import ModelSpec
from vqa2.model.processing import VQA2Processor

SECONDS, ROW_S = 8.0, 2.4


def measure(path: Path, model: ModelSpec) -> tuple[int, float, float, float]:
    """Frames, and seconds for decoding, for all of it, and for `SECONDS` of clip."""
    started = time.process_time()
    frames = sum(1 for _ in native_frames(path, "video"))
    decoded = time.process_time()
    key, motion = model.vision["image_size"], model.motion.image_size
    video = read_video(path, (key, key), (motion, motion), model.video)
    VQA2Processor.media(None, [video])
    whole = time.process_time() - decoded
    return frames, decoded - started, whole, whole * max(1.0, SECONDS * video.fps / frames)


def main() -> None:
    torch.set_num_threads(1)
    model = decode(ModelSpec, composed("train", ["stage=scoring", "preset=paper"])["model"], "model")
    table = Table("clip", "codec", "pixels", "frames", "decode", "to tensors", f"{SECONDS:g} s of it", "workers")
    for path in sorted(p for p in Path(sys.argv[1]).iterdir() if p.suffix in (".mp4", ".mkv", ".mov")):
        with av.open(str(path), metadata_errors="replace") as opened:
            stream = opened.streams.video[0]
            shown = (path.name, stream.codec_context.name, f"{stream.width}x{stream.height}")
        try:
            frames, alone, whole, long = measure(path, model)
        except MediaError as err:
            table.add_row(*shown, err.reason)
            continue
        workers = str(math.ceil(long / ROW_S))
        table.add_row(*shown, str(frames), f"{alone:.2f}", f"{whole:.2f}", f"{long:.1f}", workers)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
