"""Scoring against decoding, and one prefill against writing the rating, on the same files and model in one run:
`python benchmarks/eval.py [run=runs/tiny/grpo] [media=data/synthetic/media/test] [clips=120] [rounds=5] [batch=8]
[workers=1] [max_frames=2000]`. Needs a model of stage=grpo, the one that can do both.

- decode: the clips read by `workers` processes, nothing else done; this is the speed that scoring is held against.
- decode, a process a core: the most that this machine decodes with all it has.
- score: decoded by as many processes ahead of the model, level softmax after one prefill.
- reason: the same, but the model writes thought and rating, and the rating is read (predictor=reasoning), as long as
  that mode makes it.

Each round takes all sides in turn; shown are medians and the smallest and largest ratio over the rounds. The second
table splits the processor time of a clip: decoding in a process of its own, the rest in the model's process.
"""

import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from vqa2.core.config import decode
from vqa2.core.records import Answer, Query
from vqa2.data.ahead import Ahead, Reader
from vqa2.data.video import VideoSpec, probe
from vqa2.launch import composed, guarded, pop, pop_count
from vqa2.model.predict import Inference, ModelPredictor
from vqa2.predictors.reasoning import ReasoningPredictor

PARTS = {
    "read": ("_clips", "read"),
    "layout": ("_prompt",),
    "key frames": ("model", "model", "see"),
    "motion": ("model", "model", "motion_tower", "fast"),
    "language model": ("model", "model", "language_model", "forward"),
}
"""Name -> where the predictor does it."""


def batches(queries: Sequence[Query], size: int) -> list[Sequence[Query]]:
    return [queries[start : start + size] for start in range(0, len(queries), size)]


def read_all(ahead: Ahead, queries: Sequence[Query], size: int) -> None:
    ahead.plan(queries)
    for some in batches(queries, size):
        ahead.read(some)


def score_all(predictor, queries: Sequence[Query], size: int) -> list[Answer]:
    predictor.plan(queries)
    return [answer for some in batches(queries, size) for answer in predictor.score(some)]


def wall(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def timed(predictor: ModelPredictor, spent: Counter) -> Iterator[None]:
    """Adds up the processor time of the predictor's parts, and of everything (`all`), while it is open."""
    before = []
    for name, path in PARTS.items():
        owner = predictor
        for part in path[:-1]:
            owner = getattr(owner, part)
        before.append((owner, path[-1]))
        setattr(owner, path[-1], _watched(getattr(owner, path[-1]), name, spent))
    start = time.process_time()
    yield
    spent["all"] += time.process_time() - start
    for owner, name in before:
        delattr(owner, name)


def _watched(work: Callable, name: str, spent: Counter) -> Callable:
    def run(*args, **kwargs):
        start = time.process_time()
        try:
            return work(*args, **kwargs)
        finally:
            spent[name] += time.process_time() - start

    return run


def speeds(sides: dict[str, Callable[[], object]], rounds: int, clips: int, title: str) -> Table:
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, work in sides.items():
            times[name].append(wall(work))
    table = Table("what", "clips / s", "of decode", "range", "of score", "range", title=title)
    for name, found in times.items():
        row = [name, f"{clips / statistics.median(found):.1f}"]
        for base in ("decode", "score"):
            ratios = [b / t for b, t in zip(times[base], found)]
            row += [f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f} … {max(ratios):.2f}"]
        table.add_row(*row)
    return table


def breakdown(sides: dict[str, Callable[[], object]], predictor: ModelPredictor, clips: int) -> Table:
    """Processor time a clip, in ms: one pass of each side in this process, its decoding too."""
    table = Table("ms a clip", "decode", *list(PARTS)[1:], "rest", "together", title="processor time, one process")
    for name, work in sides.items():
        spent: Counter = Counter()
        with timed(predictor, spent):
            work()
        rest = spent["all"] - sum(spent[part] for part in PARTS)
        cells = [*(spent[part] for part in PARTS), rest, spent["all"]]
        table.add_row(name, *(f"{1000 * cell / clips:.1f}" for cell in cells))
    return table


def main(overrides: list[str]) -> None:
    run = Path(pop(overrides, "run") or "runs/tiny/grpo")
    media = Path(pop(overrides, "media") or "data/synthetic/media/test")
    count, rounds, size, workers, most = (
        pop_count(overrides, key, default)
        for key, default in (("clips", 120), ("rounds", 5), ("batch", 8), ("workers", 1), ("max_frames", 2000))
    )
    values = composed("eval", ["predictor=reasoning"])["predictor"]
    video = decode(VideoSpec, values["video"], "predictor.video")

    def opened(workers: int) -> ModelPredictor:
        made = Inference(video=video, device="cpu", max_new_tokens=values["max_new_tokens"], workers=workers)
        return ModelPredictor.load(run / "model", made)

    predictor, alone = opened(workers), opened(0)
    paths = [p for p in sorted(media.glob("*.mp4")) if probe(p, "video", 4)[1] <= most]
    chosen = paths[:: max(1, len(paths) // count)][:count]
    queries = [Query(id=p.name, path=p, kind="video") for p in chosen]
    reader = Reader(*[(s, s) for s in (predictor.processor.image_size, predictor.processor.motion_size)], video)
    cores = len(os.sched_getaffinity(0))
    thinking = [ReasoningPredictor(p, "", {}) for p in (predictor, alone)]
    replies = score_all(thinking[0], queries, size)
    score_all(predictor, queries, size)
    console = Console(width=120)
    title = f"{len(chosen)} clips, batch {size}, {workers} decoding processes, {torch.get_num_threads()} threads"
    sides = {
        "decode": lambda: read_all(Ahead(reader, workers), queries, size),
        "decode, a process a core": lambda: read_all(Ahead(reader, cores), queries, size),
        "score": lambda: score_all(predictor, queries, size),
        "reason": lambda: score_all(thinking[0], queries, size),
    }
    console.print(speeds(sides, rounds, len(chosen), f"{title}, {rounds} rounds"))
    console.print(breakdown({"score": lambda: score_all(alone, queries, size),
                             "reason": lambda: score_all(thinking[1], queries, size)}, alone, len(chosen)))  # fmt: skip
    written = [len(predictor.processor.tokenizer.encode(a.text)) for a in replies if a.text is not None]
    failed = next((a.error for a in replies if a.error is not None), "none")
    console.print(f"{len(written)} of {len(chosen)} ratings could be read, the first other one: {failed}")
    if written:
        console.print(f"tokens written: median {statistics.median(written):.0f}, {min(written)} to {max(written)}")


if __name__ == "__main__":
    guarded(main, "eval")
