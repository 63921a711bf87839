"""Full-reference metrics on one pair of frames, luma 0-255 (VSI: RGB), numpy and scipy only.

PSNR; SSIM (Wang 2004); MS-SSIM (Wang 2003); GMSD (Xue 2014); VIF in the pixel domain (Sheikh 2006, the authors' code);
VSI (Zhang 2014). Values agree with piq 0.8.0 (tests/experts/test_similarity.py holds its numbers), whose functions need
torchvision and are therefore not imported.
"""

from collections.abc import Callable

import numpy as np
from scipy import fft, ndimage, signal
from skimage.color import rgb2lab
from skimage.metrics import structural_similarity

from vqa2.experts._frames import luma
from vqa2.experts.base import NotApplicable

PSNR_CAP = 100.0
"""PSNR of equal frames (infinite) is reported as this."""
MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MS_SIDE_PX = 176
"""Least side on which the five scales of MS-SSIM fit an 11-tap window."""


def psnr(made: np.ndarray, clean: np.ndarray) -> float:
    """dB over luma."""
    error = np.mean((luma(made) - luma(clean)) ** 2)
    return PSNR_CAP if error == 0 else min(PSNR_CAP, float(10 * np.log10(255**2 / error)))


def ssim(made: np.ndarray, clean: np.ndarray) -> float:
    """Gaussian window of 11 taps, sigma 1.5, without the reduction by 256 that some programs do."""
    return float(
        structural_similarity(
            luma(made), luma(clean), data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )


def ms_ssim(made: np.ndarray, clean: np.ndarray) -> float:
    """Five scales, each half the last (2x2 mean, odd sides replicated). NotApplicable below MS_SIDE_PX."""
    x, y = luma(made), luma(clean)
    if min(x.shape) < MS_SIDE_PX:
        raise NotApplicable(f"smaller than {MS_SIDE_PX} px")
    product = 1.0
    for scale, weight in enumerate(MS_WEIGHTS):
        if scale:
            odd = max(x.shape[0] % 2, x.shape[1] % 2)
            x, y = (_halved(np.pad(side, (odd, 0), mode="edge")) for side in (x, y))
        whole, structure = _ssim_maps(x, y)
        part = whole if scale == len(MS_WEIGHTS) - 1 else structure
        product *= max(float(part.mean()), 0.0) ** weight
    return product


def gmsd(made: np.ndarray, clean: np.ndarray) -> float:
    """Standard deviation of the gradient similarity; 0 for equal frames, larger is worse."""
    prewitt, gradients = np.array([[-1, 0, 1]] * 3) / 3, []
    for side in (luma(made), luma(clean)):
        odd = max(side.shape[0] % 2, side.shape[1] % 2)
        gradients.append(_gradient(_halved(np.pad(side, (0, odd))), prewitt))
    return float(_similarity(*gradients, 170.0).std())


def vif(made: np.ndarray, clean: np.ndarray) -> float:
    """Four scales; 1 for equal frames, above 1 where contrast was raised. NotApplicable below 41 px."""
    x, y = luma(made), luma(clean)
    if min(x.shape) < 41:
        raise NotApplicable("smaller than 41 px")
    above, below, noise, eps = 0.0, 0.0, 2.0, 1e-8
    for scale in range(4):
        kernel = _gaussian(2 ** (4 - scale) + 1, (2 ** (4 - scale) + 1) / 5)
        if scale:
            x, y = _valid(x, kernel)[::2, ::2], _valid(y, kernel)[::2, ::2]
        mu_x, mu_y = _valid(x, kernel), _valid(y, kernel)
        var_x = np.maximum(_valid(x * x, kernel) - mu_x**2, 0)
        var_y = np.maximum(_valid(y * y, kernel) - mu_y**2, 0)
        cov = _valid(x * y, kernel) - mu_x * mu_y
        gain = cov / (var_y + eps)
        left = var_x - gain * cov
        flat_x, flat_y, against = var_x < eps, var_y < eps, gain < 0
        gain[flat_y | flat_x | against] = 0
        left = np.where(flat_x, 0, np.where(flat_y | against, var_x, left))
        left = np.maximum(left, eps)
        var_y[flat_y] = 0
        above += np.log10(1 + gain**2 * var_y / (left + noise)).sum()
        below += np.log10(1 + var_y / noise).sum()
    return float((above + eps) / (below + eps))


def vsi(made: np.ndarray, clean: np.ndarray) -> float:
    """Saliency-weighted similarity of saliency, gradient and chroma; 1 for equal frames."""
    saliency = [_saliency(f) for f in (made, clean)]
    window = max(1, round(min(made.shape[:2]) / 256))
    lmn = np.array([[0.06, 0.63, 0.27], [0.30, 0.04, -0.35], [0.34, -0.6, 0.17]]).T
    opponent = [_pooled(f.astype(float) @ lmn, window) for f in (made, clean)]
    saliency = [_pooled(s, window) for s in saliency]
    scharr = np.array([[-3, 0, 3], [-10, 0, 10], [-3, 0, 3]]) / 16
    edges = _similarity(*(_gradient(o[..., 0], scharr) for o in opponent), 386.0)
    chroma = np.prod([_similarity(opponent[0][..., i], opponent[1][..., i], 130.0) for i in (1, 2)], axis=0)
    # A negative product has a complex power; its real part is taken, as the authors do.
    chroma = np.abs(chroma) ** 0.02 * np.cos(0.02 * np.where(chroma < 0, np.pi, 0.0))
    weight = np.maximum(*saliency)
    similar = _similarity(*saliency, 1.27) * edges**0.4 * chroma
    eps = np.finfo(float).eps
    return float(((similar * weight).sum() + eps) / (weight.sum() + eps))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "psnr": psnr, "ssim": ssim, "ms_ssim": ms_ssim, "gmsd": gmsd, "vif": vif, "vsi": vsi,
}  # fmt: skip


def _similarity(x: np.ndarray, y: np.ndarray, constant: float) -> np.ndarray:
    return (2 * x * y + constant) / (x * x + y * y + constant)


def _gradient(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Magnitude with zeros beyond the border."""
    parts = [ndimage.correlate(x, k, mode="constant") for k in (kernel, kernel.T)]
    return np.hypot(*parts)


def _halved(x: np.ndarray) -> np.ndarray:
    """Mean of 2x2 blocks; an odd row or column at the end is left out."""
    x = x[: x.shape[0] // 2 * 2, : x.shape[1] // 2 * 2]
    return x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2).mean((1, 3))


def _gaussian(taps: int, sigma: float) -> np.ndarray:
    x = np.arange(taps) - (taps - 1) / 2
    kernel = np.exp(-(x**2) / (2 * sigma**2))
    return kernel / kernel.sum()


def _valid(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Separable filter where the window fits."""
    return signal.oaconvolve(signal.oaconvolve(x, kernel[:, None], "valid", axes=0), kernel[None], "valid", axes=1)


def _ssim_maps(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SSIM and its contrast-structure part where the window fits."""
    kernel, c1, c2 = _gaussian(11, 1.5), (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mu_x, mu_y = _valid(x, kernel), _valid(y, kernel)
    var_x, var_y = _valid(x * x, kernel) - mu_x**2, _valid(y * y, kernel) - mu_y**2
    cov = _valid(x * y, kernel) - mu_x * mu_y
    structure = (2 * cov + c2) / (var_x + var_y + c2)
    return structure * (2 * mu_x * mu_y + c1) / (mu_x**2 + mu_y**2 + c1), structure


def _pooled(x: np.ndarray, window: int) -> np.ndarray:
    """Mean over windows with replicated borders, `[H,W(,C)]`."""
    before, after = window // 2, (window - 1) // 2
    if before:
        x = np.pad(x, [(before, after)] * 2 + [(0, 0)] * (x.ndim - 2), mode="edge")
    h, w = x.shape[0] // window, x.shape[1] // window
    return x[: h * window, : w * window].reshape(h, window, w, window, *x.shape[2:]).mean((1, 3))


_SIDE = 256


def _saliency(frame: np.ndarray) -> np.ndarray:
    """SDSP (Zhang 2013): log-Gabor energy of Lab, center bias and warm-color bias at 256x256; 0-1, frame's size."""
    lab = rgb2lab(_bilinear(frame.astype(float), (_SIDE, _SIDE), corners=False) / 255, illuminant="D50")
    axis = np.arange(-_SIDE / 2, _SIDE / 2) / _SIDE
    radius = np.hypot(*np.meshgrid(axis, axis))
    radius = fft.ifftshift(radius * (radius <= 0.5))
    radius[0, 0] = 1
    with np.errstate(divide="ignore"):
        gabor = np.exp(-(np.log(radius / 0.021) ** 2) / (2 * 1.34**2))
    gabor[0, 0] = 0
    energy = np.sqrt((fft.ifft2(fft.fft2(lab, axes=(0, 1)) * gabor[..., None], axes=(0, 1)).real ** 2).sum(-1))
    place = axis * _SIDE + 1
    center = np.exp(-(place[:, None] ** 2 + place[None] ** 2) / 145.0**2)
    chroma = lab[..., 1:]
    low, high = chroma.min((0, 1)), chroma.max((0, 1))
    warm = 1 - np.exp(-(((chroma - low) / (high - low + np.finfo(float).eps)) ** 2).sum(-1) / 0.001**2)
    made = _bilinear(energy * center * warm, frame.shape[:2], corners=True)
    return (made - made.min()) / (np.ptp(made) + np.finfo(float).eps)


def _bilinear(x: np.ndarray, size: tuple[int, int], corners: bool) -> np.ndarray:
    """Bilinear resampling `[H,W(,C)]` without a low-pass; `corners`: the corner pixels' centers stay in place."""
    for axis, new in enumerate(size):
        old = x.shape[axis]
        place = np.arange(new) * (old - 1) / (new - 1) if corners else (np.arange(new) + 0.5) * old / new - 0.5
        place = place.clip(0, old - 1)
        low = np.minimum(place.astype(int), old - 2)
        part = (place - low).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
        x = np.take(x, low, axis) * (1 - part) + np.take(x, low + 1, axis) * part
    return x
