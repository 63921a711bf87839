"""`python -m data_prep check <folder>`: every file, row count, media file and input file against the manifests."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
from annotated_types import Ge
from rich.console import Console

from data_prep._files import read_record
from data_prep._manifest import lines_of
from data_prep._media import Workers
from data_prep._output import set_files
from data_prep._scan import batches
from vqa2.core.config import spec
from vqa2.core.errors import DataError
from vqa2.core.records import inside
from vqa2.core.run import sha256_of

WINDOW = 512


@spec
class CheckRun:
    """`out`: the data root; `root`: where the label files of its sets lie (null: there too); `workers` processes
    hash."""

    out: str
    root: str | None
    workers: Annotated[int, Ge(1)]


@dataclass(frozen=True)
class Recorded:
    """A file and the hash that it had; `what` it is and which manifest says so."""

    path: Path
    sha256: str
    what: str


def check(run: CheckRun, console: Console) -> int:
    """Lists what is not as recorded; returns how many files were looked at. DataError where anything differs."""
    out = Path(run.out)
    manifests = sorted(out.glob("*.manifest.json"))
    if not manifests:
        raise DataError(f"{out}: holds no *.manifest.json; it is no data root that data_prep wrote")
    workers, problems, files = Workers(run.workers), 0, 0
    seen: set[tuple[Path, str]] = set()
    try:
        for path in manifests:
            manifest = read_record(path)
            found = list(_counts(out, manifest))
            for window in batches(_recorded(out, Path(run.root or run.out), manifest), WINDOW):
                new = [item for item in window if (item.path, item.sha256) not in seen]
                seen.update((item.path, item.sha256) for item in new)
                hashes = workers.map(hash_or_reason, [(item.path,) for item in new], "unreadable")
                found += [f"{item.path}: {_verdict(item, now)}" for item, now in zip(new, hashes) if now != item.sha256]
                files += len(new)
            for line in found:
                console.print(f"{path.name}: {line}", markup=False)
            problems += len(found)
    finally:
        workers.close()
    if problems:
        raise DataError(f"{out}: {problems} differences from the manifests (listed above)")
    console.print(f"{out}: {len(manifests)} sets, {files} files as recorded", markup=False)
    return files


def hash_or_reason(path: Path) -> str:
    """Its sha256, or a word that is none."""
    try:
        return sha256_of(path)
    except OSError:
        return "missing" if not path.is_file() else "unreadable"


def _verdict(item: Recorded, now: str) -> str:
    return f"{item.what}, {now if now in ('missing', 'unreadable') else 'changed'}"


def _recorded(out: Path, root: Path, manifest: dict[str, Any]) -> Iterator[Recorded]:
    """Everything whose hash a manifest, or a list that it names, holds."""
    for name, value in manifest["sha256"].items():
        yield Recorded(inside(out, name), value, "a file of the set")
    for name, value in manifest.get("labels", {}).items():
        # Not through the root, which may be a link: an input may lie beside it.
        yield Recorded(Path(os.path.normpath(root / name)), value, "an input file")
    listed = out / f"{manifest.get('set', '')}.media.jsonl"
    if listed.is_file():
        with listed.open(encoding="utf-8") as lines:
            for line in lines:
                values = json.loads(line)
                yield Recorded(inside(out, values["path"]), values["sha256"], "a media file")
    if "media_sha256" in manifest:
        index = out / "media" / "index.json"
        yield Recorded(index, manifest["media_sha256"], "the index of embedded media")
        entries = read_record(index) if index.is_file() else {}
        for entry in entries.values():
            yield Recorded(inside(out, entry["clip"]["path"]), entry["sha256"], "a media file")


def _counts(out: Path, manifest: dict[str, Any]) -> Iterator[str]:
    """Row counts that are not the manifest's, of a set with JSON lines and Parquet files."""
    if "labels" not in manifest:
        return
    for split, count in manifest["rows"].items():
        lines, table = (out / file for file in set_files(manifest["set"], split))
        found = {path: reader(path) for path, reader in ((lines, lines_of), (table, _rows)) if path.is_file()}
        yield from (f"{path}: {now} rows, {count} recorded" for path, now in found.items() if now != count)


def _rows(path: Path) -> int:
    try:
        return pq.read_metadata(path).num_rows
    except (OSError, ValueError):
        return -1
