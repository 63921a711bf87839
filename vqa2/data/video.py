"""Video reading: one pass over a file yields key frames (1 per second) and motion frames (all), or one clear error.

Shapes: K key frames, T motion frames, H x W pixels; frames are RGB uint8. Sampling follows the released training code
(VQA²): key frames `range(0, n, round(fps))` with Python's banker's rounding, motion frames `0 .. n//m*m - 1`, both
resized by PIL bicubic to an exact size, aspect ratio ignored. High bit depths are converted to 8 bits without tone
mapping.

Departs from the released code: a file that cannot be read is a MediaError, never another clip; a decode that ends
before the container's frame count is an error, not a short clip; a deadline bounds every read.
"""

import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import av
import numpy as np
from annotated_types import Ge, Gt
from PIL import Image, ImageOps

from vqa2.core.config import spec
from vqa2.core.errors import ConfigError, MediaError
from vqa2.core.frames import UprightRgb
from vqa2.core.records import Kind

STILL_FRAMES = 4
Size = tuple[int, int]


@spec
class VideoSpec:
    """`backend` decodes; `deadline_s` bounds one file; motion frames are cut to a multiple of `frame_multiple` (the
    released code: 4); more than `max_motion_frames` (learned positions) is an error."""

    backend: Literal["pyav", "decord", "torchcodec"]
    deadline_s: Annotated[float, Gt(0)]
    frame_multiple: Annotated[int, Ge(1)]
    max_motion_frames: Annotated[int, Ge(4)]


@dataclass(frozen=True)
class Video:
    """A decoded clip: `key [K,H,W,3]`, `motion [T,h,w,3]`, their times in seconds and, for each motion frame, the
    second (index of the key frame) it belongs to. `dropped`: key frames left out by `thinned`. `second_from`: where the
    second of two clips begins, in seconds."""

    key: np.ndarray
    motion: np.ndarray
    key_times: np.ndarray
    motion_times: np.ndarray
    motion_second: np.ndarray
    fps: float
    path: str
    dropped: int = 0
    second_from: float | None = None


def thinned(video: Video, keep: int) -> Video:
    """The clip with `keep` of its key frames, evenly spread, the first among them. Motion frames all stay, each
    belonging to the last kept key frame before it: a gap in them would look like stutter."""
    index = np.linspace(0, len(video.key) - 1, keep).round().astype(int)
    second = np.searchsorted(index, video.motion_second, side="right") - 1
    dropped = video.dropped + len(video.key) - keep
    return replace(video, key=video.key[index], key_times=video.key_times[index], motion_second=second, dropped=dropped)


def seconds(video: Video, multiple: int) -> list[Video]:
    """Each second, its key frame and a multiple of motion frames, as a clip of its own; one with fewer is left out."""
    made = []
    for number in range(len(video.key)):
        (index,) = np.nonzero(video.motion_second == number)
        index = index[: len(index) // multiple * multiple]
        if len(index):
            key, times = video.key[number : number + 1], np.arange(len(index)) / video.fps
            zeros = np.zeros_like(index)
            made.append(Video(key, video.motion[index], np.zeros(1), times, zeros, video.fps, video.path))
    return made


@dataclass(frozen=True)
class Stream:
    """What a backend opens: frame rate, frames the container promises (0: unknown), RGB frames in order."""

    fps: float
    expected: int
    frames: Iterator[np.ndarray]


def read_media(path: Path, kind: Kind, key_size: Size, motion_size: Size, video: VideoSpec) -> Video:
    """A clip or a still, ready for the processor; sizes are (height, width). MediaError names file and reason."""
    if kind == "image":
        return read_image(path, key_size, motion_size)
    return read_video(path, key_size, motion_size, video)


def read_image(path: Path, key_size: Size, motion_size: Size) -> Video:
    """A still as a clip of four equal frames (K = 1, T = 4), so that the motion path always has input."""
    _check_file(path)
    image = Image.fromarray(_still(path))
    motion = np.repeat(_resize(image, motion_size)[None], STILL_FRAMES, 0)
    times = np.arange(STILL_FRAMES) / STILL_FRAMES
    second = np.zeros(STILL_FRAMES, np.int64)
    return Video(_resize(image, key_size)[None], motion, np.zeros(1), times, second, float(STILL_FRAMES), str(path))


def read_video(path: Path, key_size: Size, motion_size: Size, video: VideoSpec) -> Video:
    """All of a clip in one pass; see the module's docstring. MediaError for anything that is not a whole video."""
    _check_file(path)
    read = _in_thread if video.backend != "pyav" else _directly
    return read(lambda check: _decode(path, key_size, motion_size, video, check), path, video.deadline_s)


def probe(path: Path, kind: Kind, frame_multiple: int) -> tuple[int, int]:
    """(key frames, motion frames) that a file will give, from its header; nothing is decoded. A container that does not
    count its frames (Matroska) is read through."""
    _check_file(path)
    if kind == "image":
        return 1, STILL_FRAMES
    stream = _open_pyav(path)
    step = max(1, round(stream.fps))
    count = stream.expected or _packets(path)
    return -(-count // step), count // frame_multiple * frame_multiple


def _packets(path: Path) -> int:
    with av.open(str(path), metadata_errors="replace") as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def frame_rate(path: Path) -> float:
    """Frames a second, from the header."""
    _check_file(path)
    return _open_pyav(path).fps


def native_frames(path: Path, kind: Kind) -> Iterator[np.ndarray]:
    """Every frame as it is stored, RGB uint8 `[H,W,3]`, in order; one for a still. MediaError as in `read_media`, a
    truncated clip at its end included."""
    _check_file(path)
    if kind == "image":
        yield _still(path)
        return
    stream, count = _open_pyav(path), 0
    for frame in stream.frames:
        count += 1
        yield frame
    _check_count(path, count, stream.expected)


def thumbnail(path: Path, kind: Kind, size: int) -> Image.Image:
    """The first frame, at most `size` px on its longer side."""
    _check_file(path)
    image = Image.fromarray(_still(path) if kind == "image" else next(_open_pyav(path).frames))
    image.thumbnail((size, size))
    return image


def _decode(path: Path, key_size: Size, motion_size: Size, video: VideoSpec, check: Callable[[], None]) -> Video:
    stream = _BACKENDS[video.backend](path)
    step = round(stream.fps)
    if step < 1:
        raise MediaError(path, f"frame rate {stream.fps:.3f} is below 0.5 frames a second")
    keys, motion, count = [], [], 0
    for frame in stream.frames:
        check()
        image = Image.fromarray(frame)
        small = _resize(image, motion_size)
        if count % step == 0:
            keys.append(small if key_size == motion_size else _resize(image, key_size))
        motion.append(small)
        count += 1
        if count > video.max_motion_frames:
            raise MediaError(
                path, f"more than {video.max_motion_frames} frames; cut the clip or raise max_motion_frames"
            )
    _check_count(path, count, stream.expected)
    length = count // video.frame_multiple * video.frame_multiple
    if length == 0:
        raise MediaError(path, f"only {count} frames, at least {video.frame_multiple} are needed")
    index = np.arange(length)
    return Video(
        key=np.stack(keys),
        motion=np.stack(motion[:length]),
        key_times=np.arange(len(keys)) * step / stream.fps,
        motion_times=index / stream.fps,
        motion_second=index // step,
        fps=stream.fps,
        path=str(path),
    )


def _still(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I;16"):
                # Pillow's own conversion cuts off at 255: nearly all of the picture would be white.
                image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
            elif image.mode in ("I", "F"):
                raise MediaError(path, "pixels of 32 bits, whose white is not known; store 8 or 16 bits")
            return np.asarray(image.convert("RGB"))
    except MediaError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as err:
        # What Pillow's readers raise on broken files and on more than 179 megapixels.
        raise MediaError(path, f"not a readable image ({type(err).__name__})") from None


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise MediaError(path, "a folder, not a file" if path.is_dir() else "no such file")
    if path.stat().st_size == 0:
        raise MediaError(path, "empty file (0 bytes)")


def _check_count(path: Path, count: int, expected: int) -> None:
    """Containers may count up to two frames more than decode (edit lists); anything more is a truncated file."""
    if count == 0:
        raise MediaError(path, "no video frame could be decoded")
    if expected and count < expected - 2:
        raise MediaError(path, f"truncated: {count} of {expected} frames decode")


def _resize(image: Image.Image, size: Size) -> np.ndarray:
    height, width = size
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def _open_pyav(path: Path) -> Stream:
    try:
        container = av.open(str(path), metadata_errors="replace")
    except (av.FFmpegError, ValueError) as err:
        raise MediaError(path, f"not a readable video ({_reason(err)})") from None
    if not container.streams.video:
        reason = "has no video stream (audio only)" if container.streams.audio else "has no video stream"
        container.close()
        raise MediaError(path, reason)
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    rate = stream.average_rate or stream.guessed_rate
    if not rate:
        container.close()
        raise MediaError(path, "has no frame rate")
    # Some containers (Matroska) do not count their frames; their length is then not checked.
    return Stream(float(rate), stream.frames, _pyav_frames(path, container))


def _pyav_frames(path: Path, container) -> Iterator[np.ndarray]:
    pixels = UprightRgb()
    try:
        with container:
            for frame in container.decode(video=0):
                yield pixels(frame)
    except av.FFmpegError as err:
        raise MediaError(path, f"corrupt video ({_reason(err)})") from None


def _reason(err: Exception) -> str:
    return " ".join(str(getattr(err, "strerror", None) or err).split())


def _open_decord(path: Path) -> Stream:
    try:
        import decord
    except ImportError:
        raise ConfigError("video.backend: decord is not installed; pip install decord or use pyav") from None
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
    except (RuntimeError, decord.DECORDError) as err:
        raise MediaError(path, f"not a readable video ({str(err).strip().splitlines()[-1][:120]})") from None
    return Stream(reader.get_avg_fps(), len(reader), (reader[i].asnumpy() for i in range(len(reader))))


def _open_torchcodec(path: Path) -> Stream:
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError) as err:
        first = str(err).strip().splitlines()[0][:80]
        raise ConfigError(f"video.backend: torchcodec does not load here ({first}); use pyav") from None
    try:
        decoder = VideoDecoder(str(path), dimension_order="NHWC", seek_mode="exact")
    except (RuntimeError, ValueError) as err:
        raise MediaError(path, f"not a readable video ({str(err).strip().splitlines()[0][:120]})") from None
    meta = decoder.metadata
    return Stream(meta.average_fps, meta.num_frames or 0, (f.numpy() for f in decoder))


_BACKENDS: dict[str, Callable[[Path], Stream]] = {
    "pyav": _open_pyav,
    "decord": _open_decord,
    "torchcodec": _open_torchcodec,
}


def _directly(work: Callable, path: Path, deadline_s: float) -> Video:
    """PyAV returns after every frame, so the deadline is checked between frames."""
    end = time.monotonic() + deadline_s

    def check() -> None:
        if time.monotonic() > end:
            raise MediaError(path, f"took longer than the deadline of {deadline_s:g} s")

    return work(check)


def _in_thread(work: Callable, path: Path, deadline_s: float) -> Video:
    """Calls that cannot be interrupted run in a daemon thread that is left behind at the deadline."""
    result: list = []

    def target() -> None:
        try:
            result.append(work(lambda: None))
        except Exception as err:  # noqa: BLE001 - handed to the caller's thread and raised there
            result.append(err)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(deadline_s)
    if not result:
        raise MediaError(path, f"took longer than the deadline of {deadline_s:g} s")
    if isinstance(result[0], MediaError | ConfigError):
        raise result[0]
    if isinstance(result[0], Exception):
        raise MediaError(path, f"corrupt video ({str(result[0]).strip().splitlines()[-1][:120]})")
    return result[0]


class Quarantine:
    """The list of unreadable files of a data root (JSON lines of path and reason): their rows are left out, counted."""

    @staticmethod
    def read(path: Path) -> dict[str, str]:
        """Path -> reason; empty where there is no list."""
        if not path.is_file():
            return {}
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {row["path"]: row["reason"] for row in rows}

    @staticmethod
    def add(path: Path, err: MediaError) -> None:
        """Appends one file, once."""
        if err.path not in Quarantine.read(path):
            with path.open("a", encoding="utf-8") as out:
                out.write(json.dumps({"path": err.path, "reason": err.reason}) + "\n")
