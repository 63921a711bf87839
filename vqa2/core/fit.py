"""The 4-parameter logistic that maps predictions onto ratings before PLCC and RMSE (VQEG FRTV-II; ITU-T P.1401).

f(x) = bottom + (top - bottom) / (1 + exp(-(x - middle) / |width|)), least squares, started at VQEG's values: top and
bottom the extremes of the ratings, middle the mean of the predictions, width a quarter of their standard deviation.
Fitting is done on standardized predictions: the same problem, better conditioned. (Published code fits raw predictions;
where their mean is 0 up to rounding, its finite difference for `middle` vanishes and the curve never moves sideways.)
"""

import warnings
from collections.abc import Sequence

import numpy as np
import scipy

PARAMETERS = 4


class NoFit(Exception):
    """The curve is not determined by the data; the message says why."""


def logistic4(x: np.ndarray, top: float, bottom: float, middle: float, width: float) -> np.ndarray:
    """The curve above, elementwise."""
    return bottom + (top - bottom) * scipy.special.expit((x - middle) / abs(width))


def map_logistic4(predicted: Sequence[float], target: Sequence[float]) -> tuple[np.ndarray, str]:
    """Predictions [n] mapped onto the scale of the ratings [n], and a warning where the fitted curve falls.

    Both sides must be finite. NoFit for a constant side, fewer than five distinct predictions, or no convergence.
    """
    x, y = np.asarray(predicted, float), np.asarray(target, float)
    if np.ptp(y) == 0:
        raise NoFit("constant targets")
    if len(np.unique(x)) <= PARAMETERS:
        raise NoFit(f"{len(np.unique(x))} distinct predictions, {PARAMETERS + 1} needed")
    z = (x - x.mean()) / x.std()
    try:
        with warnings.catch_warnings():
            # Only the curve is used, so that an undetermined covariance (a perfect or saturated fit) does not matter.
            warnings.simplefilter("ignore", scipy.optimize.OptimizeWarning)
            found, _ = scipy.optimize.curve_fit(logistic4, z, y, p0=[y.max(), y.min(), 0.0, 0.25], maxfev=20_000)
    except RuntimeError:
        raise NoFit("the logistic fit did not converge") from None
    mapped = logistic4(z, *found)
    if np.ptp(mapped) == 0:
        raise NoFit("the fitted curve is flat")
    return mapped, "the fitted curve falls: predictions and targets are opposed" if found[0] < found[1] else ""
