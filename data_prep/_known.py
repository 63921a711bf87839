"""Embedded clips as depictions: what was done to a clip, in the sentences that a person would write about it."""

from collections.abc import Iterable, Iterator
from typing import Annotated

import numpy as np
from annotated_types import Ge, MinLen

from data_prep._degrade import COLOR
from data_prep._lexicon import Lexicon
from data_prep._questions import severity_of
from data_prep._write import rng_of
from vqa2.core.config import spec
from vqa2.core.records import Clip, Depiction

_VARIANTS = {"shake": "camera shake"}
"""Variants of a distortion that the lexicon knows by a name of their own."""


@spec
class Sentences:
    """Formats with {kind}, {place}, {severity} and {distortion}. `there` is about the whole picture, `region` about
    one of the `places`, where a distortion of all pixels shows as well; `absent` denies one of `denied` others."""

    there: str
    region: str
    absent: str
    places: Annotated[tuple[str, ...], MinLen(1)]
    denied: Annotated[int, Ge(0)]


def depictions(clips: Iterable[Clip], made: Sentences, lexicon: Lexicon, seed: int) -> Iterator[Depiction]:
    """Every clip of known distortions, stills and rated videos; clips with stalls are of another set."""
    for clip in clips:
        if clip.tags.get("set") != "streaming":
            yield _depiction(clip, made, lexicon, rng_of(seed, "known", clip.id))


def _depiction(clip: Clip, made: Sentences, lexicon: Lexicon, rng: np.random.Generator) -> Depiction:
    told, region, there = [], (), ""
    if clip.distortions:
        first = clip.distortions[0]
        there = _VARIANTS.get(first.variant, first.name)
        values = {"kind": clip.kind, "severity": severity_of(first.strength), "distortion": there}
        told.append(made.there.format(**values))
        if not lexicon.attributes[there].temporal:
            region = (made.region.format(place=rng.choice(made.places), **values),)
    told += [made.absent.format(distortion=name) for name in _denied(clip, there, made.denied, lexicon, rng)]
    return Depiction(
        id=clip.id,
        clip_id=clip.id,
        media=clip.path,
        kind=clip.kind,
        overall=" ".join(told),
        in_context=region,
        mos=clip.mos,
        tags={"split": clip.split},
    )


def _denied(clip: Clip, there: str, count: int, lexicon: Lexicon, rng: np.random.Generator) -> list[str]:
    """Distortions that the clip neither has nor seems to have; a still has none in time, a gray clip none of color."""
    near = {there, *(lexicon.attributes[there].alike if there else ())}
    gray = COLOR if clip.tags.get("color") == "no" else ()
    others = [
        name
        for name, attribute in lexicon.attributes.items()
        if name not in near
        and name not in gray
        and there not in attribute.alike
        and not (attribute.temporal and clip.kind == "image")
    ]
    return [str(name) for name in rng.permutation(others)[:count]]
