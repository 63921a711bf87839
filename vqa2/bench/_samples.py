"""Answers for the report page: a seeded random draw, so that nothing is picked by hand, and the worst ones.

Pictures are those of the clip's middle.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import av
import numpy as np

from vqa2.bench._items import Item
from vqa2.bench._summary import Sample
from vqa2.core.errors import MediaError
from vqa2.core.records import Answer

WIDTH_PX = 160
_Pairs = Sequence[tuple[Item, Answer]]


def draw(pairs: _Pairs, marks: Mapping[str, float], *, count: int, seed: int) -> list[Sample]:
    """`count` random items with a written answer, in the benchmark's order."""
    answered = [pair for pair in pairs if pair[1].text is not None]
    chosen = np.random.default_rng(seed).permutation(len(answered))[:count]
    return [_sample(*answered[index], marks) for index in sorted(chosen)]


def worst(pairs: _Pairs, marks: Mapping[str, float], *, count: int, seed: int) -> list[Sample]:
    """The `count` items with the lowest marks, the worst first; a seeded draw among equals."""
    graded = [pair for pair in pairs if pair[0].query.id in marks]
    shuffled = [graded[index] for index in np.random.default_rng(seed).permutation(len(graded))]
    ordered = sorted(shuffled, key=lambda pair: marks[pair[0].query.id])
    return [_sample(*pair, marks) for pair in ordered[:count]]


def _sample(item: Item, answer: Answer, marks: Mapping[str, float]) -> Sample:
    if item.mode == "score":
        question, reference = item.query.path.name, f"{item.target['mos']:.1f}"
        reply = "–" if answer.score01 is None else f"{100 * answer.score01:.1f}"
    else:
        question = (item.query.question or "").removeprefix("<video>").strip()
        reference, reply = item.target["reference"], answer.text or ""
    return Sample(
        id=item.query.id,
        question=question,
        reference=reference,
        reply=reply,
        mark=marks.get(item.query.id),
        thumbnail=_picture(item.query.path, WIDTH_PX),
    )


def _picture(path: Path, width_px: int) -> bytes | None:
    """None for a file that cannot be read: answers can come from disk, without media."""
    try:
        return thumbnail(path, width_px)
    except MediaError:
        return None


def thumbnail(path: Path, width_px: int) -> bytes:
    """The key frame before the middle of a clip, or the image, as a JPEG of the given width. MediaError for an
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
    image.save(out, "JPEG", quality=85)
    return out.getvalue()
