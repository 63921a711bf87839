"""Sample answers for the report page: a seeded random draw, so that neither good nor bad answers are picked by hand."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import av
import numpy as np

from vqa2.bench._items import Item
from vqa2.bench._summary import Sample
from vqa2.core.errors import MediaError
from vqa2.core.records import Answer


def draw(
    items: Sequence[Item],
    answers: Sequence[Answer],
    marks: Mapping[str, float],
    *,
    count: int,
    seed: int,
    width_px: int,
) -> list[Sample]:
    """`count` random answered items, in the benchmark's order, each with the middle frame of its clip."""
    answered = [(i, a.text) for i, a in zip(items, answers, strict=True) if a.text is not None]
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.choice(len(answered), min(count, len(answered)), replace=False)) if answered else []
    made = []
    for item, text in (answered[index] for index in chosen):
        made.append(
            Sample(
                question=(item.query.question or "").removeprefix("<video>").strip(),
                reference=item.target["reference"],
                reply=text,
                mark=marks.get(item.query.id),
                thumbnail=_picture(item.query.path, width_px),
            )
        )
    return made


def _picture(path: Path, width_px: int) -> bytes | None:
    """None for a file that cannot be read: answers can come from disk, without media."""
    try:
        return thumbnail(path, width_px)
    except MediaError:
        return None


def thumbnail(path: Path, width_px: int) -> bytes:
    """The key frame before the middle of a clip, or the image, as a PNG of the given width. MediaError for an
    unreadable file."""
    try:
        with av.open(str(path)) as file:
            if file.duration:
                file.seek(file.duration // 2)
            frame = next(file.decode(video=0), None)
            if frame is None:
                raise MediaError(path, "no frames")
            image = frame.to_image()
    except (av.FFmpegError, IndexError) as err:
        raise MediaError(path, str(err)) from None
    image = image.resize((width_px, max(1, round(image.height * width_px / image.width))))
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()
