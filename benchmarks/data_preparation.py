"""Speed of data preparation: `python benchmarks/data_preparation.py [ROWS] [FOLDER]`.

(A script called data_prep.py would hide the package of that name: Python looks into the script's folder first.)

Rows a second and peak memory of a set from a label list (`ratings`, media=skip) and of one from the rows of `extend`
(`questions`), at a tenth of ROWS (default 157,755, the size of VQA²'s instruction dataset) and at ROWS, each in a
process of its own. The ratings are read as training reads them, held in memory and streamed, without clips. Then files
a second of probing (first frame, packets, hash), with one and two processes, against bare opening with PyAV of the same
files, in the same run; FOLDER holds the clips, without one forty short ones are written.
"""

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from rich.console import Console
from rich.table import Table

from data_prep._encode import write_video
from data_prep._media import MediaIndex, Workers
from data_prep.run import DataPrepRun, prepare
from vqa2.core.config import decode
from vqa2.launch import composed

SUFFIXES = {".mp4", ".mkv", ".mov", ".avi", ".webm"}


def labels(folder: Path, clips: int) -> None:
    path = folder / "LSVQ" / "LSVQ_train_labels.txt"
    path.parent.mkdir(parents=True)
    mos = np.random.default_rng(0).uniform(5, 90, clips)
    path.write_text("".join(f"batch{k % 50}/{k}.mp4, -1, -1, {m:.6f}\n" for k, m in enumerate(mos)), encoding="utf-8")


def ratings(folder: Path, rows: int) -> tuple[float, float, float]:
    """Of a set with a row per clip of a label list."""
    labels(folder, rows)
    return written(folder, "scoring_ugc", "scoring_ugc", rows)


def questions(folder: Path, rows: int) -> tuple[float, float, float]:
    """Of a set of questions about a tenth as many clips, as `extend` writes them; nine of ten are drawn."""
    clips = max(2, rows // 10)
    labels(folder, clips)
    turns = [{"user": "<video>\n" + "How does the quality of this video change? " * 5, "assistant": "It falls."}]
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as out:
        for k in range(rows * 10 // 9 + 1):
            name = f"batch{k % clips % 50}/{k % clips}.mp4"
            row = {"id": f"{name}-{k}", "clip_id": f"lsvq_train/{name}", "media": f"LSVQ/{name}", "kind": "video"}
            out.write(json.dumps({**row, "task": "open", "turns": turns}) + "\n")
    quotas = f"sets.understanding.quotas=[{{sources: [lsvq_train], rows: {rows}}}]"
    options = [f"sets.understanding.file={folder / 'rows.jsonl'}", quotas]
    return written(folder, "understanding_extended", "understanding", rows, *options)


def written(folder: Path, choice: str, key: str, rows: int, *options: str) -> tuple[float, float, float]:
    """Seconds, seconds of the processor and peak MiB of writing a set of so many rows."""
    base = ["source=lsvq_train", f"set={choice}", f"root={folder}", f"out={folder}/out", "media=skip", "workers=1"]
    run = decode(DataPrepRun, composed("data_prep", [*base, *options]), "data_prep")
    started, used = time.perf_counter(), time.process_time()
    assert prepare(run, progress=False)["sets"] == {key: {"train": rows}}
    spent = time.perf_counter() - started, time.process_time() - used
    return *spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def reading(folder: Path, streamed: bool) -> tuple[float, float, float]:
    """Seconds to the first row and to the last one of an epoch, and MiB that the process grew by."""
    from vqa2.data.dataset import as_dataset, as_rows, load_rows
    from vqa2.data.stream import Stream

    root, sets, before = folder / "out", {"scoring_ugc": 1.0}, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    if streamed:
        rows = Stream(root, sets, "train", seed=0, buffer=10_000, bad=set())
    else:
        rows = as_dataset(load_rows(root, sets, "train", 0))
    as_rows([rows[0]])
    first = time.perf_counter() - started
    for place in range(len(rows)):
        as_rows([rows[place]])
    spent = time.perf_counter() - started
    return first, spent, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def clips(folder: Path) -> list[Path]:
    for k in range(40):
        noise = np.random.default_rng(k).integers(0, 256, (60, 15, 20, 3))
        write_video(folder / f"{k:02d}.mp4", np.kron(noise, np.ones((1, 16, 16, 1))).astype(np.uint8), 30, "x264", 20)
    return sorted(folder.glob("*.mp4"))


def bare(paths: list[Path]) -> None:
    """What ffprobe reads of a file's header."""
    for path in paths:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.video[0]
            assert stream.width
            assert stream.average_rate


def probed(paths: list[Path], workers: int) -> None:
    with tempfile.TemporaryDirectory() as out:
        pool = Workers(workers)
        index = MediaIndex(Path(out), paths[0].parent, pool)
        errors = index.probe([path.name for path in paths], "video")
        index.close()
        pool.close()
    assert not errors, errors


def seconds(action: Callable[[], None]) -> float:
    """The least of three runs: the files are in the page cache for all of them."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    console = Console()
    total = int(sys.argv[1]) if len(sys.argv) > 1 else 157_755
    table = Table("rows", "set", "seconds", "of the processor", "rows / s", "peak MiB of the process")
    read = Table("rows", "read", "seconds to the first", "to the last", "MiB")
    processes = multiprocessing.get_context("spawn")
    for rows in (total // 10, total):
        for make in (questions, ratings):
            with tempfile.TemporaryDirectory() as folder:
                with processes.Pool(1) as pool:
                    spent, used, peak = pool.apply(make, (Path(folder), rows))
                rate = f"{rows / spent:,.0f}"
                table.add_row(f"{rows:,}", make.__name__, f"{spent:.1f}", f"{used:.1f}", rate, f"{peak:.0f}")
                for name, streamed in (("in memory", False), ("streamed", True)) if make is ratings else ():
                    with processes.Pool(1) as pool:
                        first, last, grown = pool.apply(reading, (Path(folder), streamed))
                    read.add_row(f"{rows:,}", name, f"{first:.1f}", f"{last:.1f}", f"{grown:.0f}")
    console.print(table, read)
    with tempfile.TemporaryDirectory() as folder:
        given = Path(sys.argv[2]) if len(sys.argv) > 2 else None
        paths = sorted(p for p in given.iterdir() if p.suffix in SUFFIXES) if given else clips(Path(folder))
        size = sum(p.stat().st_size for p in paths) / 2**20
        table = Table(f"{len(paths)} files, {size:.0f} MiB", "seconds", "files / s", "time / bare")
        base = seconds(lambda: bare(paths))
        cases = [("bare PyAV opening", base)]
        cases += [(f"probe, {n} process{'es' * (n > 1)}", seconds(lambda n=n: probed(paths, n))) for n in (1, 2)]
        for name, spent in cases:
            table.add_row(name, f"{spent:.2f}", f"{len(paths) / spent:.0f}", f"{spent / base:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
