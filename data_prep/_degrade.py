"""The 13 distortions of VQA² stage 1 at known strength s in (0, 1], on frames RGB uint8 `[T,H,W,3]`.

Names are the paper's; the paper's "flickers (camera shake)" is `flicker` with the variants `flicker` (luminance
fluctuates) and `shake` (the camera trembles; made when the scene is rendered), `stuttering` has the variant `stutter`.
Compression is done by real codecs in data_prep/_encode.py; here it is the identity.
"""

from collections import Counter
from collections.abc import Callable

import numpy as np
from scipy import fft, ndimage

SPATIAL = (
    "compression artifact",
    "spatial blur",
    "motion blur",
    "noise",
    "overexposure",
    "underexposure",
    "low contrast",
    "high contrast",
    "oversaturation",
    "desaturation",
    "block effect",
)
TEMPORAL = ("flicker", "stuttering")
NAMES = SPATIAL + TEMPORAL
COLOR = ("oversaturation", "desaturation")
TEMPORAL_VARIANTS = {"flicker": "flicker", "shake": "flicker", "stutter": "stuttering"}
_LUMA = np.array([0.299, 0.587, 0.114])


def degrade(frames: np.ndarray, variant: str, strength: float, rng: np.random.Generator) -> np.ndarray:
    """The degraded clip, same shape. `variant` is a distortion's name or a temporal variant."""
    assert 0 < strength <= 1, strength
    out = _METHODS[variant](frames.astype(np.float64) / 255, strength, rng)
    return (np.clip(out, 0, 1) * 255).round().astype(np.uint8)


def _same(x: np.ndarray, s: float, rng: np.random.Generator) -> np.ndarray:
    return x


def _spatial_blur(x: np.ndarray, s: float, rng: np.random.Generator) -> np.ndarray:
    sigma = 0.3 + 2.2 * s
    return ndimage.gaussian_filter(x, (0, sigma, sigma, 0))


def _motion_blur(x: np.ndarray, s: float, rng: np.random.Generator) -> np.ndarray:
    """Averages shifted copies along one direction, 1 to 11 px long; edges repeat."""
    length, angle = 1 + 10 * s, rng.uniform(0, np.pi)
    taps = np.linspace(-length / 2, length / 2, 2 * int(length) + 1)
    # A shift by linear interpolation is four weighted whole-pixel shifts; those of all taps are added up once.
    weights: Counter[tuple[int, int]] = Counter()
    for dy, dx in zip(taps * np.sin(angle), taps * np.cos(angle)):
        row, column = int(np.floor(dy)), int(np.floor(dx))
        for i, u in ((0, 1 - (dy - row)), (1, dy - row)):
            for j, v in ((0, 1 - (dx - column)), (1, dx - column)):
                weights[row + i, column + j] += u * v / len(taps)
    reach = int(length / 2) + 2
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    height, width = x.shape[1:3]
    return sum(w * padded[:, reach - i :, reach - j :][:, :height, :width] for (i, j), w in weights.items() if w)


def _noise(x: np.ndarray, s: float, rng: np.random.Generator) -> np.ndarray:
    return x + rng.normal(0, 0.01 + 0.22 * s, x.shape)


def _overexposure(x: np.ndarray, s: float, rng: np.random.Generator) -> np.ndarray:
    return x * (1 + 1.6 * s) + 0.35 * s


def _underexposure(x: np.ndarray, s: float, rng: np.random.Generator) -> np.ndarray:
    return x * 0.06**s


def _low_contrast(x: np.ndarray, s: float, rng: np.random.Generator) -> np.ndarray:
    mean = x.mean((1, 2, 3), keepdims=True)
    # Toward mid gray as well: a faded, washed-out picture rather than a darker one.
    gain = 0.07**s
    return mean + (0.5 - mean) * (1 - gain) * 0.5 + (x - mean) * gain


def _high_contrast(x: np.ndarray, s: float, rng: np.random.Generator) -> np.ndarray:
    mean = x.mean((1, 2, 3), keepdims=True)
    return mean + (x - mean) * 8.0**s


def _saturate(x: np.ndarray, gain: float) -> np.ndarray:
    luma = (x @ _LUMA)[..., None]
    return luma + (x - luma) * gain


def _oversaturation(x: np.ndarray, s: float, rng: np.random.Generator) -> np.ndarray:
    return _saturate(x, 8.0**s)


def _desaturation(x: np.ndarray, s: float, rng: np.random.Generator) -> np.ndarray:
    return _saturate(x, 1 - s)


def _block_effect(x: np.ndarray, s: float, rng: np.random.Generator) -> np.ndarray:
    """8x8 DCT blocks that keep few coefficients, without deblocking: hard block edges."""
    t, h, w, c = x.shape
    keep = round(4 - 3 * s)
    blocks = x[:, : h // 8 * 8, : w // 8 * 8].reshape(t, h // 8, 8, w // 8, 8, c)
    coded = fft.dctn(blocks, axes=(2, 4), norm="ortho")
    coded[:, :, keep:] = 0
    coded[:, :, :, :, keep:] = 0
    # `keep` is a step function; the share of coded picture keeps strength continuous.
    mix = min(1.0, 0.3 + s)
    out = x.copy()
    out[:, : h // 8 * 8, : w // 8 * 8] = fft.idctn(coded, axes=(2, 4), norm="ortho").reshape(t, h // 8 * 8, -1, c)
    return mix * out + (1 - mix) * x


def _flicker(x: np.ndarray, s: float, rng: np.random.Generator) -> np.ndarray:
    """Luminance gain that alternates irregularly from frame to frame."""
    signs = rng.choice((-1.0, 1.0), len(x))
    signs[1::2] = -signs[::2][: len(signs[1::2])]
    gain = 1 + 0.6 * s * signs * rng.uniform(0.6, 1.0, len(x))
    return x * gain[:, None, None, None]


def _stutter(x: np.ndarray, s: float, rng: np.random.Generator) -> np.ndarray:
    """A share of the frames, 2 to 9 of 10, never arrives: the last one stays instead; frame rate and duration stay."""
    lost = round((0.2 + 0.7 * s) * (len(x) - 1))
    shown = np.arange(len(x))
    shown[rng.choice(np.arange(1, len(x)), lost, replace=False)] = 0
    return x[np.maximum.accumulate(shown)]


_METHODS: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    "compression artifact": _same,
    "spatial blur": _spatial_blur,
    "motion blur": _motion_blur,
    "noise": _noise,
    "overexposure": _overexposure,
    "underexposure": _underexposure,
    "low contrast": _low_contrast,
    "high contrast": _high_contrast,
    "oversaturation": _oversaturation,
    "desaturation": _desaturation,
    "block effect": _block_effect,
    "flicker": _flicker,
    "shake": _same,
    "stutter": _stutter,
}
