"""The router's values: priors, budget, adjustment."""

from typing import Annotated

from annotated_types import Ge, Interval

from vqa2.agents._media import FrameSpec
from vqa2.agents.fusion import Adjustment
from vqa2.agents.world import Budget
from vqa2.core.config import spec


@spec
class Priors:
    """Base weights by content type and expert; `unlisted` is the weight of an expert that a row does not name. `source`
    says where they come from."""

    source: str
    types: dict[str, dict[str, Annotated[float, Ge(0)]]]
    unlisted: Annotated[float, Ge(0)]


@spec
class RouterSpec:
    """`content_type`: a type of the priors, or `auto`; `default_type` is what rules say where they cannot tell.
    `suspect_margin`: an expert this many points below the median of the scores names what it is strong on as
    suspected."""

    tier: Annotated[int, Interval(ge=0, le=2)]
    content_type: str
    default_type: str
    suspect_margin: Annotated[float, Ge(0)]
    budget: Budget
    priors: Priors
    adjustment: Adjustment
    frames: FrameSpec
    seed: Annotated[int, Ge(0)]

    def __post_init__(self) -> None:
        known = ", ".join(self.priors.types)
        for key, name in (("content_type", self.content_type), ("default_type", self.default_type)):
            if name not in self.priors.types and (key, name) != ("content_type", "auto"):
                raise ValueError(f"router.{key}: {name!r} is no type of the priors; known: {known}")
