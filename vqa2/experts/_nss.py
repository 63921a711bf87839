"""Natural scene statistics: what BRISQUE (Mittal 2012) and NIQE (Mittal 2013) measure on luma.

Both divide the local contrast out (MSCN) and describe the result and its products of neighbors by asymmetric
generalized Gaussians (AGGD, moment matching of Lasmar 2009).
"""

import numpy as np
from scipy import ndimage, special

_SHAPES = np.arange(0.2, 10, 0.001)
_RATIOS = special.gamma(2 / _SHAPES) ** 2 / (special.gamma(1 / _SHAPES) * special.gamma(3 / _SHAPES))
_WINDOW = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
_WINDOW = _WINDOW / _WINDOW.sum()


def mscn(x: np.ndarray, constant: float) -> np.ndarray:
    """(x - local mean) / (local deviation + constant), 7x7 Gaussian window, zeros beyond the border."""
    mean = _local(x)
    deviation = np.sqrt(np.abs(_local(x * x) - mean * mean))
    return (x - mean) / (deviation + constant)


def _local(x: np.ndarray) -> np.ndarray:
    for axis in (0, 1):
        x = ndimage.correlate1d(x, _WINDOW, axis, mode="constant")
    return x


def aggd(x: np.ndarray) -> tuple[float, float, float, float, float]:
    """(shape, mean, left deviation, right deviation, scale ratio) of an asymmetric generalized Gaussian. The scale on
    either side is its deviation times the ratio."""
    left, right = x[x < 0], x[x >= 0]
    low = float(np.sqrt(np.mean(left**2))) if left.size else 0.0
    high = float(np.sqrt(np.mean(right**2))) if right.size else 0.0
    balance = low / high if high else np.inf
    power = np.mean(x**2)
    r = np.mean(np.abs(x)) ** 2 / power if power else np.inf
    with np.errstate(invalid="ignore"):
        wanted = r * (balance**3 + 1) * (balance + 1) / (balance**2 + 1) ** 2
    shape = float(_SHAPES[np.argmin((_RATIOS - wanted) ** 2)])
    ratio = float(np.sqrt(special.gamma(1 / shape) / special.gamma(3 / shape)))
    mean = (high - low) * ratio * float(special.gamma(2 / shape) / special.gamma(1 / shape))
    return shape, mean, low, high, ratio
