"""What is known of media files: opened once in parallel processes, remembered while size and date stay the same."""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
from PIL import Image, UnidentifiedImageError

from vqa2.core.errors import DataError, MediaError
from vqa2.core.records import inside
from vqa2.core.run import sha256_of

TIMEOUT_S = 20.0
SHORT, SHORT_S = 2, 0.1
"""Frames, and seconds, that a whole file may lack of what its index or header promises: headers round, and some
containers give the last packet no duration."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A readable file: `frames` are counted, `fps` is the average rate (0 for stills), `rotation` the degrees that a
    player turns it by; width and height are those before."""

    frames: int
    fps: float
    width: int
    height: int
    rotation: int
    codec: str


@dataclass(frozen=True, kw_only=True)
class Probe(Facts):
    """A readable file and its bytes."""

    bytes: int
    sha256: str


def probe(path: Path, kind: str) -> Probe:
    """The facts of a file, and its hash. MediaError as of `facts`."""
    return hashed(path, facts(path, kind))


def hashed(path: Path, found: Facts) -> Probe:
    """The probe of a file whose facts are known."""
    return Probe(bytes=path.stat().st_size, sha256=sha256_of(path), **asdict(found))


def facts(path: Path, kind: str) -> Facts:
    """Opens a file, decodes its first picture and reads to its end. MediaError where that fails, or where it ends
    before it should; the reason, which goes into lists, does not tell where the data root lies."""
    if not path.is_file():
        raise MediaError(path, "missing file")
    if not path.stat().st_size:
        raise MediaError(path, "unreadable file: empty")
    if path.suffix.lower() == ".yuv":
        raise MediaError(path, "unreadable file: raw YUV tells neither size nor frame rate; encode it")
    try:
        return _still(path) if kind == "image" else _video(path)
    except MediaError:
        raise
    except (av.FFmpegError, OSError, ValueError) as err:
        raise MediaError(path, unreadable(err)) from None


def unreadable(err: Exception) -> str:
    """The reason that an error of PyAV or Pillow gives, without the path that these put into their messages."""
    if isinstance(err, UnidentifiedImageError):
        return "unreadable file: no picture"
    said = (isinstance(err, (av.FFmpegError, OSError)) and err.strerror) or str(err)
    return f"unreadable file: {' '.join(said.split())[:100]}"


def _still(path: Path) -> Facts:
    with Image.open(path) as picture:
        picture.load()
        turn = {3: 180, 6: 270, 8: 90}.get(picture.getexif().get(0x0112, 1), 0)
        size = {"width": picture.width, "height": picture.height}
        return Facts(frames=1, fps=0.0, rotation=turn, codec=(picture.format or "").lower(), **size)


def _video(path: Path) -> Facts:
    with av.open(str(path), metadata_errors="replace", timeout=TIMEOUT_S) as container:
        if not container.streams.video:
            raise MediaError(path, "unreadable file: no video stream")
        stream = container.streams.video[0]
        frame = next(container.decode(stream), None)
        if frame is None:
            raise MediaError(path, "unreadable file: no picture can be decoded")
        if not stream.average_rate:
            raise MediaError(path, "unreadable file: no frame rate")
        return Facts(
            frames=_frames(path, container, stream), fps=float(stream.average_rate), rotation=int(frame.rotation) % 360,
            codec=stream.codec_context.name, width=frame.width, height=frame.height,
        )  # fmt: skip


def _frames(path: Path, container: Any, stream: Any) -> int:
    """Frames that the file shows. MediaError where it holds fewer than its index lists (MP4, MOV), or ends before the
    duration of its header, as a download does that broke off. MPEG-TS and MPEG-PS promise nothing."""
    container.seek(0)
    whole, shown, end = 0, 0, 0.0
    # Where the header tells no duration of the pictures (Matroska), the end of any stream counts.
    for packet in container.demux(*((stream,) if stream.duration else ())):
        # The last packet of a file that broke off is there in part.
        if not packet.size or packet.is_corrupt:
            continue
        if packet.stream is stream:
            whole += 1
            # Pictures before the start of an edit list are decoded, not shown.
            shown += not packet.is_discard
        at = packet.dts if packet.pts is None else packet.pts
        if at is not None:
            end = max(end, float((at + (packet.duration or 0)) * packet.time_base))
    listed, promised = len(stream.index_entries), _promised(container, stream)
    if not shown or whole < listed - SHORT:
        raise MediaError(path, f"cut-off file: {whole} of {listed} frames")
    if end < promised - max(SHORT_S, SHORT * end / whole):
        raise MediaError(path, f"cut-off file: ends at {end:.2f} of {promised:.2f} s")
    return shown


def _promised(container: Any, stream: Any) -> float:
    """Seconds at which the pictures end by the header."""
    if container.format.name == "avi":
        # Its duration is an estimate from the size of the file; the header counts frames of `time_base`.
        return float(stream.frames * stream.time_base)
    if stream.duration:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    return (container.duration or 0) / av.time_base


def _try(path: str, kind: str) -> tuple[Probe | None, str]:
    try:
        return probe(Path(path), kind), ""
    except MediaError as err:
        return None, err.reason


class Workers:
    """A process pool that outlives a file which kills its reader."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ProcessPoolExecutor | None = None

    def map(self, function: Callable, tasks: Sequence[tuple], died: Any) -> Iterator:
        """`function(*task)` in order; `died` for a task whose process ends without a result."""
        if self.count == 1:
            return (function(*task) for task in tasks)
        self._pool = self._pool or ProcessPoolExecutor(self.count)
        try:
            return iter(list(self._pool.map(function, *zip(*tasks), chunksize=8)) if tasks else [])
        except BrokenProcessPool:
            self.close()
            return iter([_alone(function, task, died) for task in tasks])

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _alone(function: Callable, task: tuple, died: Any) -> Any:
    with ProcessPoolExecutor(1) as pool:
        try:
            return pool.submit(function, *task).result()
        except BrokenProcessPool:
            return died


class MediaIndex:
    """`out/.media.sqlite`: one probe per file, so that a killed run continues and a second one opens nothing again."""

    def __init__(self, out: Path, root: Path, workers: Workers) -> None:
        """`root`: folder that paths are relative to."""
        out.mkdir(parents=True, exist_ok=True)
        self.root, self.workers = root, workers
        try:
            self._db = sqlite3.connect(out / ".media.sqlite")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS media"
                " (path TEXT PRIMARY KEY, stamp TEXT, recipe TEXT, error TEXT, probe TEXT) WITHOUT ROWID"
            )
        except sqlite3.Error as err:
            raise DataError(f"{out / '.media.sqlite'}: {err}; where it is damaged, remove it") from None
        self._db.execute("CREATE TEMP TABLE used (path TEXT PRIMARY KEY) WITHOUT ROWID")
        self.opened = 0

    def probe(self, paths: Sequence[str], kind: str) -> dict[str, str]:
        """path -> reason, of those that cannot be used; every file of `paths` is in the index afterwards."""
        errors, stamps, todo = {}, {}, []
        for path in dict.fromkeys(paths):
            try:
                stamps[path] = _stamp(inside(self.root, path))
            except DataError as err:
                errors[path] = f"missing file: {err}"
                continue
            known = self._db.execute("SELECT stamp, error FROM media WHERE path = ?", (path,)).fetchone()
            if known is None or known[0] != stamps[path]:
                todo.append(path)
            elif known[1]:
                errors[path] = known[1]
        tasks = [(str(inside(self.root, path)), kind) for path in todo]
        died = (None, "unreadable file: the decoder crashed")
        for path, (found, error) in zip(todo, self.workers.map(_try, tasks, died)):
            self._keep(path, stamps[path], "", found, error)
            if error:
                errors[path] = error
        self._db.commit()
        self.opened += len(todo)
        return errors

    def found(self, path: str) -> dict[str, Any]:
        """The probe of a usable file."""
        return json.loads(self._db.execute("SELECT probe FROM media WHERE path = ?", (path,)).fetchone()[0])

    def add(self, path: str, recipe: str, found: Probe | None, error: str) -> None:
        """Takes in a file that this run has made by a recipe."""
        self._keep(path, _stamp(inside(self.root, path)), recipe, found, error)
        self._db.commit()

    def fresh(self, path: str, recipe: str) -> bool:
        """Whether a file is there as this recipe made it."""
        known = self._db.execute("SELECT stamp, recipe FROM media WHERE path = ? AND error = ''", (path,)).fetchone()
        return known == (_stamp(inside(self.root, path)), recipe)

    def use(self, paths: Iterable[str]) -> None:
        """Notes files that rows name, for `write`."""
        self._db.executemany("INSERT OR IGNORE INTO used VALUES (?)", ((path,) for path in paths))

    def write(self, path: Path) -> int:
        """The probes of the files noted since the last call, as JSON lines sorted by path; returns how many."""
        part = path.with_name(path.name + ".part")
        count = 0
        with part.open("w", encoding="utf-8") as out:
            query = "SELECT media.path, probe FROM media JOIN used USING (path) WHERE error = '' ORDER BY media.path"
            for name, found in self._db.execute(query):
                out.write(json.dumps({"path": name, **json.loads(found)}, ensure_ascii=False, sort_keys=True) + "\n")
                count += 1
        part.replace(path)
        self._db.execute("DELETE FROM used")
        self._db.commit()
        return count

    def close(self) -> None:
        self._db.close()

    def _keep(self, path: str, stamp: str, recipe: str, found: Probe | None, error: str) -> None:
        values = (path, stamp, recipe, error, json.dumps(asdict(found)) if found else "")
        self._db.execute("INSERT OR REPLACE INTO media VALUES (?, ?, ?, ?, ?)", values)


def _stamp(path: Path) -> str:
    if not path.is_file():
        return "missing"
    state = path.stat()
    return f"{state.st_size} {state.st_mtime_ns}"
