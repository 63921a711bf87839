"""Pictures in motion: a window that pans, zooms, rotates or stays over a picture, hand shake, a moving foreground.

Frames are RGB uint8 `[T,H,W,3]`. Motion is smooth and, for moving cameras, several pixels a frame, so that held frames
are visible as stutter.
"""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

MOVING = ("pan", "zoom", "rotate")
CAMERAS = (*MOVING, "static")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Random choices of one clip. `speed_px` is the camera's motion per frame at the frame's border."""

    camera: str
    speed_px: float
    angle: float
    heading: float
    center: tuple[float, float]
    span: float
    shake_px: float
    foreground: bool
    seed: int


def draw_scene(
    rng: np.random.Generator, speed_px: tuple[float, float], shake_px: float, foreground: float, moving: bool
) -> Scene:
    """A random scene: `speed_px` range, natural hand shake, probability of a foreground object; `moving`: no static
    camera."""
    return Scene(
        camera=str(rng.choice(MOVING if moving else CAMERAS)),
        speed_px=float(rng.uniform(*speed_px) * rng.choice((-1, 1))),
        angle=float(rng.uniform(-8, 8)),
        heading=float(rng.uniform(0, 2 * np.pi)),
        center=(float(rng.uniform(0.35, 0.65)), float(rng.uniform(0.35, 0.65))),
        span=float(rng.uniform(0.35, 0.9)),
        shake_px=float(rng.uniform(0, shake_px)),
        foreground=bool(rng.random() < foreground),
        seed=int(rng.integers(2**31)),
    )


def render(
    picture: np.ndarray, other: np.ndarray, scene: Scene, frames: int, size: tuple[int, int], jitter: float = 0.0
):
    """`[T,H,W,3]` of `picture` seen by `scene`'s camera; `other` fills the foreground. `size` is (width, height).

    `jitter` px: additional violent shake of the camera (the `shake` distortion), white in time.
    """
    width, height = size
    rng = np.random.default_rng(scene.seed)
    image = Image.fromarray(picture)
    # Pixels of the picture per pixel of the frame: the window spans `span` of the smaller side.
    scale = scene.span * min(image.width / width, image.height / height)
    wobble = np.cumsum(rng.normal(0, scene.shake_px, (frames, 2)), 0) if scene.shake_px else np.zeros((frames, 2))
    wobble -= wobble.mean(0)
    wobble += np.random.default_rng(scene.seed + 1).uniform(-jitter, jitter, (frames, 2))
    sprite = _sprite(other, (width, height), rng) if scene.foreground else None
    out = np.empty((frames, height, width, 3), np.uint8)
    for t in range(frames):
        frame = image.transform(
            (width, height),
            Image.Transform.AFFINE,
            _affine(image, scene, scale, wobble[t], t, frames, size),
            Image.Resampling.BICUBIC,
        )
        if sprite is not None:
            _paste(frame, sprite, t, wobble[t])
        out[t] = np.asarray(frame)
    return out


def detail(picture: np.ndarray, scene: Scene, size: tuple[int, int]) -> float:
    """Structure in the middle of a scene: root-mean-square difference of neighboring pixels, a small frame's worth."""
    still = replace(scene, foreground=False, shake_px=0.0, speed_px=0.0)
    frame = render(picture, picture, still, 1, size)[0].astype(np.float64)
    return float(np.sqrt(np.mean(np.diff(frame, axis=0) ** 2) + np.mean(np.diff(frame, axis=1) ** 2)))


def _affine(image: Image.Image, scene: Scene, scale: float, wobble: np.ndarray, t: int, frames: int, size) -> tuple:
    """Output pixel -> picture pixel, reflected into the picture by bounding the window's center."""
    width, height = size
    travel = (t - frames / 2) * scene.speed_px
    zoom, angle, shift = 1.0, np.deg2rad(scene.angle), np.zeros(2)
    if scene.camera == "pan":
        shift = travel * np.array([np.cos(scene.heading), np.sin(scene.heading)])
    elif scene.camera == "zoom":
        zoom = float(np.exp(-travel / (width / 2)))
    elif scene.camera == "rotate":
        angle += travel / (width / 2)
    k = scale * float(np.clip(zoom, 0.4, 1.6))
    cos, sin = k * np.cos(angle), k * np.sin(angle)
    reach_x, reach_y = (abs(cos) * width + abs(sin) * height) / 2, (abs(sin) * width + abs(cos) * height) / 2
    cx = scene.center[0] * image.width + scale * (shift[0] + wobble[0])
    cy = scene.center[1] * image.height + scale * (shift[1] + wobble[1])
    cx = _bounce(cx, reach_x, image.width - reach_x)
    cy = _bounce(cy, reach_y, image.height - reach_y)
    return (cos, -sin, cx - cos * width / 2 + sin * height / 2, sin, cos, cy - sin * width / 2 - cos * height / 2)


def _bounce(value: float, lo: float, hi: float) -> float:
    """Reflects a coordinate between two walls, so that a long pan stays inside the picture."""
    if hi <= lo:
        return (lo + hi) / 2
    phase = (value - lo) % (2 * (hi - lo))
    return lo + min(phase, 2 * (hi - lo) - phase)


def _sprite(picture: np.ndarray, size: tuple[int, int], rng: np.random.Generator):
    """An elliptical cut-out of another picture with its start and velocity."""
    side = int(rng.uniform(0.25, 0.4) * size[1])
    cut = Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS)
    mask = Image.new("L", (side, side), 0)
    ImageDraw.Draw(mask).ellipse((1, 1, side - 2, side - 2), fill=255)
    start = rng.uniform(0.1, 0.6, 2) * size
    speed = rng.uniform(1.0, 3.0) * np.array([np.cos(a := rng.uniform(0, 2 * np.pi)), np.sin(a)])
    return cut, mask.filter(ImageFilter.GaussianBlur(0.7)), start, speed, size


def _paste(frame: Image.Image, sprite, t: int, wobble: np.ndarray) -> None:
    cut, mask, start, speed, size = sprite
    x, y = start + t * speed - wobble
    x, y = _bounce(x, 0, size[0] - cut.width), _bounce(y, 0, size[1] - cut.height)
    frame.paste(cut, (round(x), round(y)), mask)
