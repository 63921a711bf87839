"""What a person looks at: the clip with its damaged places framed and heated, and one strip of the frames that were
mapped. Heat is drawn on the maps' own fixed scale, so that colors mean the same in every frame of every clip.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from vqa2.data.video import native_frames
from vqa2.experts.base import Media
from vqa2.experts.localization.localize import Finding, Localization

COLORS = "turbo"
FRAME = (255, 255, 255)
WIDTH_PX = 360
"""Pictures on the strip are at most this wide."""
FINDINGS = 6
"""Findings on the strip at most, the most severe ones."""


def overlay(media: Media, found: Localization, path: Path) -> None:
    """Writes the clip as .mp4 with boxes and heat in the damaged stretches, at its own size (made even) and rate."""
    heat = {}
    for finding in found.findings:
        for t in range(finding.start, finding.end):
            if finding.frames:
                heat[t] = found.heat[min(finding.frames, key=lambda k: abs(k - t))]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(found.fps).limit_denominator(1001))
        stream.width, stream.height = (side // 2 * 2 for side in found.size_px)
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "20", "preset": "fast"}
        for t, frame in enumerate(native_frames(media.path, media.kind)):
            picture = drawn(frame, heat.get(t), [f for f in found.findings if f.start <= t < f.end])
            even = np.ascontiguousarray(picture[: stream.height, : stream.width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode())


def strip(media: Media, found: Localization, path: Path) -> None:
    """Writes a .png: for each finding its mapped frames as they are, and below them with heat and boxes. One plain
    frame where nothing was found."""
    mapped = sorted((f for f in found.findings if f.frames), key=lambda f: -f.severity)
    shown = sorted(mapped[:FINDINGS], key=lambda f: f.start)
    wanted = {t for f in shown for t in f.frames} or {0}
    frames = {t: frame for t, frame in enumerate(native_frames(media.path, media.kind)) if t in wanted}
    columns, shape = max((len(f.frames) for f in shown), default=1), next(iter(frames.values())).shape
    width = min(WIDTH_PX, shape[1]) / 100
    height = width * shape[0] / shape[1]
    rows = 2 * len(shown) or 1
    figure = Figure(figsize=(columns * width + 1.0, rows * (height + 0.25) + 0.5), dpi=100, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for number, finding in enumerate(shown):
        for column, t in enumerate(finding.frames):
            plain, hot = axes[2 * number : 2 * number + 2, column]
            plain.imshow(_small(frames[t]))
            plain.set_title(f"{t / found.fps:.2f} s", fontsize=7, pad=2)
            hot.imshow(_small(drawn(frames[t], found.heat[t], [finding])))
        axes[2 * number + 1, 0].set_title(_told(finding), fontsize=7, pad=2, loc="left")
    if shown:
        scale = figure.colorbar(ScalarMappable(cmap=COLORS), ax=axes, fraction=0.04, aspect=30)
        scale.set_label("difference, fixed scale", fontsize=7)
        scale.ax.tick_params(labelsize=7)
    else:
        axes[0, 0].imshow(_small(frames[0]))
    left_out = f", the {len(shown)} most severe shown" if len(shown) < len(found.findings) else ""
    figure.suptitle(f"{Path(found.media).name}: {len(found.findings)} damaged stretches{left_out}", fontsize=8)
    figure.savefig(path)


def drawn(frame: np.ndarray, heat: np.ndarray | None, findings: Sequence[Finding]) -> np.ndarray:
    """A frame RGB uint8 `[H,W,3]` with heat (any size, 0-1; the hotter, the less of the frame is left) and the
    findings' boxes, the first of each with kind and severity."""
    picture = frame.astype(np.float32)
    if heat is not None:
        grown = Image.fromarray(heat.astype(np.float32)).resize(frame.shape[1::-1], Image.Resampling.BILINEAR)
        level = np.clip(np.asarray(grown), 0, 1)
        # Cold places stay as they are: a tint over the whole frame would hide what is there.
        weight = 0.7 * np.sqrt(level)[..., None]
        picture = picture * (1 - weight) + 255 * colormaps[COLORS](level)[..., :3] * weight
    image = Image.fromarray(picture.round().astype(np.uint8))
    draw, line = ImageDraw.Draw(image), max(1, frame.shape[0] // 240)
    font = ImageFont.load_default(max(9, frame.shape[0] // 28))
    for finding in findings:
        for left, top, right, bottom in finding.boxes:
            draw.rectangle((left, top, right - 1, bottom - 1), outline=FRAME, width=line)
        if finding.boxes:
            _label(draw, finding, font, frame.shape[1])
    return np.asarray(image)


def _label(draw: ImageDraw.ImageDraw, finding: Finding, font, width: int) -> None:
    """Above its box, or inside where there is no room."""
    text, (left, top, _, _) = f"{finding.kind} {finding.severity:.2f}", finding.boxes[0]
    box = draw.textbbox((0, 0), text, font=font)
    x, y = max(0, min(left, width - box[2] - 2)), top - box[3] - 2 if top > box[3] + 2 else top
    draw.rectangle((x, y, x + box[2] + 2, y + box[3] + 2), fill=(0, 0, 0))
    draw.text((x + 1, y), text, fill=FRAME, font=font)


def _told(finding: Finding) -> str:
    place = finding.note or f"severity {finding.severity:.2f}"
    return f"{finding.start_s:.2f} to {finding.end_s:.2f} s: {finding.kind} ({finding.kind_p:.2f}), {place}"


def _small(picture: np.ndarray) -> Image.Image:
    image = Image.fromarray(picture)
    image.thumbnail((WIDTH_PX, WIDTH_PX * 4))
    return image
