"""`vqa2 doctor data=<source>`: is the data all there and whole, where does it come from, does it fit on the disk.

Of a published dataset, the label files must hold as many usable rows as they should, and every clip that they name must
be one that `media=probe` would use (data_prep/_media.py); a download that stopped half way is none. A prepared data
root is checked against the hashes that data_prep recorded.
"""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

from data_prep._files import read_record, recorded_media
from data_prep._media import facts
from data_prep._rows import json_items
from data_prep.run import MARKER, DataPrepRun
from data_prep.sets.released import Released
from data_prep.sources.labelled import Excluded, Labelled
from data_prep.sources.mixture import Mixture
from vqa2.core.config import build
from vqa2.core.errors import ConfigError, DataError, MediaError
from vqa2.core.progress import Bars, bars
from vqa2.core.run import sha256_of


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """`wanted` files in all; (name, what is wrong) of the bad ones; `notes` to the user, a line each."""

    wanted: int
    missing: tuple[str, ...]
    broken: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def diagnose(run: DataPrepRun, source: Any, progress: bool = False) -> Diagnosis:
    """Looks at a source's own files and at the data root made of it, with bars where `progress` is asked for."""
    with bars(progress) as shown:
        return _diagnose(run, source, shown)


def _diagnose(run: DataPrepRun, source: Any, shown: Bars) -> Diagnosis:
    found = [_prepared(Path(run.out), shown)]
    if isinstance(source, Mixture):
        parts = list(source.plan().parts.values())
    else:
        parts = [source] if isinstance(source, Labelled) else []
    released = [
        made for made in (build("set", v, f"sets.{k}") for k, v in run.sets.items()) if isinstance(made, Released)
    ]
    if isinstance(source, Mixture) and not parts:
        if not released:
            raise ConfigError(f"set: {run.source['variant']} has its files in its sets; add set=vqa2_released")
        found = [*map(_instructions, released), *found]
    elif parts:
        found = [*_published(parts, Path(run.root or run.out), run.workers, shown), *found]
    else:
        note = f"source {run.source['name']} has no downloads; `python -m data_prep` makes its media"
        found = [Diagnosis(wanted=0, missing=(), broken=(), notes=(note,)), *found]
    return Diagnosis(
        wanted=sum(f.wanted for f in found),
        missing=tuple(name for f in found for name in f.missing),
        broken=tuple(pair for f in found for pair in f.broken),
        notes=tuple(note for f in found for note in f.notes),
    )


def verdict(name: str, found: Diagnosis) -> None:
    """DataError where anything is missing or broken."""
    if found.missing or found.broken:
        raise DataError(
            f"{name}: {len(found.missing)} of {found.wanted} files missing, {len(found.broken)} broken (listed above)"
        )


def problem(path: Path, kind: str) -> str:
    """Why data_prep would not use a media file; empty for a whole one."""
    try:
        facts(path, kind)
    except MediaError as err:
        return err.reason
    return ""


def _published(parts: Sequence[Labelled], root: Path, workers: int, shown: Bars) -> Iterator[Diagnosis]:
    """One finding per dataset, and one of the disk."""
    rooms = {part.dataset: _Room(part.disk_gb) for part in parts}
    seen: set[str] = set()
    for part in parts:
        media, broken = _named(part, root)
        missing = [name for name in media if not (root / name).is_file()]
        there = media.keys() - set(missing)
        with ProcessPoolExecutor(workers) as pool:
            names = [name for name in media if name in there]
            reasons = pool.map(problem, [root / name for name in names], repeat(part.kind), chunksize=16)
            for name, reason in zip(names, reasons):
                shown.add(f"clips of {part.variant}", 1, len(names))
                broken += [(name, reason)] if reason else []
        room = rooms[part.dataset]
        # Parts of a mixture may name the same file.
        room.lost += len(set(missing) - seen)
        room.sizes += [(root / name).stat().st_size for name in there - seen]
        seen |= media.keys()
        notes = (f"{part.variant}: license: {part.license}", f"{part.variant}: where to get it: {part.obtain}")
        # Every split has a list, which may be wrong as well.
        yield Diagnosis(wanted=len(media) + len(part.files), missing=tuple(missing), broken=tuple(broken), notes=notes)
    yield Diagnosis(wanted=0, missing=(), broken=(), notes=(_disk(root, rooms),))


def _instructions(made: Released) -> Diagnosis:
    """The files of a released instruction set: there, readable to the end, and with as many records as they should."""
    missing, broken = [], []
    for name, expected in made.files.items():
        path = Path(made.folder) / name
        if not path.is_file():
            missing.append(str(path))
            continue
        try:
            count = sum(1 for _ in json_items(path, None))
        except DataError as err:
            broken.append((str(path), str(err)))
            continue
        if count != expected:
            broken.append((str(path), f"{count} records, {expected} expected"))
    notes = (f"{made.folder}: license: {made.license}", f"{made.folder}: where to get it: {made.obtain}",
             f"{made.folder}: disk: {made.disk_gb:g} GB in all; the videos are those of other sources")  # fmt: skip
    return Diagnosis(wanted=len(made.files), missing=tuple(missing), broken=tuple(broken), notes=notes)


def _named(part: Labelled, root: Path) -> tuple[dict[str, None], list[tuple[str, str]]]:
    """The media that a dataset's label files name, and what is wrong with these files."""
    media: dict[str, None] = {}
    found: Counter[str] = Counter()
    try:
        for item in part.rows(root):
            if not isinstance(item, Excluded):
                found[item[0]] += 1
                media[part.media(item[1], root)] = None
    except DataError as err:
        return media, [(f"labels of {part.variant}", str(err))]
    wrong = [
        (part.named_files(split), f"{found[split]} usable rows, {expected} expected")
        for split, expected in part.expected.items()
        if found[split] != expected
    ]
    return media, wrong


@dataclass
class _Room:
    """The clips of one dataset: GB of all of them as published (None: unknown), sizes of those there, how many are
    not."""

    published_gb: float | None
    sizes: list[int] = field(default_factory=list)
    lost: int = 0

    def needed(self) -> float | None:
        """Bytes of the clips that are not there: their share of the published size (all of it where no label file names
        any), else by the mean of the others."""
        count = self.lost + len(self.sizes)
        if self.published_gb is not None:
            return self.published_gb * 1e9 * (self.lost / count if count else 1.0)
        return sum(self.sizes) / len(self.sizes) * self.lost if self.sizes else None


def _disk(root: Path, rooms: Mapping[str, _Room]) -> str:
    """How much is there, how much is still to come where that can be known, and how much room there is."""
    place = next(p for p in (root, *root.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    needed = {name: room.needed() for name, room in rooms.items()}
    total = sum(size for size in needed.values() if size is not None)
    unknown = [name for name, size in needed.items() if size is None]
    held = sum(sum(room.sizes) for room in rooms.values())
    said = [f"{held / 1e9:.2f} GB there"]
    if total or not unknown:
        said.append(f"about {total / 1e9:.2f} GB still to come, without archives")
    if unknown:
        said.append(f"unknown for {', '.join(unknown)}")
    return f"disk: {', '.join(said)}, {free / 1e9:.1f} GB free{'; NOT ENOUGH' if total > free else ''}"


def _prepared(root: Path, shown: Bars) -> Diagnosis:
    """A data root against its own record: media by recorded hashes, sets by their manifests."""
    if not (root / MARKER).is_file() and not any(root.glob("*.manifest.json")):
        return Diagnosis(wanted=0, missing=(), broken=(), notes=(f"{root}: nothing prepared",))
    media = recorded_media(root)
    recorded = {name: (digest, "not the file that data_prep recorded") for name, digest in media.items()}
    manifests = sorted(root.glob("*.manifest.json"))
    for path in manifests:
        hashes = read_record(path)["sha256"]
        recorded |= {name: (digest, f"not the file of {path.name}") for name, digest in hashes.items()}
    missing, broken = [], []
    for name, (digest, reason) in recorded.items():
        path = root / name
        shown.add("prepared files", 1, len(recorded))
        if not path.is_file():
            missing.append(str(path))
        elif sha256_of(path) != digest:
            broken.append((str(path), reason))
    whole = "" if (root / MARKER).is_file() else "; unfinished, run data_prep again"
    note = f"{root}: {len(media)} media files, {len(manifests)} sets{whole}"
    return Diagnosis(wanted=len(recorded), missing=tuple(missing), broken=tuple(broken), notes=(note,))
