"""Makes the media files of stage 1 from their recipes (data_prep/_stage1.py), in parallel processes.

A clip is decoded, cut, degraded and encoded a few frames at a time.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import av
import numpy as np
from PIL import Image

from data_prep._degrade import degrade
from data_prep._media import Probe, facts, probe, unreadable
from data_prep._write import rng_of
from vqa2.core.errors import MediaError
from vqa2.core.frames import UprightRgb
from vqa2.core.records import Clip, inside

STEP = 8
"""Frames degraded at a time; the filters work in float64."""


def render(root: Path, clip: Clip, max_height: int, qp: int) -> tuple[Probe | None, str]:
    """Writes `root / clip.path`; (its probe, "") or (None, why not)."""
    source, target = inside(root, clip.tags["of"]), inside(root, clip.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    variant, strength = "", 0.0
    if "made" in clip.tags:
        variant, _, number = clip.tags["made"].rpartition(" ")
        strength = float(number)
    try:
        if clip.kind == "image":
            _still(source, target, variant, strength, clip.id, max_height)
        else:
            window = [float(x) for x in clip.tags.get("window", "0 0 1 1 0 1").split()]
            _video(source, target, (variant, strength, clip.id), window, (max_height, qp))
        return probe(target, clip.kind), ""
    except MediaError as err:
        return None, err.reason
    except (av.FFmpegError, OSError, ValueError) as err:
        return None, unreadable(err)


def _still(source: Path, target: Path, variant: str, strength: float, name: str, max_height: int) -> None:
    with Image.open(source) as picture:
        shown = picture.convert("RGB")
    shown.thumbnail((10 * max_height, max_height), Image.Resampling.LANCZOS)
    frames = np.asarray(shown)[None]
    if variant == "compression artifact":
        # As JPEG makes them; the quantizers of a video codec need more than one picture.
        part = target.with_name(f".{target.stem}.part.jpg")
        shown.save(part, quality=max(2, round(40 * (1 - strength))))
        with Image.open(part) as coded:
            frames = np.asarray(coded.convert("RGB"))[None]
        part.unlink()
    elif variant:
        frames = degrade(frames, variant, strength, rng_of(0, "render", name))
    part = target.with_name(f".{target.stem}.part.png")
    Image.fromarray(frames[0]).save(part)
    part.replace(target)


def _video(
    source: Path, target: Path, made: tuple[str, float, str], window: list[float], size: tuple[int, int]
) -> None:
    variant, strength, name = made
    found = facts(source, "video")
    start, length = window[4:]
    first = int(start * found.frames)
    count = min(found.frames - first, max(2, int(length * found.frames)))
    frames, rng = _cut(source, first, count, window, size[0]), rng_of(0, "render", name)
    if variant == "stutter":
        frames = _stuttering(frames, held(count, strength, rng))
    elif variant:
        frames = _degraded(frames, variant, strength, rng)
    _encode(target, frames, round(found.fps), size[1])


def held(count: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """For each of `count` frames, the number of the one that is shown: 2 to 9 of 10 never arrive."""
    shown = np.arange(count)
    lost = 1 + rng.permutation(count - 1)[: round((0.2 + 0.7 * strength) * (count - 1))]
    shown[lost] = 0
    return np.maximum.accumulate(shown)


def _stuttering(frames: Iterator[np.ndarray], shown: np.ndarray) -> Iterator[np.ndarray]:
    current = None
    for number, frame in enumerate(frames):
        current = frame if shown[number] == number else current
        assert current is not None
        yield current


def _degraded(
    frames: Iterator[np.ndarray], variant: str, strength: float, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    while batch := list(islice(frames, STEP)):
        yield from degrade(np.stack(batch), variant, strength, rng)


def _cut(source: Path, first: int, count: int, window: list[float], max_height: int) -> Iterator[np.ndarray]:
    """The frames of an extract, upright RGB uint8 `[H,W,3]` with even sides."""
    left, top, width, height = window[:4]
    with av.open(str(source), metadata_errors="replace") as container:
        pixels, shown = UprightRgb(), 0
        for number, frame in enumerate(container.decode(video=0)):
            if number < first:
                continue
            picture = Image.fromarray(pixels(frame))
            w, h = picture.size
            box = (left * w, top * h, (left + width) * w, (top + height) * h)
            scale = min(1.0, max_height / (box[3] - box[1]))
            to = tuple(max(16, round((b - a) * scale) // 2 * 2) for a, b in ((box[0], box[2]), (box[1], box[3])))
            yield np.asarray(picture.resize(to, Image.Resampling.BICUBIC, box=box))
            shown += 1
            if shown == count:
                return
    raise MediaError(source, f"unreadable file: ends after frame {first + shown}, {first + count} are announced")


def _encode(path: Path, frames: Iterator[np.ndarray], fps: int, qp: int) -> None:
    """x264 at a constant quantizer, in one thread: the same frames give the same bytes."""
    part = path.with_name(f".{path.stem}.part.mp4")
    with av.open(str(part), "w") as container:
        stream = container.add_stream("libx264", rate=max(1, fps))
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"qp": str(qp), "preset": "fast"}
        for number, frame in enumerate(frames):
            if number == 0:
                stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    part.replace(path)
