"""Who decides in the router: rules over the file's header and the priors, a chat model under a strict contract, or a
learned gate."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field, create_model, field_validator

from vqa2.agents._names import DISTORTIONS, distortion
from vqa2.agents._spec import Priors, RouterSpec
from vqa2.agents.item import Card
from vqa2.agents.roles import Prompt
from vqa2.agents.schemas import Strict
from vqa2.agents.trace import Plain
from vqa2.agents.world import World

TOLERANCE = 0.01
"""By how much weights may miss a sum of 1."""

_SYSTEM = """You route video quality assessment: you say what kind of content a clip is, which experts should rate it \
and what may be wrong with it. You do not rate it yourself."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """`experts` in the order of their weight; `weights` are base weights of any sum, before the adjustment.
    `uncertainty`: the gate's expected error in MOS points, None where no gate decided."""

    content_type: str
    experts: tuple[str, ...]
    weights: dict[str, float]
    suspected: tuple[str, ...]
    by: Literal["rules", "chat", "gate"]
    weights_by: Literal["priors", "chat", "gate"]
    why: str
    uncertainty: float | None = None


def prior_weights(priors: Priors, content_type: str, experts: Sequence[str]) -> dict[str, float]:
    """Base weights of a content type. A prior expert that is not in the pool has no part; the fusion renormalizes."""
    row = priors.types[content_type]
    return {name: row.get(name, priors.unlisted) for name in experts}


def by_rules(world: World, made: RouterSpec, known: Plain) -> Decision:
    """The header tells one type from the others: a clip higher than wide is short-form. Every usable expert with a
    prior weight takes part."""
    kind, why = _type_of(made, known)
    return _ordered(world, made, content_type=kind, suspected=(), by="rules", why=why)


def by_chat(world: World, made: RouterSpec, known: Plain) -> Decision:
    """The chat model's decision. StepFailed where it gives none that is valid."""
    usable = world.usable()
    schema = contract(sorted(usable), list(made.priors.types))
    reply: Any = world.chat(Prompt("router", _SYSTEM, _prompt(made, known, usable)), schema)
    kind = reply.content_type if made.content_type == "auto" else made.content_type
    if not reply.weights:
        return _ordered(
            world,
            made,
            content_type=kind,
            suspected=tuple(reply.suspected),
            by="chat",
            why=reply.why,
            only=reply.experts,
        )
    weights = {entry.expert: entry.weight for entry in reply.weights if entry.weight > 0}
    return Decision(
        content_type=kind,
        experts=_order(weights, usable),
        weights=weights,
        suspected=tuple(reply.suspected),
        by="chat",
        weights_by="chat",
        why=reply.why,
    )


def by_gate(world: World, made: RouterSpec) -> Decision:
    """The learned gate's decision; its content types are those it was trained with. StepFailed where it gives none."""
    said = world.gate()
    if said["note"]:
        world.notes.add(said["note"])
    return Decision(
        content_type=said["content_type"] if made.content_type == "auto" else made.content_type,
        experts=_order(said["weights"], world.usable()),
        weights=said["weights"],
        suspected=(),
        by="gate",
        weights_by="gate",
        why=said["note"] or "learned from MOS",
        uncertainty=said["uncertainty"],
    )


def contract(experts: Sequence[str], types: Sequence[str]) -> type[BaseModel]:
    """The form of the chat model's reply: names from closed lists; `weights` empty (the priors hold) or one for each
    chosen expert with the sum 1."""
    expert: Any = Literal[tuple(experts)]
    entry: Any = create_model("Weight", __base__=Strict, expert=(expert, ...), weight=(float, Field(ge=0, le=1)))
    return create_model(
        "Routing",
        __base__=_Routing,
        content_type=(Literal[tuple(types)], ...),
        experts=(list[expert], Field(min_length=1)),
        suspected=(list[Literal[DISTORTIONS]], ...),
        weights=(list[entry], ...),
        why=(str, ...),
    )


class _Routing(Strict):
    """The checks of a routing reply; `contract` adds the fields."""

    @field_validator("suspected", mode="before", check_fields=False)
    @classmethod
    def _canonical(cls, values: Any) -> Any:
        if not isinstance(values, list):
            return values
        return list(dict.fromkeys((distortion(v) or v) if isinstance(v, str) else v for v in values))

    @field_validator("experts", check_fields=False)
    @classmethod
    def _once(cls, values: list[str]) -> list[str]:
        if len(set(values)) < len(values):
            raise ValueError("an expert is named twice")
        return values

    @field_validator("weights", check_fields=False)
    @classmethod
    def _sum(cls, values: list[Any], info: Any) -> list[Any]:
        if not values:
            return values
        named = [entry.expert for entry in values]
        if sorted(named) != sorted(info.data.get("experts", [])):
            raise ValueError("one weight for each chosen expert is needed, or none at all")
        total = math.fsum(entry.weight for entry in values)
        if abs(total - 1) > TOLERANCE:
            raise ValueError(f"the weights must sum to 1, they sum to {total:g}")
        return values


def _type_of(made: RouterSpec, known: Plain) -> tuple[str, str]:
    if made.content_type != "auto":
        return made.content_type, "set by the caller"
    if known["kind"] == "video" and known["height"] > known["width"] and "short-form" in made.priors.types:
        return "short-form", "a clip higher than wide"
    return made.default_type, "nothing in the header tells another type"


def _ordered(
    world: World,
    made: RouterSpec,
    *,
    content_type: str,
    suspected: tuple[str, ...],
    by: Literal["rules", "chat"],
    why: str,
    only: Sequence[str] | None = None,
) -> Decision:
    """A decision with the priors' weights."""
    usable = world.usable()
    weights = prior_weights(made.priors, content_type, sorted(only if only is not None else usable))
    absent = sorted(set(made.priors.types[content_type]) - set(world.cards))
    known = {name: w for name, w in weights.items() if w > 0}
    rest = "the others' weights are renormalized" if known else "no other expert has a weight: all count alike"
    if absent:
        world.notes.add(f"priors: {', '.join(absent)} not in the pool; {rest}")
    order = _order(known or weights, usable)
    return Decision(
        content_type=content_type,
        experts=order,
        weights={name: weights[name] for name in order},
        suspected=suspected,
        by=by,
        weights_by="priors",
        why=why,
    )


def _order(weights: Mapping[str, float], cards: Mapping[str, Card]) -> tuple[str, ...]:
    """The heaviest first, of equal ones the best calibrated (to a tenth of a MOS point), of these the cheapest."""

    def key(name: str) -> tuple[float, float, float, str]:
        rmse = cards[name].rmse
        return -weights[name], math.inf if rmse is None else round(rmse, 1), cards[name].cost_s, name

    return tuple(sorted(weights, key=key))


def _prompt(made: RouterSpec, known: Plain, usable: Mapping[str, Card]) -> str:
    shown = {key: known[key] for key in ("kind", "width", "height", "fps", "seconds")}
    pool = "\n".join(f"- {c.name}: strong on {', '.join(c.strengths) or 'no known strengths'}" for c in usable.values())
    one = "Name exactly one expert." if made.tier == 0 else "Name every expert that helps."
    return (
        f"The file: {shown}\nContent types: {', '.join(made.priors.types)}\nExperts:\n{pool}\n"
        f"Distortions: {', '.join(DISTORTIONS)}\nBase weights by content type, {made.priors.source}:\n"
        f"{_table(made.priors, list(usable))}\n{one} Leave `weights` empty to use the base weights, or give one weight "
        "for each chosen expert; they must sum to 1. `suspected`: distortions that you see or expect."
    )


def _table(priors: Priors, experts: Sequence[str]) -> str:
    """One line per content type: the weights of the experts at hand."""
    lines = []
    for kind, row in priors.types.items():
        told = [f"{name} {row[name]:g}" for name in experts if name in row]
        if len(told) < len(experts):
            told.append(f"{'the others' if told else 'all experts'} {priors.unlisted:g}")
        lines.append(f"- {kind}: {', '.join(told)}")
    return "\n".join(lines)
