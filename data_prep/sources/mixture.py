"""Source `mixture`: which labelled datasets enter which set, and how many of their clips (VQA², Table 1)."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval, MinLen

from data_prep._degrade import SPATIAL
from data_prep.sources.labelled import Labelled
from vqa2.core.config import build, register, spec
from vqa2.core.errors import ConfigError

MAKES = {"image": SPATIAL, "video": ("flicker", "stutter")}
"""What can be applied to a file. Camera shake has to be filmed, and a codec's artifacts depend on the whole
encoding."""


@spec
class Take:
    """A dataset's part in a set. `count` clips (null: all usable ones). `distortion`: `none`; `own`, of those whose
    name tells one of `names` (empty: any); `made`, one of `names` is applied. `cuts`: so many extracts in all instead
    of the clips; 0 for none. `without`: parts whose contents are left out."""

    count: Annotated[int, Ge(1)] | None
    distortion: Literal["none", "own", "made"]
    names: tuple[str, ...]
    cuts: Annotated[int, Ge(0)]
    without: tuple[str, ...]


Share = Annotated[float, Interval(gt=0, le=1)]


@spec
class Extract:
    """How stage-1 files are made: `share` of width and height, and of the duration, that an extract shows (least,
    greatest); `max_height` px of what is written; `strength` of an applied distortion; `qp` of the encoder."""

    share: tuple[Share, Share]
    duration: tuple[Share, Share]
    max_height: Annotated[int, Ge(16)]
    strength: tuple[Share, Share]
    qp: Annotated[int, Interval(ge=0, le=51)]


Sets = dict[str, dict[str, dict[str, Take]]]
"""Set -> split -> part -> what is taken of it."""


@dataclass(frozen=True)
class Plan:
    """What is read and taken. `own_splits`: a part's clips enter the split that its files put them in, not all."""

    parts: dict[str, Labelled]
    sets: Sets
    extract: Extract | None
    own_splits: bool


@register("source", "mixture")
class Mixture:
    """`parts`: sources of the form `labelled` by name; `sets`: set -> split -> part -> what it takes of it."""

    variant: Annotated[str, MinLen(1)]
    parts: dict[str, dict[str, Any]]
    sets: Sets
    extract: Extract

    def plan(self) -> Plan:
        """The parts, decoded, and what is taken of them; ConfigError where a name does not fit."""
        made = {name: build("source", values, f"source.parts.{name}") for name, values in self.parts.items()}
        for name, part in made.items():
            if not isinstance(part, Labelled):
                raise ConfigError(f"source.parts.{name}: a mixture has labelled datasets, not {type(part).__name__}")
            if part.variant != name:
                raise ConfigError(f"source.parts.{name}: holds the dataset {part.variant!r}; use that name")
        for key, splits in self.sets.items():
            for split, takes in splits.items():
                for name, take in takes.items():
                    _check(take, name, made, f"source.sets.{key}.{split}.{name}")
        return Plan(made, self.sets, self.extract, own_splits=False)


def _check(take: Take, name: str, parts: dict[str, Labelled], where: str) -> None:
    """ConfigError where a take names a part or a distortion that there is not."""
    for part in (name, *take.without):
        if part not in parts:
            raise ConfigError(f"{where}: no part {part!r}; known: {', '.join(parts)}")
    own = parts[name].distortions
    known = {"none": (), "made": MAKES[parts[name].kind], "own": tuple(own.names.values()) if own else ()}
    unknown = sorted(set(take.names) - set(known[take.distortion]))
    if unknown or (take.distortion == "made" and not take.names) or (take.distortion == "own" and own is None):
        said = ", ".join(dict.fromkeys(known[take.distortion])) or "none"
        raise ConfigError(f"{where}.names: {unknown or 'empty'} with distortion={take.distortion}; known: {said}")


def alone(part: Labelled, sets: list[str]) -> Plan:
    """A single dataset: all its clips, each in its own split, in every set."""
    whole = Take(count=None, distortion="none", names=(), cuts=0, without=())
    takes = {key: {split: {part.variant: whole} for split in part.files} for key in sets}
    return Plan({part.variant: part}, takes, None, own_splits=True)
