"""Temporal perturbations of a decoded clip (VQAThinker, arXiv:2508.06051), as pure functions of frames and a generator.

The clip is cut into S equal segments of motion frames, and a mode gives the source segment of each place: shuffle (any
order), local_shuffle (any order within windows), reverse, jitter (a place takes its neighbor or itself), duplicate (one
segment repeated, as many others dropped), random_drop (segments turned black). Key frames show what the motion frames
at their instant show. Times and counts of frames stay, and with them the prompt's tokens.

Departs from the released code, which permutes its 6 sampled frames: a clip here has one key frame a second and every
motion frame, so the unit is a segment, and both kinds of frames follow one and the same re-timing.
Shapes: S segments, K key frames, T motion frames.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from vqa2.data.video import Video
from vqa2.rewards.temporal import Perturbation

Rng = np.random.Generator
BLACK = -1


def perturb(video: Video, settings: Perturbation, rng: Rng) -> tuple[Video, np.ndarray, str]:
    """The clip with one of `settings.modes`, drawn from `rng`; the source of each of its key frames `[K]` (BLACK:
    none); the mode. A new Video; the given one is left as it is."""
    mode = settings.modes[int(rng.integers(len(settings.modes)))]
    segments = min(settings.segments, len(video.motion))
    order = MODES[mode](segments, settings, rng)
    source = retime(order, len(video.motion))
    # The motion frame shown when key frame i is due; past the last one (frames cut to a multiple) the last is taken.
    shown = np.minimum(np.searchsorted(video.motion_second, np.arange(len(video.key))), len(source) - 1)
    second = np.minimum(video.motion_second, len(video.key) - 1)
    at_key = source[shown]
    key_source = np.where(at_key == BLACK, BLACK, second[np.maximum(at_key, 0)])
    return replace(video, key=_take(video.key, key_source), motion=_take(video.motion, source)), key_source, mode


def retime(order: np.ndarray, length: int) -> np.ndarray:
    """Source frame of each of `length` places `[T]`, from the source segment of each segment `[S]`; BLACK stays."""
    edges = np.linspace(0, length, len(order) + 1).round().astype(int)
    source = np.empty(length, dtype=int)
    for place, segment in enumerate(order):
        start, stop = edges[place], edges[place + 1]
        if segment == BLACK:
            source[start:stop] = BLACK
            continue
        # Segments differ in length by one frame where T is no multiple of S: the source is stretched to the place.
        first, size = edges[segment], edges[segment + 1] - edges[segment]
        source[start:stop] = first + np.arange(stop - start) * size // (stop - start)
    return source


def _take(frames: np.ndarray, source: np.ndarray) -> np.ndarray:
    taken = frames[np.maximum(source, 0)]
    taken[source == BLACK] = 0
    return taken


def shuffle(segments: int, _: Perturbation, rng: Rng) -> np.ndarray:
    """Every order alike."""
    return rng.permutation(segments)


def local_shuffle(segments: int, settings: Perturbation, rng: Rng) -> np.ndarray:
    """Every order within windows of `settings.window` segments."""
    windows = [np.arange(segments)[i : i + settings.window] for i in range(0, segments, settings.window)]
    return np.concatenate([rng.permutation(w) for w in windows])


def reverse(segments: int, _: Perturbation, rng: Rng) -> np.ndarray:
    """Last segment first."""
    return np.arange(segments)[::-1]


def jitter(segments: int, _: Perturbation, rng: Rng) -> np.ndarray:
    """Each place takes the segment before, its own or the one after, clamped to the clip."""
    return np.clip(np.arange(segments) + rng.integers(-1, 2, segments), 0, segments - 1)


def duplicate(segments: int, settings: Perturbation, rng: Rng) -> np.ndarray:
    """One segment repeated 1 to `settings.most` times, as many others left out: a stall."""
    repeats = int(rng.integers(1, min(settings.most, segments - 1) + 1))
    stalled = int(rng.integers(segments))
    others = np.delete(np.arange(segments), stalled)
    kept = np.delete(others, rng.permutation(len(others))[:repeats])
    return np.sort(np.concatenate([kept, np.full(repeats + 1, stalled)]))


def random_drop(segments: int, settings: Perturbation, rng: Rng) -> np.ndarray:
    """1 to `settings.most` segments black."""
    order = np.arange(segments)
    order[rng.permutation(segments)[: int(rng.integers(1, min(settings.most, segments) + 1))]] = BLACK
    return order


MODES: dict[str, Callable[[int, Perturbation, Rng], np.ndarray]] = {
    "shuffle": shuffle,
    "local_shuffle": local_shuffle,
    "reverse": reverse,
    "jitter": jitter,
    "duplicate": duplicate,
    "random_drop": random_drop,
}
