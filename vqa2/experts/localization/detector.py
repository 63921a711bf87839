"""Per-frame artifact probability, clips by hysteresis, diverse frames (Q-Router 2.3, algorithm 2).

p_t is a logistic regression on frame features with coefficients in a file, trained here (the paper does not say where
its own come from). A clip opens at p >= high, closes at p < low.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression

from vqa2.core.errors import ConfigError
from vqa2.experts.localization.features import NAMES


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Standardization and weights of a logistic (one row) or multinomial regression on features `[F]`."""

    names: tuple[str, ...]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weight: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Probabilities: `[n]` of the second class where there are two, else `[n, classes]`."""
        z = (features - np.array(self.mean)) / np.array(self.scale) @ np.array(self.weight).T + np.array(self.bias)
        return expit(z[:, 0]) if len(self.classes) == 2 else softmax(z, axis=1)


@dataclass(frozen=True, kw_only=True)
class Detector:
    """`frame`: is there an artifact in this frame; `kind`: which one, from the change inside the found box; thresholds
    of the hysteresis and of the maps. `data` and `n` say what everything was tuned on."""

    frame: Linear
    kind: Linear
    high: float
    low: float
    heat: float
    data: str
    n: int


def fit_linear(features: np.ndarray, labels: Sequence[str], names: Sequence[str], strength: float) -> Linear:
    """Regularized (C = `strength`), classes weighted equally. Classes are in alphabetical order."""
    mean, scale = features.mean(0), features.std(0) + 1e-9
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
    model.fit((features - mean) / scale, labels)
    return Linear(
        names=tuple(names),
        classes=tuple(str(c) for c in model.classes_),
        mean=tuple(mean.tolist()),
        scale=tuple(scale.tolist()),
        weight=tuple(tuple(row) for row in model.coef_.tolist()),
        bias=tuple(model.intercept_.tolist()),
    )


def save(detector: Detector, path: Path) -> None:
    """As JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(detector), indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> Detector:
    """ConfigError where the file is missing, malformed or made for other features."""
    if not path.is_file():
        raise ConfigError(f"{path}: no detector; train one with python -m vqa2.experts.localization")
    try:
        made = TypeAdapter(Detector).validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as err:
        raise ConfigError(f"{path}: {err.errors()[0]['msg'].lower()}") from None
    if made.frame.names != NAMES:
        raise ConfigError(f"{path}: made for other frame features; train it again")
    return made


def hysteresis(p: Sequence[float], high: float, low: float, min_frames: int, pad: int) -> list[tuple[int, int]]:
    """Stretches (start, end) of frames, end not included: from the first p < `low` before to the first after a p >=
    `high`; shorter ones than `min_frames` are dropped, the rest padded and joined where they meet."""
    assert low <= high
    spans: list[tuple[int, int]] = []
    t = 0
    while t < len(p):
        if p[t] < low:
            t += 1
            continue
        end = next((i for i in range(t, len(p)) if p[i] < low), len(p))
        if max(p[t:end]) >= high and end - t >= min_frames:
            start, stop = max(0, t - pad), min(len(p), end + pad)
            if spans and start <= spans[-1][1]:
                start = spans.pop()[0]
            spans.append((start, stop))
        t = end
    return spans


def diverse(features: np.ndarray, p: Sequence[float], span: tuple[int, int], count: int) -> list[int]:
    """Up to `count` frames of a span: the most suspicious first, then always the one farthest (standardized features)
    from those taken."""
    frames = list(range(*span))
    x = (features - features.mean(0)) / (features.std(0) + 1e-9)
    taken = [max(frames, key=lambda t: (p[t], -t))]
    while len(taken) < min(count, len(frames)):
        rest = [t for t in frames if t not in taken]
        taken.append(max(rest, key=lambda t: (min(float(np.linalg.norm(x[t] - x[k])) for k in taken), -t)))
    return sorted(taken)
