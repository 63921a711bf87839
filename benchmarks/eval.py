"""Scoring against decoding, and one prefill against generating, on the same files in one run:
`python benchmarks/eval.py [run=runs/tiny/scoring] [data=data/synthetic] [clips=48] [rounds=5] [batch=8] [workers=1]`.

Each round takes all sides in turn; shown are medians and the smallest and largest ratio over the rounds. Clips a second
are by wall time, decoded in workers ahead of the model; generating is compared with one prefill by the processor time
of the model's process, which leaves the decoding out. Generating writes the rating as training has it ("The quality of
this video is good.") and reads the level word from it.
"""

import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from vqa2.core.config import decode
from vqa2.core.prompts import SCORE_QUESTION
from vqa2.core.records import Answer, Query
from vqa2.core.scale import LEVELS
from vqa2.data.ahead import Ahead, Reader
from vqa2.data.video import VideoSpec
from vqa2.launch import composed, guarded, pop
from vqa2.model.predict import Inference, ModelPredictor


def batches(queries: Sequence[Query], size: int) -> list[Sequence[Query]]:
    return [queries[start : start + size] for start in range(0, len(queries), size)]


def decoded(ahead: Ahead, queries: Sequence[Query]) -> None:
    ahead.plan(queries)
    for query in queries:
        ahead.read(query)


def asked(predictor: ModelPredictor, verb: Callable, queries: Sequence[Query], size: int) -> list[Answer]:
    predictor.plan(queries)
    return [answer for some in batches(queries, size) for answer in verb(some)]


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall time, and processor time of this process: with decoding workers, that of the model alone."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main(overrides: list[str]) -> None:
    run, data = pop(overrides, "run") or "runs/tiny/scoring", Path(pop(overrides, "data") or "data/synthetic")
    count, rounds, size, workers = (
        int(pop(overrides, key) or default)
        for key, default in (("clips", 48), ("rounds", 5), ("batch", 8), ("workers", 1))
    )
    video = decode(VideoSpec, composed("eval", overrides)["predictor"]["video"], "predictor.video")
    made = Inference(video=video, device="cpu", max_new_tokens=16, workers=workers)
    predictor = ModelPredictor.load(Path(run) / "model", made)
    paths = sorted((data / "media" / "test").glob("*.mp4"))
    chosen = paths[:: max(1, len(paths) // count)][:count]
    queries = [Query(id=p.name, path=p, kind="video") for p in chosen]
    spoken = [Query(id=p.name, path=p, kind="video", question=SCORE_QUESTION) for p in chosen]
    sizes = [(s, s) for s in (predictor.processor.image_size, predictor.processor.motion_size)]
    ahead = Ahead(Reader(*sizes, video), workers)
    replies = asked(predictor, predictor.answer, spoken, size)
    read = sum(re.search(rf"\b({'|'.join(LEVELS)})\b", a.text or "") is not None for a in replies)
    sides = {
        "decode only": lambda: decoded(ahead, queries),
        "score (one prefill)": lambda: asked(predictor, predictor.score, queries, size),
        "generate and parse": lambda: asked(predictor, predictor.answer, spoken, size),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    model: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, work in sides.items():
            wall, cpu = seconds(work)
            times[name].append(wall)
            model[name].append(cpu)
    setting = f"{len(chosen)} clips, batch {size}, {workers} decoding workers, {torch.get_num_threads()} threads"
    table = Table("what", "clips / s", "of decode speed", "range", title=f"{setting}, {rounds} rounds")
    for name, found in times.items():
        ratios = [d / t for d, t in zip(times["decode only"], found)]
        table.add_row(name, f"{len(chosen) / statistics.median(found):.1f}", f"{statistics.median(ratios):.2f}",
                      f"{min(ratios):.2f} … {max(ratios):.2f}")  # fmt: skip
    console = Console(width=120)
    console.print(table)
    faster = [g / s for g, s in zip(model["generate and parse"], model["score (one prefill)"])]
    spread = f"{min(faster):.2f} … {max(faster):.2f}"
    ratio = f"{statistics.median(faster):.2f} times one prefill ({spread})"
    console.print(f"processor time of the model's process: generating takes {ratio}")
    console.print(f"{read} of {len(chosen)} written replies name a level")


if __name__ == "__main__":
    guarded(main, "eval")
