"""`vqa2 doctor data=<source>`: is the data all there and whole, where does it come from, does it fit on the disk.

A source whose files somebody has to download says so by `declaration()`. Every file that its label files name must be
there, open, and reach the end that its header promises; a download that stopped half way does not. A prepared data root
is checked against the hashes that data_prep recorded.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import av
from PIL import Image, UnidentifiedImageError

from data_prep._files import recorded_media, sha256_of
from data_prep.run import MARKER, DataPrepRun
from vqa2.core.errors import DataError

_STILLS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}
_RAW = {".yuv"}
_END_S = 1.0
"""How many seconds the last packet may end before the duration of the header."""


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What a source needs, relative to the root: its annotation files and the clips that they name (none while they are
    missing). `obtain` says where it all comes from; `disk_gb` of the whole, None where nobody has said."""

    labels: tuple[str, ...]
    media: tuple[str, ...]
    license: str
    obtain: str
    disk_gb: float | None


@runtime_checkable
class Declared(Protocol):
    """A source whose files somebody must download."""

    def declaration(self, root: Path) -> Declaration:
        """What it needs below the root; reads the label files that are there."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """`wanted` files in all; (name, what is wrong) of the bad ones; `notes` to the user, a line each."""

    wanted: int
    missing: tuple[str, ...]
    broken: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def diagnose(run: DataPrepRun, source: Any) -> Diagnosis:
    """Looks at a source's own files and at the data root made of it."""
    made = _prepared(Path(run.out))
    if not isinstance(source, Declared):
        note = f"source {run.source['name']} has no downloads; `python -m data_prep` makes its media"
        return Diagnosis(wanted=made.wanted, missing=made.missing, broken=made.broken, notes=(note, *made.notes))
    root = Path(run.root or run.out)
    needed = source.declaration(root)
    names = dict.fromkeys((*needed.labels, *needed.media))
    missing = tuple(name for name in names if not (root / name).is_file())
    there = names.keys() - set(missing)
    broken = [(name, "empty") for name in needed.labels if name in there and not (root / name).stat().st_size]
    broken += _broken(root, [name for name in dict.fromkeys(needed.media) if name in there], run.workers)
    # Without label files the clips cannot be counted: all of it is to come.
    share = len(missing) / len(names) if needed.media else 1.0
    notes = (f"license: {needed.license}", f"where to get it: {needed.obtain}", _disk(root, needed.disk_gb, share))
    return Diagnosis(
        wanted=len(names) + made.wanted,
        missing=(*missing, *made.missing),
        broken=(*broken, *made.broken),
        notes=(*notes, *made.notes),
    )


def verdict(name: str, found: Diagnosis) -> None:
    """DataError where anything is missing or broken."""
    if found.missing or found.broken:
        raise DataError(
            f"{name}: {len(found.missing)} of {found.wanted} files missing, {len(found.broken)} broken (listed above)"
        )


def problem(path: Path) -> str:
    """What is wrong with a media file; empty for a whole one. Of a video, the first frame alone is decoded."""
    if not path.stat().st_size:
        return "empty"
    if path.suffix.lower() in _RAW:
        return ""
    try:
        if path.suffix.lower() in _STILLS:
            with Image.open(path) as picture:
                picture.load()
            return ""
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                return "has no video stream"
            if next(container.decode(video=0), None) is None:
                return "has no frames"
            return _end_problem(container)
    except (av.FFmpegError, UnidentifiedImageError, OSError, ValueError) as err:
        said = (isinstance(err, (av.FFmpegError, OSError)) and err.strerror) or str(err)
        return f"not readable ({' '.join(said.split())[:80]})"


def _end_problem(container: Any) -> str:
    """Compares the last packet with the header's duration; containers that promise none cannot be checked so.

    The duration of the video stream counts, or, as in Matroska, the container's, which any stream may fill. A cut-off
    AVI has lost its index, without which there are no true times: its packets are counted.
    """
    stream = container.streams.video[0]
    if container.format.name == "avi":
        container.seek(0)
        found = sum(1 for packet in container.demux(stream) if packet.size)
        short = stream.frames - found > _END_S * float(stream.average_rate or 0)
        return f"holds {found} of {stream.frames} frames: cut off" if short else ""
    if stream.duration is not None:
        base, start, length, streams = stream.time_base, stream.start_time or 0, stream.duration, (stream,)
    elif container.duration is not None:
        base, start, length, streams = Fraction(1, av.time_base), container.start_time or 0, container.duration, ()
    else:
        return ""
    promised = float((start + length) * base)
    near = max(start, start + length - int(2 * _END_S / base))
    container.seek(near, stream=streams[0] if streams else None)
    last = 0.0
    for packet in container.demux(*streams):
        if packet.pts is not None:
            last = max(last, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return f"ends at {last:.2f} of {promised:.2f} s: cut off" if last < promised - _END_S else ""


def _broken(root: Path, names: Sequence[str], workers: int) -> Iterator[tuple[str, str]]:
    with ProcessPoolExecutor(workers) as pool:
        found = pool.map(problem, [root / name for name in names], chunksize=16)
        yield from ((name, reason) for name, reason in zip(names, found) if reason)


def _disk(root: Path, needed_gb: float | None, share: float) -> str:
    """How much is still to come and how much room there is."""
    place = next(p for p in (root, *root.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free / 1e9
    if needed_gb is None:
        return f"disk: {free:.1f} GB free; what the dataset takes is not recorded"
    left = needed_gb * share
    short = "; NOT ENOUGH" if left > free else ""
    return f"disk: {needed_gb:.1f} GB in all, about {left:.1f} GB still to come, {free:.1f} GB free{short}"


def _prepared(root: Path) -> Diagnosis:
    """A data root against its own record: media by recorded hashes, sets by their manifests."""
    if not root.is_dir():
        return Diagnosis(wanted=0, missing=(), broken=(), notes=(f"{root}: nothing prepared",))
    media = recorded_media(root)
    recorded = {name: (digest, "not the file that data_prep recorded") for name, digest in media.items()}
    manifests = sorted(root.glob("*.manifest.json"))
    for path in manifests:
        hashes = json.loads(path.read_text(encoding="utf-8"))["sha256"]
        recorded |= {name: (digest, f"not the file of {path.name}") for name, digest in hashes.items()}
    missing, broken = [], []
    for name, (digest, reason) in recorded.items():
        path = root / name
        if not path.is_file():
            missing.append(str(path))
        elif sha256_of(path) != digest:
            broken.append((str(path), reason))
    whole = "" if (root / MARKER).is_file() else "; unfinished, run data_prep again"
    note = f"{root}: {len(media)} media files, {len(manifests)} sets{whole}"
    return Diagnosis(wanted=len(recorded), missing=tuple(missing), broken=tuple(broken), notes=(note,))
