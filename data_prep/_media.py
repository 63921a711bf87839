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

from data_prep._files import sha256_of
from vqa2.core.errors import DataError, MediaError
from vqa2.core.records import inside

TIMEOUT_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A readable file: `frames` are counted, `fps` is the average rate (0 for stills), `rotation` the degrees that a
    player turns it by; width and height are those before."""

    bytes: int
    sha256: str
    frames: int
    fps: float
    width: int
    height: int
    rotation: int
    codec: str


def probe(path: Path, kind: str) -> Probe:
    """Opens a file, decodes its first picture and hashes it. MediaError where that fails."""
    if not path.is_file():
        raise MediaError(path, "missing file")
    if not path.stat().st_size:
        raise MediaError(path, "unreadable file: empty")
    try:
        facts = _still(path) if kind == "image" else _video(path)
    except (av.FFmpegError, UnidentifiedImageError, OSError, ValueError) as err:
        raise MediaError(path, f"unreadable file: {' '.join(str(err).split())[:100]}") from None
    return Probe(bytes=path.stat().st_size, sha256=sha256_of(path), **facts)


def _still(path: Path) -> dict[str, Any]:
    with Image.open(path) as picture:
        picture.load()
        turn = {3: 180, 6: 270, 8: 90}.get(picture.getexif().get(0x0112, 1), 0)
        size = {"width": picture.width, "height": picture.height}
        return {"frames": 1, "fps": 0.0, "rotation": turn, "codec": (picture.format or "").lower(), **size}


def _video(path: Path) -> dict[str, Any]:
    with av.open(str(path), metadata_errors="replace", timeout=TIMEOUT_S) as container:
        if not container.streams.video:
            raise MediaError(path, "unreadable file: no video stream")
        stream = container.streams.video[0]
        frame = next(container.decode(stream), None)
        if frame is None:
            raise MediaError(path, "unreadable file: no picture can be decoded")
        rate = stream.average_rate
        if not rate:
            raise MediaError(path, "unreadable file: no frame rate")
        return {
            "frames": _packets(path, container, stream), "fps": float(rate), "rotation": int(frame.rotation) % 360,
            "codec": stream.codec_context.name, "width": frame.width, "height": frame.height,
        }  # fmt: skip


def _packets(path: Path, container: Any, stream: Any) -> int:
    """Frames that the file really holds. A download that broke off ends before what its header promises; where that
    promises nothing about the pictures (Matroska), it is the end of any stream that counts."""
    container.seek(0)
    count, end = 0, 0.0
    counted = (stream,) if stream.frames or stream.duration else ()
    for packet in container.demux(*counted):
        count += packet.stream is stream and packet.size > 0
        if packet.size and packet.pts is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    promised = (
        float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / av.time_base
    )
    if stream.frames and count < stream.frames - float(stream.average_rate):
        raise MediaError(path, f"cut-off file: {count} of {stream.frames} frames")
    if not stream.frames and end < promised - 1:
        raise MediaError(path, f"cut-off file: ends at {end:.1f} s of {promised:.1f}")
    return count


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
