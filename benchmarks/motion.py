"""The motion path against the full two-path SlowFast, and chunked against whole clips: `python benchmarks/motion.py`.

Each side runs in a process of its own, for its peak memory; sides alternate, and ratios come from the same run.
Frames are 160 px: the ratios do not depend on it, the minutes do. T motion frames. Then the fast path with its channels
last, as the tower has them on a CPU, against the plain layout: 160 px, and a step of the tiny preset.
"""

import os
import resource
import subprocess
import sys
import time

import torch
from _two_path import TwoPath
from rich.console import Console
from rich.table import Table

from vqa2.model.motion import MotionConfig, MotionTower

SIDE, REPEATS = 160, 2
# name -> (network, T, chunk)
SIDES = {
    "fast path, T=64": ("fast", 64, 4000),
    "two paths, T=64": ("both", 64, 4000),
    "fast path, T=480, chunks of 128": ("fast", 480, 128),
    "fast path, T=480, whole": ("fast", 480, 4000),
    "fast path, T=3600 (60 s at 60 fps), chunks of 128": ("fast", 3600, 128),
}


@torch.no_grad()
def side(kind: str, length: int, chunk: int, repeats: int) -> tuple[float, float]:
    """(best seconds, MB of peak memory above the process at rest) of one clip of `length` frames."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    tower = MotionTower(MotionConfig(image_size=SIDE, chunk_frames=chunk)).eval()
    network = TwoPath(tower).eval() if kind == "both" else tower
    frames = torch.randint(0, 256, (length, 3, SIDE, SIDE), dtype=torch.uint8)
    clip = frames.transpose(0, 1)[None]
    run = {
        "both": lambda: network(floats(clip).contiguous(memory_format=torch.channels_last_3d)),
        "fast": lambda: tower.fast_features(clip),
    }[kind]
    rest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
    return best, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rest) / 1024


def floats(clip: torch.Tensor) -> torch.Tensor:
    return clip.float().div_(127.5).sub_(1)


def layouts(config: MotionConfig, clips: int, length: int, train: bool) -> float:
    """Processor time of the plain layout over that of channels last, of `clips` clips; with their gradients or not."""
    torch.manual_seed(0)
    tower = MotionTower(config).train(train)
    x = torch.rand(clips, 3, length, config.image_size, config.image_size)
    sides = {"plain": x, "last": x.contiguous(memory_format=torch.channels_last_3d)}
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(1 + 3 * REPEATS):
        for name, y in sides.items():
            started = time.process_time()
            with torch.set_grad_enabled(train):
                for block in tower.feature_extraction:
                    y = block(y)
                if train:
                    y.sum().backward()
            best[name] = min(best[name], time.process_time() - started)
    return best["plain"] / best["last"]


@torch.no_grad()
def same_numbers() -> float:
    """Largest difference between the two networks' outputs on one clip."""
    torch.manual_seed(0)
    tower = MotionTower(MotionConfig(image_size=64)).eval()
    clip = torch.rand(1, 3, 32, 64, 64)
    return (TwoPath(tower).eval()(clip) - tower.fast_features(clip)).abs().max().item()


def main() -> None:
    if len(sys.argv) > 1:
        kind, length, chunk, repeats = sys.argv[1], *map(int, sys.argv[2:])
        sys.stdout.write("{} {}".format(*side(kind, length, chunk, repeats)))
        return
    found = {}
    for name, (kind, length, chunk) in SIDES.items():
        words = [kind, str(length), str(chunk), str(REPEATS if length < 1000 else 1)]
        done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
        found[name] = tuple(map(float, done.stdout.split()))
    table = Table("side", "seconds", "peak MB above rest")
    for name, (seconds, memory) in found.items():
        table.add_row(name, f"{seconds:.2f}", f"{memory:.0f}")
    console = Console()
    console.print(table)
    fast, both, chunked, whole, _ = found.values()
    console.print(f"two paths / fast path: time {both[0] / fast[0]:.2f}, memory {both[1] / fast[1]:.2f}")
    console.print(f"chunked / whole: time {chunked[0] / whole[0]:.2f}, memory {chunked[1] / whole[1]:.2f}")
    tiny = MotionConfig(image_size=64, depths=[1, 1, 1, 1])
    cases = {"160 px": (MotionConfig(image_size=SIDE), 1, 64), "tiny": (tiny, 16, 16)}
    for name, (config, clips, length) in cases.items():
        shown = [f"{word} {layouts(config, clips, length, train):.2f}" for word, train in
                 (("forward", False), ("with gradients", True))]  # fmt: skip
        console.print(f"plain layout / channels last, {name}: {', '.join(shown)}")
    console.print(f"load of the machine over the last minute: {os.getloadavg()[0]:.1f}")
    console.print(f"largest difference between the two networks' features: {same_numbers():.1e}")


if __name__ == "__main__":
    main()
