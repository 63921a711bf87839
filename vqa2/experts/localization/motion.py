"""Camera motion as affine maps, so that every frame can be laid on every other.

A robust parametric Lucas-Kanade between neighbors (three scales, high-passed luma, far residuals weigh little),
composed over time. Robust, because the artifact must not bend the estimate; affine, because a free flow would explain
the artifact away. Coordinates are (row, column, 1), centered.
"""

import numpy as np
from scipy import ndimage

from vqa2.experts._frames import luma
from vqa2.experts.tools.temporal import displacement

ROUNDS = 8
"""Gauss-Newton steps per scale."""
SCALES = (4, 2, 1)


def alignments(frames: np.ndarray) -> np.ndarray:
    """`[T,3,3]` of RGB float `[T,h,w,3]`: where a point of the first frame lies in frame t."""
    y = luma(frames)
    sharp = y - ndimage.gaussian_filter(y, (0, 6, 6))
    made = [np.eye(3)]
    for before, now in zip(sharp, sharp[1:]):
        made.append(between(before, now) @ made[-1])
    return np.array(made)


def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`[3,3]` with b(M x) = a(x), for high-passed pictures `[h,w]`; the better of what was found and standing still."""
    found = np.eye(3)
    found[:2, 2] = displacement(a, b)
    for scale in SCALES:
        found = _refined(_downscaled(a, scale), _downscaled(b, scale), found, scale)
    still = np.median(np.abs(b - a))
    return found if np.median(np.abs(warped(b, found) - a)) <= still else np.eye(3)


def warped(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """`picture [h,w(,C)]` sampled where `matrix` sends each pixel; the border repeats."""
    place = _places(picture.shape[:2], matrix)
    if picture.ndim == 2:
        return ndimage.map_coordinates(picture, place, order=1, mode="nearest")
    return np.stack(
        [ndimage.map_coordinates(picture[..., c], place, order=1, mode="nearest") for c in range(picture.shape[2])], -1
    )


def visible(size: tuple[int, int], matrix: np.ndarray) -> np.ndarray:
    """Bool `[h,w]`: which pixels `warped` takes from inside the picture."""
    rows, columns = _places(size, matrix)
    return (rows >= 0) & (rows <= size[0] - 1) & (columns >= 0) & (columns <= size[1] - 1)


def _places(size: tuple[int, int], matrix: np.ndarray) -> np.ndarray:
    center = (np.array(size) - 1) / 2
    grid = np.indices(size).reshape(2, -1) - center[:, None]
    return (matrix[:2, :2] @ grid + matrix[:2, 2:] + center[:, None]).reshape(2, *size)


def _downscaled(x: np.ndarray, scale: int) -> np.ndarray:
    return ndimage.gaussian_filter(x, scale / 2)[scale // 2 :: scale, scale // 2 :: scale] if scale > 1 else x


def _refined(a: np.ndarray, b: np.ndarray, start: np.ndarray, scale: int) -> np.ndarray:
    matrix = start.copy()
    matrix[:2, 2] /= scale
    center = (np.array(a.shape) - 1) / 2
    rows, columns = (g.ravel() / max(a.shape) for g in np.indices(a.shape) - center[:, None, None])
    for _ in range(ROUNDS):
        moved = warped(b, matrix)
        left = (a - moved).ravel()
        down, right = (g.ravel() for g in np.gradient(moved))
        jacobian = np.stack([down * rows, down * columns, down, right * rows, right * columns, right], 1)
        spread = 1.5 * np.median(np.abs(left)) + 1e-3
        weight = visible(a.shape, matrix).ravel() / (1 + (left / spread) ** 2) ** 2
        normal = jacobian.T @ (jacobian * weight[:, None])
        step = np.linalg.solve(normal + 1e-6 * np.trace(normal) * np.eye(6), jacobian.T @ (left * weight))
        # A step in b's own coordinates: b(M x) with M = start + step.
        matrix[0] += [step[0] / max(a.shape), step[1] / max(a.shape), step[2]]
        matrix[1] += [step[3] / max(a.shape), step[4] / max(a.shape), step[5]]
        if np.abs(step).max() < 1e-3:
            break
    matrix[:2, 2] *= scale
    return matrix
