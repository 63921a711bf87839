"""Raw scores to MOS on 0-100: a monotone curve per expert, fitted on named data, saved with its provenance.

Forms (x raw score):
    logistic5          b1 (1/2 - 1/(1 + exp(b2 (x - b3)))) + b4 x + b5    Sheikh et al. 2006, the standard form
    logistic5_printed  b1 (1/2 - 1/exp(b2 (x - b3))) + b4 x + b5          AgenticIQA eq. 6 as printed: no `1 +`
    logistic4          b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|))       VQEG FR-TV II
    linear             b1 x + b2
    isotonic           knots (x, y), straight lines between them, flat outside

Departs from AgenticIQA: coefficients are bound to the expert's own values (a changed expert is refused as stale), a
curve that is not monotone over the range it was fitted on is refused, and values are clipped to the scale. The printed
form is for comparison only and cannot be fitted.
"""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from pydantic import TypeAdapter, ValidationError
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression

from vqa2.core.errors import ConfigError, DataError
from vqa2.core.fit import logistic4
from vqa2.core.run import fingerprint

Fitted = Literal["logistic5", "logistic4", "linear", "isotonic"]
Form = Fitted | Literal["logistic5_printed"]
GRID = 512
"""Points of the monotone check."""


def logistic5(x: np.ndarray, b1: float, b2: float, b3: float, b4: float, b5: float) -> np.ndarray:
    """Standard form; 1/(1 + exp(z)) is expit(-z), which does not overflow."""
    return b1 * (0.5 - expit(-b2 * (x - b3))) + b4 * x + b5


def logistic5_printed(x: np.ndarray, b1: float, b2: float, b3: float, b4: float, b5: float) -> np.ndarray:
    """AgenticIQA eq. 6 letter by letter; it grows without bound, so that large arguments overflow to infinity."""
    with np.errstate(over="ignore"):
        return b1 * (0.5 - np.exp(-b2 * (x - b3))) + b4 * x + b5


def linear(x: np.ndarray, b1: float, b2: float) -> np.ndarray:
    """A straight line."""
    return b1 * x + b2


CURVES: dict[str, Callable[..., np.ndarray]] = {
    "logistic5": logistic5, "logistic5_printed": logistic5_printed, "logistic4": logistic4, "linear": linear,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A fitted curve. `parameters` are b1.. of the form, for isotonic x1 y1 x2 y2 ..; `raw_range` is what was seen;
    `identity` is the fingerprint of the expert's values, `data` that of (id, raw, MOS)."""

    expert: str
    form: Form
    parameters: tuple[float, ...]
    raw_range: tuple[float, float]
    higher_is_better: bool
    identity: str
    dataset: str
    data: str
    n: int
    rmse: float

    def __call__(self, raw: float) -> float:
        """MOS on 0-100. Outside the fitted range the curve's end value is kept; `outside` tells how far it is."""
        x = np.clip(float(raw), *self.raw_range)
        return float(np.clip(self.curve(np.array([x]))[0], 0.0, 100.0))

    def curve(self, x: np.ndarray) -> np.ndarray:
        """The unclipped curve at raw scores `x [n]`."""
        return curve(self.form, self.parameters, x)

    def outside(self, raw: float) -> float:
        """Distance from the fitted range as a share of its width; 0 inside."""
        lo, hi = self.raw_range
        return max(lo - raw, raw - hi, 0.0) / (hi - lo)


def curve(form: Form, parameters: Sequence[float], x: np.ndarray) -> np.ndarray:
    """Values of one of the forms at `x [n]`."""
    if form == "isotonic":
        return np.interp(x, parameters[::2], parameters[1::2])
    return CURVES[form](x, *parameters)


def monotone(form: Form, parameters: Sequence[float], raw_range: tuple[float, float], increasing: bool) -> bool:
    """Whether the curve never turns back over the range (tolerance: a millionth of its own span)."""
    values = curve(form, parameters, np.linspace(*raw_range, GRID))
    if not np.isfinite(values).all():
        return False
    steps = np.diff(values) * (1 if increasing else -1)
    return bool(steps.min() >= -1e-6 * max(np.ptp(values), 1e-12) and np.ptp(values) > 0)


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a curve is fitted on: raw scores and MOS (0-100) by media id."""

    dataset: str
    ids: tuple[str, ...]
    raw: tuple[float, ...]
    mos: tuple[float, ...]

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.raw) == len(self.mos)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Whose curve it is: the expert's name in the pool, the fingerprint of its values, its declared direction."""

    expert: str
    identity: str
    higher_is_better: bool


def fit(subject: Subject, form: Fitted, material: Material) -> Calibration:
    """Fits `form`. DataError for fewer than 8 items, constant or non-finite scores, no convergence, and for a curve
    that turns back or runs against the expert's direction."""
    assert form in get_args(Fitted), form
    x, y = np.asarray(material.raw, float), np.asarray(material.mos, float)
    if len(x) < 8 or not (np.isfinite(x).all() and np.isfinite(y).all()) or np.ptp(x) == 0:
        raise DataError(f"{subject.expert}: calibration needs 8 finite, varying scores, got {len(x)}")
    raw_range = (float(x.min()), float(x.max()))
    parameters = _parameters(form, x, y, subject.higher_is_better)
    if not monotone(form, parameters, raw_range, subject.higher_is_better):
        raise DataError(f"{subject.expert}: {form} on {material.dataset} is not monotone in the declared direction")
    return Calibration(
        expert=subject.expert,
        form=form,
        parameters=parameters,
        raw_range=raw_range,
        higher_is_better=subject.higher_is_better,
        identity=subject.identity,
        dataset=material.dataset,
        data=fingerprint(sorted(zip(material.ids, material.raw, material.mos))),
        n=len(x),
        rmse=float(np.sqrt(np.mean((curve(form, parameters, x) - y) ** 2))),
    )


def _parameters(form: Fitted, x: np.ndarray, y: np.ndarray, increasing: bool) -> tuple[float, ...]:
    if form == "isotonic":
        return _knots(x, y, increasing)
    if form == "linear":
        return tuple(float(v) for v in np.polyfit(x, y, 1))
    # Fitted on standardized scores: raw units from 1e-4 to 1e3 would defeat the optimizer; carried back exactly.
    mean, std = float(x.mean()), float(x.std())
    z, sign = (x - mean) / std, 1.0 if increasing else -1.0
    top, low = float(y.max()), float(y.min())
    if form == "logistic4":
        ends = (top, low) if increasing else (low, top)
        b1, b2, b3, b4 = _best(logistic4, z, y, [[*ends, 0.0, s] for s in (0.25, 1.0)])
        return b1, b2, b3 * std + mean, abs(b4) * std
    slopes = np.polyfit(z, y, 1)
    starts = [[top - low, sign * s, 0.0, 0.0, float(y.mean())] for s in (0.5, 2.0)]
    starts.append([1.0, sign, 0.0, float(slopes[0]), float(slopes[1])])
    b1, b2, b3, b4, b5 = _best(logistic5, z, y, starts)
    return b1, b2 / std, b3 * std + mean, b4 / std, b5 - b4 * mean / std


def _best(form: Callable, z: np.ndarray, y: np.ndarray, starts: list[list[float]]) -> tuple[float, ...]:
    """The least-squares fit over several starts: single ones end in poor optima (benchmarks of six sets show it)."""
    found: list[tuple[float, tuple[float, ...]]] = []
    for start in starts:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", OptimizeWarning)
                made, _ = curve_fit(form, z, y, p0=start, maxfev=20000)
        except RuntimeError:  # no convergence from here; another start may
            continue
        found.append((float(np.sum((form(z, *made) - y) ** 2)), tuple(float(v) for v in made)))
    if not found:
        raise DataError(f"{form.__name__}: no start converged on {len(z)} scores")
    return min(found)[1]


def _knots(x: np.ndarray, y: np.ndarray, increasing: bool) -> tuple[float, ...]:
    """Pool-adjacent-violators; the corners of its steps."""
    model = IsotonicRegression(increasing=increasing, out_of_bounds="clip").fit(x, y)
    pairs = zip(model.X_thresholds_.tolist(), model.y_thresholds_.tolist())
    return tuple(v for pair in pairs for v in pair)


_ADAPTER = TypeAdapter(Calibration)


def save(calibration: Calibration, folder: Path) -> Path:
    """`folder/<expert>.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{calibration.expert}.json"
    path.write_text(json.dumps(asdict(calibration), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path


def load(folder: Path, expert: str, identity: str) -> Calibration:
    """Reads and checks one calibration. ConfigError where it is missing, malformed, stale or not monotone."""
    path = folder / f"{expert}.json"
    if not path.is_file():
        raise ConfigError(f"{path}: no calibration of {expert}; fit one (docs/experts.md)")
    try:
        made = _ADAPTER.validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as err:
        first = err.errors()[0]
        raise ConfigError(f"{path}: {'.'.join(str(p) for p in first['loc'])}: {first['msg'].lower()}") from None
    if made.identity != identity:
        raise ConfigError(f"{path}: stale: fitted for {expert} with other values ({made.identity}, now {identity})")
    if not monotone(made.form, made.parameters, made.raw_range, made.higher_is_better):
        raise ConfigError(f"{path}: not monotone over [{made.raw_range[0]:g}, {made.raw_range[1]:g}]")
    return made
