"""VQA² stage 1 from labelled datasets: which distortion a clip shows, and the extracts that make 134 videos into 5,211.

The paper's distortion labels and its extraction code were never published. Here a label is either the one that the
item's own name carries (KADID-10k's type code, LIVE-Qualcomm's folder) or a degradation that this package applies to
it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np

from data_prep._degrade import TEMPORAL_VARIANTS
from data_prep._write import rng_of
from data_prep.sources.mixture import Extract, Take
from vqa2.core.records import Clip, Distortion

FOLDER = "media/stage1"


def stage1(clips: Iterable[Clip], total: int, take: Take, extract: Extract | None, seed: int) -> Iterator[Clip]:
    """The clips that stage 1 shows instead of `clips`, of which there are `total`: degraded, cut, or as they are.

    The tags `made` (variant and strength) and `window` (left, top, width, height, start, duration, as shares of the
    source) with `of` (the source's path) are the recipe of a file that has to be made.
    """
    for number, clip in enumerate(clips):
        if not take.cuts and take.distortion != "made":
            yield clip
            continue
        assert extract is not None
        count = take.cuts * (number + 1) // total - take.cuts * number // total if take.cuts else 1
        for index in range(count):
            yield _made(clip, index if take.cuts else None, take, extract, seed)


def _made(clip: Clip, number: int | None, take: Take, extract: Extract, seed: int) -> Clip:
    """The clip's extract of that number (None: the whole clip), degraded where the take says so."""
    suffix = "" if number is None else f"-{number:03d}"
    rng = rng_of(seed, "stage1", clip.id, suffix)
    tags, distortions, name = {**clip.tags, "of": clip.path}, clip.distortions, ""
    if take.distortion == "made":
        variant = str(rng.choice(take.names))
        strength = round(float(rng.uniform(*extract.strength)), 6)
        known = TEMPORAL_VARIANTS.get(variant, variant)
        distortions = (Distortion(name=known, variant=variant if variant != known else "", strength=strength),)
        tags["made"] = f"{variant} {strength:.6f}"
        name = f"-{variant.replace(' ', '_')}"
    if number is not None:
        tags["window"] = " ".join(f"{value:.6f}" for value in _window(number, extract, rng))
    stem = PurePosixPath(clip.id.partition("/")[2]).with_suffix("").as_posix().replace("/", "-")
    path = f"{FOLDER}/{clip.dataset}/{stem}{suffix}{name}.{'png' if clip.kind == 'image' else 'mp4'}"
    return replace(clip, id=f"{clip.id}{suffix}", path=path, distortions=distortions, tags=tags)


def _window(number: int, extract: Extract, rng: np.random.Generator) -> tuple[float, ...]:
    """Left, top, width, height, start, duration: the first extract of a clip is spatial, the second temporal, the third
    both, and so on."""
    width = height = 1.0 if number % 3 == 1 else float(rng.uniform(*extract.share))
    length = 1.0 if number % 3 == 0 else float(rng.uniform(*extract.duration))
    return rng.uniform(0, 1 - width), rng.uniform(0, 1 - height), width, height, rng.uniform(0, 1 - length), length
