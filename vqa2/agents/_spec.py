"""The values of the router and of the agent, and what both give back."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from annotated_types import Ge, Gt, Interval
from pydantic import field_validator

from vqa2.agents._media import FrameSpec
from vqa2.agents.fusion import Adjustment, Form
from vqa2.agents.trace import Plain
from vqa2.agents.world import Budget
from vqa2.core.config import decode, spec
from vqa2.core.errors import ConfigError


@spec
class Priors:
    """Base weights by content type and expert; `unlisted` is the weight of an expert that a row does not name. `source`
    says where they come from, `flagged` what is wrong or unexplained there.

    `save` writes them as YAML; `{file: <path>}` in the place of all reads that at once, so that a trace holds the
    weights themselves.
    """

    source: str
    flagged: tuple[str, ...]
    types: dict[str, dict[str, Annotated[float, Ge(0)]]]
    unlisted: Annotated[float, Ge(0)]

    def save(self, path: Path) -> None:
        """Creates the folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(json.loads(json.dumps(asdict(self))), sort_keys=False), encoding="utf-8")


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

    @field_validator("priors", mode="before")
    @classmethod
    def _read(cls, values: Any) -> Any:
        """Always decoded here: what a validator has seen is no longer taken for JSON."""
        if not isinstance(values, dict):
            return values
        if set(values) != {"file"}:
            return decode(Priors, values, "router.priors")
        path = Path(str(values["file"]))
        if not path.is_file():
            raise ConfigError(f"{path}: no fitted priors; `python -m vqa2.agents` fits and writes them")
        try:
            return decode(Priors, yaml.safe_load(path.read_text(encoding="utf-8")), str(path))
        except yaml.YAMLError as err:
            raise ConfigError(f"{path}: no YAML: {' '.join(str(err).split())[:120]}") from None

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
