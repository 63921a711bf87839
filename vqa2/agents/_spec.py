"""The values of the router and of the agent, and what both give back."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

from vqa2.agents._media import FrameSpec
from vqa2.agents.fusion import Adjustment, Form
from vqa2.agents.trace import Plain
from vqa2.agents.world import Budget
from vqa2.core.config import spec


@spec
class Priors:
    """Base weights by content type and expert; `unlisted` is the weight of an expert that a row does not name. `source`
    says where they come from, `flagged` what is wrong or unexplained there."""

    source: str
    flagged: tuple[str, ...]
    types: dict[str, dict[str, Annotated[float, Ge(0)]]]
    unlisted: Annotated[float, Ge(0)]


@spec
class SummarySpec:
    """`fusion` and `eta`: how tools and levels become one score (fusion.py); `repeats`: whether a tool that was chosen
    for two distortions counts once or twice. `evidence_to_voice`: our own model is told the evidence beside the
    question (it must have been trained so)."""

    fusion: Form
    eta: Annotated[float, Gt(0)]
    repeats: Literal["once", "each"]
    evidence_to_voice: bool


@spec
class RouterSpec:
    """`content_type`: a type of the priors, or `auto`; `default_type` is what rules say where they cannot tell.
    `suspect_margin`: an expert this many points below the median of the scores names what it is strong on as
    suspected. `summary` serves questions, which are answered from the readings."""

    tier: Annotated[int, Interval(ge=0, le=2)]
    content_type: str
    default_type: str
    suspect_margin: Annotated[float, Ge(0)]
    budget: Budget
    priors: Priors
    adjustment: Adjustment
    summary: SummarySpec
    frames: FrameSpec
    seed: Annotated[int, Ge(0)]

    def __post_init__(self) -> None:
        known = ", ".join(self.priors.types)
        for key, name in (("content_type", self.content_type), ("default_type", self.default_type)):
            if name not in self.priors.types and (key, name) != ("content_type", "auto"):
                raise ValueError(f"router.{key}: {name!r} is no type of the priors; known: {known}")


@spec
class AgentSpec:
    """`max_replans` bounds the loop from the summarizer back to the planner. `regions`: `off` (as the paper: no tools
    for local queries) or `crops`. `region_words`, `aesthetic_words`: what the rule planner reads as regions and as
    queries that are not about degradations."""

    summary: SummarySpec
    max_replans: Annotated[int, Ge(0)]
    regions: Literal["off", "crops"]
    region_words: tuple[str, ...]
    aesthetic_words: tuple[str, ...]
    budget: Budget
    frames: FrameSpec
    seed: Annotated[int, Ge(0)]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a program found: `result` is the answer or its `error`, `working` how it came about."""

    result: Plain
    working: Plain
