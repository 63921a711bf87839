"""Speed and pixels of the video backends on the same files, in one run: `python benchmarks/decode.py [FOLDER]`.

Without a folder it writes three clips of its own. Prints seconds per backend, the ratio to the default and the largest
mean difference of the motion frames; a backend that does not load is listed as not run.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from data_prep._encode import write_video
from vqa2.core.errors import ConfigError, MediaError
from vqa2.data.video import VideoSpec, read_video


def files(folder: Path) -> list[Path]:
    if len(sys.argv) > 1:
        return sorted(p for p in Path(sys.argv[1]).iterdir() if p.suffix in (".mp4", ".mkv", ".mov"))
    rng = np.random.default_rng(0)
    noise = np.kron(rng.integers(0, 256, (90, 34, 60, 3)), np.ones((1, 16, 16, 1))).astype(np.uint8)[:, :540, :960]
    for name, codec, qp in (("h264.mp4", "x264", 24), ("hevc.mp4", "x265", 28), ("coarse.mp4", "x264", 40)):
        write_video(folder / name, noise, 30, codec, qp)
    return sorted(folder.iterdir())


def main() -> None:
    table = Table("backend", "seconds", "time / pyav", "mean pixel difference", "failed")
    reference: dict[Path, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = files(Path(folder))
        base = 0.0
        for backend in ("pyav", "decord", "torchcodec"):
            spec = VideoSpec(backend=backend, deadline_s=120.0, frame_multiple=4, max_motion_frames=5000)
            started, worst, failed = time.perf_counter(), 0.0, 0
            try:
                for path in paths:
                    try:
                        motion = read_video(path, (384, 384), (384, 384), spec).motion
                    except MediaError:
                        failed += 1
                        continue
                    thumb = motion[:, ::8, ::8].astype(float)
                    worst = max(worst, float(np.abs(reference.setdefault(path, thumb) - thumb).mean()))
            except ConfigError as err:
                table.add_row(backend, "not run", str(err)[:60], "", "")
                continue
            seconds = time.perf_counter() - started
            base = base or seconds
            table.add_row(backend, f"{seconds:.2f}", f"{seconds / base:.2f}", f"{worst:.3f}", str(failed))
    Console().print(table)


if __name__ == "__main__":
    main()
