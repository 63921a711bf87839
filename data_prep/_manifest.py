"""The manifest of a set that comes from label files: what was expected, found, taken, left out and written."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep._files import write_whole
from data_prep._output import set_files
from data_prep.labels import Account, LabelRun, Reads, Streams
from vqa2.core.run import fingerprint, git_state, sha256_of


def write_label_manifest(
    run: LabelRun, key: str, writer: Streams, values: dict[str, Any], account: Account
) -> dict[str, Any]:
    """`<key>.manifest.json` of a set that `values` describe and `writer` wrote; files that an earlier run wrote for it
    are removed; returns the manifest."""
    files = sorted(_files(run, key, account))
    for path in (*run.out.glob(f"{key}.*.jsonl"), *(run.out / "parquet" / key).glob("*.parquet")):
        if path.relative_to(run.out).as_posix() not in files:
            path.unlink()
    rows = {split: counts["rows"] for split, counts in account.rows.items()}
    manifest = {
        "set": key,
        "seed": run.seed,
        "config": fingerprint(values),
        "media": run.media,
        "media_files": account.media_files,
        "rows": rows,
        "tasks": {split: _part(counts, "task:") for split, counts in account.rows.items()},
        "sources": {name: _source(run, name, account) for name in run.parts_of(key)},
        "excluded": dict(sorted(account.excluded.items())),
        **({"timelines": dict(sorted(account.timelines.items()))} if account.timelines else {}),
        "labels": {name: sha256_of(path) for name, path in _inputs(run, key, writer).items()},
        "sha256": {name: sha256_of(run.out / name) for name in files},
        "git": git_state(),
    }
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    write_whole(run.out / f"{key}.manifest.json", text)
    return manifest


def _files(run: LabelRun, key: str, account: Account) -> Iterator[str]:
    for split in account.rows:
        yield from set_files(key, split)
    yield f"{key}.excluded.jsonl"
    if run.index is not None:
        yield f"{key}.media.jsonl"


def _inputs(run: LabelRun, key: str, writer: Streams) -> dict[str, Path]:
    """Name relative to the root -> path, of the label files that were there (of a folder of files, the files) and of
    what else the writer read."""
    paths = writer.inputs() if isinstance(writer, Reads) else []
    for name in run.parts_of(key):
        paths += run.plan.parts[name].inputs(run.root)
    return {Path(os.path.relpath(path, run.root)).as_posix(): path for path in paths}


def _source(run: LabelRun, name: str, account: Account) -> dict[str, Any]:
    """Rows of a dataset: what its label files should hold, what they hold, what can be used and what was."""
    held = run.scans[name]
    rows = sum(counts[f"source:{name}"] for counts in account.rows.values())
    return {
        "dataset": held.part.dataset,
        "expected": dict(held.part.expected),
        "found": {split: held.found[split] for split in held.part.expected},
        "usable": len(held.keys),
        "taken": account.taken[name],
        "rows": rows,
        "mos": [held.lo, held.hi] if held.found else [],
    }


def _part(counts: dict[str, int], prefix: str) -> dict[str, int]:
    return {k.removeprefix(prefix): n for k, n in sorted(counts.items()) if k.startswith(prefix)}


def lines_of(path: Path) -> int:
    """Lines of a file, read in pieces."""
    count = 0
    with path.open("rb") as handle:
        while piece := handle.read(1 << 20):
            count += piece.count(b"\n")
    return count
