"""What the agents read of a file themselves: facts about it, frames for a vision-language model, crops of regions."""

import base64
import io
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import av
import numpy as np
from annotated_types import Ge, Interval
from PIL import Image, ImageOps, UnidentifiedImageError

from vqa2.core.config import spec
from vqa2.core.errors import MediaError
from vqa2.core.frames import UprightRgb
from vqa2.core.records import Kind
from vqa2.experts.base import files_hash

Box = tuple[float, float, float, float]
"""Left, top, right, bottom as shares of width and height."""


@spec
class FrameSpec:
    """`count` frames, evenly spread, for a vision-language model (0: it reads text alone); longest side `size` px."""

    count: Annotated[int, Ge(0)]
    size: Annotated[int, Ge(16)]
    jpeg_quality: Annotated[int, Interval(ge=1, le=100)]


def facts(path: Path, kind: Kind) -> dict[str, Any]:
    """Size, length and hash of a file, from its header. MediaError for what cannot be read, and for a still picture
    that is said to be a video."""
    if not path.is_file():
        raise MediaError(path, "no such file")
    known = {"bytes": path.stat().st_size, "content": files_hash([path]), "kind": kind}
    still = _still_size(path)
    if kind == "image":
        if still is None:
            raise MediaError(path, "not a readable image")
        return known | {"width": still[0], "height": still[1], "frames": 1, "seconds": None, "fps": None}
    if still is not None:
        raise MediaError(path, "a still picture where a video is expected")
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise MediaError(path, "has no video stream")
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.guessed_rate or 0)
            seconds = _seconds(stream, container)
            turned = _turned(container, stream)
            width, height = (stream.height, stream.width) if turned else (stream.width, stream.height)
            count = stream.frames or (round(seconds * rate) if seconds else 0)
    except (av.FFmpegError, ValueError) as err:
        if isinstance(err, MediaError):
            raise
        raise MediaError(path, f"not a readable video ({type(err).__name__})") from None
    return known | {"width": width, "height": height, "frames": count, "seconds": seconds, "fps": round(rate, 3)}


def megapixels(known: Mapping[str, Any]) -> float:
    """Pixels of all frames, in millions: what the cost of an expert is declared for."""
    return known["width"] * known["height"] * max(1, known["frames"]) / 1e6


def parts(path: Path, kind: Kind, frames: FrameSpec) -> list[dict[str, Any]]:
    """Frames as message parts in the OpenAI form, JPEG data URIs."""
    made = []
    for image in _spread(path, kind, frames.count):
        image.thumbnail((frames.size, frames.size))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=frames.jpeg_quality)
        url = "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
        made.append({"type": "image_url", "image_url": {"url": url}})
    return made


def crop(path: Path, kind: Kind, box: Box, folder: Path) -> Path:
    """The region of every frame as a lossless file in `folder`, at least 16 x 16 px. MediaError where unreadable."""
    if kind == "image":
        out = folder / f"{path.stem}.crop.png"
        with _opened(path) as image:
            left, top, right, bottom = _pixels(box, image.width, image.height)
            image.crop((left, top, right, bottom)).save(out)
        return out
    out = folder / f"{path.stem}.crop.mkv"
    try:
        with av.open(str(path), metadata_errors="replace") as source, av.open(str(out), "w") as target:
            rate = source.streams.video[0].average_rate or Fraction(25)
            stream, upright = None, UprightRgb()
            for frame in source.decode(video=0):
                shown = upright(frame)
                left, top, right, bottom = _pixels(box, shown.shape[1], shown.shape[0])
                cut = av.VideoFrame.from_ndarray(np.ascontiguousarray(shown[top:bottom, left:right]), format="rgb24")
                if stream is None:
                    stream = target.add_stream("ffv1", rate=rate)
                    stream.width, stream.height, stream.pix_fmt = right - left, bottom - top, "bgr0"
                target.mux(stream.encode(cut.reformat(format="bgr0")))
            if stream is None:
                raise MediaError(path, "no video frame could be decoded")
            target.mux(stream.encode(None))
    except av.FFmpegError as err:
        raise MediaError(path, f"cannot be cropped ({type(err).__name__})") from None
    return out


def _pixels(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    left, top = min(int(box[0] * width), width - 16), min(int(box[1] * height), height - 16)
    left, top = max(0, left), max(0, top)
    return (
        left,
        top,
        min(width, max(left + 16, round(box[2] * width))),
        min(height, max(top + 16, round(box[3] * height))),
    )


def _spread(path: Path, kind: Kind, count: int) -> Iterator[Image.Image]:
    """`count` frames at the middles of equal parts of the clip (fewer, where it has fewer); one of a still."""
    if count == 0:
        return
    if kind == "image":
        with _opened(path) as image:
            yield image
        return
    total = _count(path)
    pixels, wanted = UprightRgb(), sorted({min(total - 1, int((i + 0.5) * total / count)) for i in range(count)})
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    yield Image.fromarray(pixels(frame))
                if number >= wanted[-1]:
                    return
    except av.FFmpegError as err:
        raise MediaError(path, f"corrupt video ({type(err).__name__})") from None


def _count(path: Path) -> int:
    """Frames by header, by decoding where the container does not count them."""
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.video[0]
        return stream.frames or sum(1 for _ in container.decode(video=0)) or 1


def _turned(container, stream) -> bool:
    """Whether the first frame is to be shown on its side."""
    frame = next(container.decode(stream), None)
    return frame is not None and frame.rotation % 180 != 0


def _seconds(stream, container) -> float | None:
    if stream.duration and stream.time_base:
        return round(float(stream.duration * stream.time_base), 3)
    return round(container.duration / 1e6, 3) if container.duration else None


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, OSError) as err:
        raise MediaError(path, f"not a readable image ({type(err).__name__})") from None


def _still_size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path) as image:
            return None if image.format == "GIF" else image.size
    except (UnidentifiedImageError, OSError):
        return None
