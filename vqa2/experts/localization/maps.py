"""Where a frame differs from what it should look like: motion-compensated difference maps on one fixed scale.

There is no reference, so a suspicious frame is compared with the nearest frames outside the suspicious stretch, carried
to its place by the camera motion. The difference of two pictures is the largest of three parts, each on a fixed scale
in [0, 1]: structure (1 - gradient similarity, the map of GMSD), brightness and color. Departs from Q-Router (adjacent
frames, LPIPS) and from the only third-party code (normalized per frame, which makes frames incomparable): LPIPS needs
downloaded weights, and an adjacent frame inside the artifact shows none.

Shapes: h x w pixels, RGB float on 0-255.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from vqa2.experts._frames import luma
from vqa2.experts.localization.motion import visible, warped

Box = tuple[int, int, int, int]
BRIGHTNESS = 48.0
"""Difference of local mean luma that counts as 1."""
COLOR = 40.0
"""Difference of local mean color (opponent axes) that counts as 1."""
STRUCTURE = 42.5
"""Constant of the gradient similarity: 170 (Xue 2014) for gradients of half the size."""


def difference_map(frame: np.ndarray, others: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """`[h,w]` in [0, 1] against (picture, motion from this frame to it): the least difference from any of them (what
    one hides another may show); 0 where none shows the place."""
    least = np.full(frame.shape[:2], np.inf)
    for other, matrix in others:
        apart = difference(frame, warped(other, matrix))
        least = np.where(visible(frame.shape[:2], matrix), np.minimum(least, apart), least)
    return np.where(np.isfinite(least), least, 0.0)


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Fixed-scale perceptual difference of two aligned pictures, `[h,w]` in [0, 1]."""
    ya, yb = luma(a), luma(b)
    # Gradients are averaged before they are compared, or every pixel of slightly misplaced texture would be an
    # artifact.
    ga, gb = (ndimage.gaussian_filter(ndimage.gaussian_gradient_magnitude(y, 0.8), 2) for y in (ya, yb))
    structure = 1 - (2 * ga * gb + STRUCTURE) / (ga**2 + gb**2 + STRUCTURE)
    brightness = np.abs(ndimage.gaussian_filter(ya - yb, 2)) / BRIGHTNESS
    axes = [(a[..., i] - ya) - (b[..., i] - yb) for i in (0, 2)]
    color = np.hypot(*(ndimage.gaussian_filter(x, 2) for x in axes)) / COLOR
    return np.clip(np.maximum(np.maximum(structure, brightness), color), 0, 1)


def boxes(heat: np.ndarray, threshold: float, min_share: float) -> list[tuple[Box, float]]:
    """(left, top, right, bottom) and mean heat of the connected places above `threshold` whose pixels cover at least
    `min_share` of the picture, hottest sum first."""
    labels, _ = ndimage.label(ndimage.binary_closing(heat >= threshold, iterations=2))
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        inside = labels == number
        if inside.mean() >= min_share:
            box = (columns.start, rows.start, columns.stop, rows.stop)
            found.append((float(heat[inside].sum()), box, float(heat[inside].mean())))
    return [(box, mean) for _, box, mean in sorted(found, reverse=True)]
