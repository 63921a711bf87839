"""What a person looks at: the clip with its damaged places framed and heated, and one strip of the frames that were
mapped."""

from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from vqa2.data.video import native_frames
from vqa2.experts.base import Media
from vqa2.experts.localization.localize import Finding, Localization

RED = np.array([230.0, 30.0, 20.0])
STRIP_PX = 160
"""Height of the strip's pictures."""


def overlay(media: Media, found: Localization, path: Path) -> None:
    """Writes the clip as .mp4 with boxes and heat in the damaged stretches, at its own size and rate."""
    heat = {}
    for finding in found.findings:
        for t in range(finding.start, finding.end):
            if finding.frames:
                heat[t] = found.heat[min(finding.frames, key=lambda k: abs(k - t))]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=max(1, round(found.fps)))
        stream.width, stream.height = (side // 2 * 2 for side in found.size_px)
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "20", "preset": "fast"}
        for t, frame in enumerate(native_frames(media.path, media.kind)):
            picture = drawn(frame, heat.get(t), [f for f in found.findings if f.start <= t < f.end])
            even = np.ascontiguousarray(picture[: stream.height, : stream.width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode())


def strip(media: Media, found: Localization, path: Path) -> None:
    """Writes a .png: a row per finding, its mapped frames side by side with heat and boxes; one plain frame where
    nothing was found."""
    frames = dict(enumerate(native_frames(media.path, media.kind)))
    rows = [[drawn(frames[t], found.heat[t], [f]) for t in f.frames] for f in found.findings if f.frames]
    rows = rows or [[frames[0]]]
    pictures = [[_sized(p) for p in row] for row in rows]
    width = max(sum(p.width for p in row) for row in pictures)
    sheet = Image.new("RGB", (width, STRIP_PX * len(pictures)))
    for number, row in enumerate(pictures):
        left = 0
        for picture in row:
            sheet.paste(picture, (left, number * STRIP_PX))
            left += picture.width
    sheet.save(path)


def drawn(frame: np.ndarray, heat: np.ndarray | None, findings: list[Finding]) -> np.ndarray:
    """A frame RGB uint8 `[H,W,3]` with heat (any size, 0-1, up to 60 % red) and the findings' boxes and kinds."""
    picture = frame.astype(float)
    if heat is not None:
        grown = Image.fromarray(heat.astype(np.float32)).resize(frame.shape[1::-1], Image.Resampling.BILINEAR)
        weight = 0.6 * np.clip(np.asarray(grown), 0, 1)[..., None]
        picture = picture * (1 - weight) + RED * weight
    image = Image.fromarray(picture.round().astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for finding in findings:
        for box in finding.boxes:
            draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=(255, 255, 0))
        if finding.boxes:
            draw.text((finding.boxes[0][0] + 2, finding.boxes[0][1] + 2), finding.kind, fill=(255, 255, 0))
    return np.asarray(image)


def _sized(picture: np.ndarray) -> Image.Image:
    width = round(picture.shape[1] * STRIP_PX / picture.shape[0])
    return Image.fromarray(picture).resize((width, STRIP_PX), Image.Resampling.BICUBIC)
