"""Runs a source and its set writers: media, clips, instruction sets, benchmark and manifests under one data root."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data_prep._build import check_split
from vqa2.core.config import build, spec
from vqa2.core.records import Clip, Instruction, write_jsonl
from vqa2.core.run import fingerprint, git_state

MARKER = "prepared.json"


@spec
class DataPrepRun:
    """`source` and `sets` are components by name; `root` is the folder that the source reads, where it
    reads one; everything is written under `out`; `workers` processes."""

    source: dict[str, Any]
    sets: dict[str, dict[str, Any]]
    root: str | None
    out: str
    seed: Annotated[int, Ge(0)]
    workers: Annotated[int, Ge(1)]


def prepare(run: DataPrepRun, progress: bool) -> dict[str, Any]:
    """Makes or completes the data root; returns the summary that it also writes as `prepared.json`."""
    root, console = Path(run.out), Console(stderr=True, highlight=False)
    source = build("source", run.source, "source")
    writers = {key: build("set", values, f"sets.{key}") for key, values in run.sets.items()}
    columns = (TextColumn("clips"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not progress) as bar:
        task = bar.add_task("clips", total=None)
        clips, excluded = source.clips(
            root, run.seed, run.workers, lambda done, total: bar.update(task, completed=done, total=total)
        )
    check_split(clips)
    write_jsonl(root / "clips.jsonl", clips)
    counts = {key: _write_set(root, key, writer, clips, run, excluded) for key, writer in writers.items()}
    summary = {"source": run.source["name"], "seed": run.seed, "clips": len(clips), "sets": counts,
               "excluded": [list(e) for e in excluded], "config": fingerprint([run.source, run.sets, run.seed])}  # fmt: skip
    (root / MARKER).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    if progress:
        console.print(f"{root}: {len(clips)} clips, rows {counts}, {len(excluded)} files excluded")
        for name, reason in excluded:
            console.print(f"excluded: {name}: {reason}", markup=False, soft_wrap=True)
    return summary


def _write_set(root: Path, key: str, writer, clips: list[Clip], run: DataPrepRun, excluded: list) -> dict[str, int]:
    if key == "benchmark":
        records = writer.records(clips, run.seed)
        path = root / "benchmark" / "qbench_video.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
        return {"test": len(records)}
    splits = writer.write(clips, run.seed)
    for split, rows in splits.items():
        write_jsonl(root / f"{key}.{split}.jsonl", rows)
    _manifest(root, key, splits, run, excluded)
    return {split: len(rows) for split, rows in splits.items()}


def _manifest(root: Path, key: str, splits: dict[str, list[Instruction]], run: DataPrepRun, excluded: list) -> None:
    """Counts, hashes, seed, git state and exclusions of one set, beside it."""
    files = [f"{key}.{split}.jsonl" for split in splits]
    manifest = {
        "set": key,
        "source": run.source["name"],
        "seed": run.seed,
        "git": git_state(),
        "rows": {split: len(rows) for split, rows in splits.items()},
        "kinds": {split: dict(Counter(r.kind for r in rows)) for split, rows in splits.items()},
        "sha256": {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in files},
        "media_sha256": hashlib.sha256((root / "media" / "index.json").read_bytes()).hexdigest(),
        "excluded": [list(e) for e in excluded],
    }
    (root / f"{key}.manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
