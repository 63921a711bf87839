"""Runs a source and its set writers: media, clips, instruction sets, benchmark and manifests under one data root."""

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from annotated_types import Ge
from rich.console import Console

from data_prep._build import making
from data_prep._files import read_record, write_whole
from data_prep._manifest import write_label_manifest
from data_prep._output import set_files, write_rows
from data_prep.labels import LabelRun, Streams
from data_prep.manifest import check_media, check_split, counts_of, write_manifest
from data_prep.sources.labelled import Labelled
from data_prep.sources.mixture import Mixture, Plan, alone
from vqa2.core.config import build, spec
from vqa2.core.errors import ConfigError
from vqa2.core.progress import bars
from vqa2.core.records import Clip, Instruction, write_jsonl
from vqa2.core.run import fingerprint

MARKER = "prepared.json"
Standing = Literal["absent", "incomplete", "other", "complete"]


@runtime_checkable
class Writes(Protocol):
    """A set writer for all clips of an embedded source at once."""

    def write(self, clips: list[Clip], seed: int) -> dict[str, list[Instruction]]:
        """Rows per split; of a set of several files, in a folder of its name, per `<file>.<split>`."""


@spec
class DataPrepRun:
    """`source` and `sets` are components by name; `root` is the folder that the source reads, where it
    reads one; everything is written under `out`; `workers` processes. `media`, of sources that are label files: `probe`
    opens and hashes every clip, `skip` looks at none."""

    source: dict[str, Any]
    sets: dict[str, dict[str, Any]]
    root: str | None
    out: str
    media: Literal["probe", "skip"]
    seed: Annotated[int, Ge(0)]
    workers: Annotated[int, Ge(1)]


def standing(run: DataPrepRun) -> Standing:
    """How the data root compares with what `run` would write: `absent`, `incomplete` (sets are missing), `other` (made
    by other settings or code) or `complete`."""
    path = Path(run.out) / MARKER
    if not path.is_file():
        return "absent"
    found = read_record(path)
    if found["media"] != fingerprint([run.source, run.seed, making()]):
        return "other"
    return "complete" if set(run.sets) <= set(found["sets"]) else "incomplete"


def prepare(run: DataPrepRun, progress: bool) -> dict[str, Any]:
    """Makes or completes the data root; returns the summary that it also writes as `prepared.json`.

    Media files that are already what they should be are reused. While the root is being made there is no summary.
    """
    root, console = Path(run.out), Console(stderr=True, highlight=False, soft_wrap=True)
    source = build("source", run.source, "source")
    writers = {key: build("set", values, f"sets.{key}") for key, values in run.sets.items()}
    if isinstance(source, Labelled | Mixture):
        plan = alone(source, list(writers)) if isinstance(source, Labelled) else source.plan()
        return _prepare_labels(run, plan, writers, console if progress else None)
    for key, writer in writers.items():
        if isinstance(writer, Streams) and not isinstance(writer, Writes):
            name = run.sets[key]["name"]
            raise ConfigError(f"sets.{key}: {name} is written from published datasets only; see docs/data.md")
    media = fingerprint([run.source, run.seed, making()])
    check_media(root, set(writers), media)
    clips, excluded, reused = _clips(source, run, console if progress else None)
    check_split(clips)
    write_jsonl(root / "clips.jsonl", clips)
    made = {"source": run.source["name"], "seed": run.seed, "media": media, "excluded": [list(e) for e in excluded]}
    counts = {key: _write_set(root, key, writer, clips, made) for key, writer in writers.items()}
    config = fingerprint([run.source, run.sets, run.seed])
    summary = {**made, "clips": len(clips), "sets": counts, "config": config}
    write_whole(root / MARKER, json.dumps(summary, indent=1) + "\n")
    if progress:
        rows = ", ".join(f"{key} {'+'.join(str(n) for n in splits.values())}" for key, splits in counts.items())
        console.print(f"{root}: {len(clips)} clips ({reused} reused), {len(excluded)} excluded; rows: {rows}")
        for name, reason in excluded:
            console.print(f"excluded: {name}: {reason}", markup=False)
    return summary


def _prepare_labels(run: DataPrepRun, plan: Plan, writers: dict[str, Any], console: Console | None) -> dict[str, Any]:
    """The sets of datasets with label files; returns the summary, which also counts sets written before."""
    for key, writer in writers.items():
        if not isinstance(writer, Streams):
            raise ConfigError(
                f"sets.{key}: {run.sets[key]['name']} is written from embedded clips only; see docs/data.md"
            )
    out, rows, marked = Path(run.out), {}, fingerprint([run.source, run.seed, run.media])
    out.mkdir(parents=True, exist_ok=True)
    before = read_record(out / MARKER) if (out / MARKER).is_file() else {}
    kept = before.get("sets", {}) if before.get("media") == marked else {}

    def mark(sets: dict[str, Any]) -> dict[str, Any]:
        summary = {"source": run.source["name"], "seed": run.seed, "media": marked, "sets": sets}
        write_whole(out / MARKER, json.dumps(summary, indent=1) + "\n")
        return summary

    labels = LabelRun(plan, Path(run.root or run.out), out, seed=run.seed, media=run.media, workers=run.workers)
    try:
        with bars(console is not None) as shown:
            labels.scan_parts(writers, partial(shown.add, "rows read"))
        # Until all are written, the root has what it had before without them.
        (out / MARKER).unlink(missing_ok=True)
        if others := {key: counts for key, counts in kept.items() if key not in writers}:
            mark(others)
        for key, writer in writers.items():
            account = labels.write_set(key, writer)
            manifest = write_label_manifest(labels, key, writer, run.sets[key], account)
            rows[key] = manifest["rows"]
            if console is not None:
                _tell(console, manifest)
    finally:
        labels.close()
    return mark({**kept, **rows})


def _tell(console: Console, manifest: dict[str, Any]) -> None:
    """One line per set, one per dataset whose label files are not as long as they should be, and one of streaming
    timelines."""
    rows = ", ".join(f"{split} {count}" for split, count in manifest["rows"].items())
    left = sum(manifest["excluded"].values())
    console.print(f"{manifest['set']}: {rows} rows; {left} left out ({manifest['set']}.excluded.jsonl)", markup=False)
    for name, held in manifest["sources"].items():
        if held["found"] != held["expected"]:
            console.print(f"{name}: found {held['found']}, expected {held['expected']}", markup=False)
    if fits := manifest.get("timelines"):
        told = ", ".join(f"{how} {count}" for how, count in fits.items())
        console.print(f"{manifest['set']}: frames of the label files against those of the clips: {told}", markup=False)


def _clips(source: Any, run: DataPrepRun, console: Console | None) -> tuple[list[Clip], list[tuple[str, str]], int]:
    """The source's clips and exclusions, and how many files it reused; with a bar where there is a console."""
    counts: list[int] = []
    with bars(console is not None) as shown:

        def advance(done: int, total: int) -> None:
            if not counts:
                (Path(run.out) / MARKER).unlink(missing_ok=True)
            counts.append(done)
            shown.at("clips", done, total)

        clips, excluded = source.clips(Path(run.out), run.seed, run.workers, advance)
    return clips, excluded, counts[0]


def _write_set(root: Path, key: str, writer: Any, clips: list[Clip], made: dict[str, Any]) -> dict[str, int]:
    if key == "benchmark":
        records = writer.records(clips, made["seed"])
        path = root / "benchmark" / "qbench_video.json"
        path.parent.mkdir(exist_ok=True)
        write_whole(path, json.dumps(records, indent=1) + "\n")
        counts = {"rows": {"test": len(records)}, "kinds": {"test": dict(Counter(r["question_type"] for r in records))}}
        files = [path.relative_to(root).as_posix()]
    else:
        splits = writer.write(clips, made["seed"])
        counts, files = counts_of(splits), []
        for part, rows in splits.items():
            file, _, split = part.rpartition(".")
            name = f"{key}/{file}" if file else key
            write_rows(root, name, split, rows)
            files += set_files(name, split)
    write_manifest(root, key, files, counts, made)
    return counts["rows"]
