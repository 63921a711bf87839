"""What a writer makes of one depiction for AgenticIQA's roles: the issues it tells of, and queries with their answers.

A query is refused with its reason where it does not hold what it claims to name, or its answer does not stand apart
from its wrong options; plans and tool choices are not written but follow (data_prep/_plans.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from data_prep._lexicon import Lexicon
from data_prep._pairs import Limits, options_refusal, plain, text_refusal
from data_prep._plans import GLOBAL, Library, Query

UNSTATED = "unstated"
Severity = Literal["none", "slight", "moderate", "severe", "extreme", "unstated"]
SEVERITIES = ("none", "slight", "moderate", "severe", "extreme")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Issue(_Strict):
    """A distortion (an attribute of the lexicon) of a region or of the whole picture (`Global`)."""

    object: str
    distortion: str
    severity: Severity
    explanation: str


class Asked(_Strict):
    """A query with its answer, empty where the depiction does not tell it. `objects`, `distortions` and `tools` are
    those that the text names; `distractors` is empty for an answer in free text."""

    query: str
    query_type: Literal["IQA", "Other"]
    objects: tuple[str, ...]
    distortions: tuple[str, ...]
    tools: tuple[str, ...]
    answer: str
    distractors: tuple[str, ...]
    reasoning: str


class Traces(_Strict):
    """A writer's reply about one depiction."""

    issues: tuple[Issue, ...]
    queries: tuple[Asked, ...]


@dataclass(frozen=True)
class Seen:
    """An issue that a query is about, `category` in AgenticIQA's words."""

    object: str
    attribute: str
    category: str
    severity: str
    explanation: str


def issue_refusal(issue: Issue, limits: Limits, lexicon: Lexicon) -> str:
    """Why an issue may not be used; empty for a good one."""
    if issue.distortion not in lexicon.attributes:
        return f"no such distortion: {issue.distortion!r}"
    return text_refusal(issue.object, issue.explanation, limits)


def query_refusal(asked: Asked, limits: Limits, lexicon: Lexicon, library: Library) -> str:
    """Why a query may not be used; empty for a good one."""
    text = plain(asked.query)
    for name in asked.distortions:
        if name not in lexicon.attributes:
            return f"no such distortion: {name!r}"
    for name in asked.tools:
        if name not in library.tools:
            return f"no such tool: {name!r}"
    for name in (*asked.objects, *asked.tools):
        if f" {plain(name)} " not in f" {text} ":
            return f"names what its text does not: {name!r}"
    rest = f" {text} "
    for name in asked.tools:
        rest = rest.replace(f" {plain(name)} ", " ")
    unsaid = next((name for name in library.tools if f" {plain(name)} " in rest), None)
    if unsaid is not None:
        return f"does not say that it names a tool: {unsaid!r}"
    if asked.query_type == "Other" and (asked.distortions or asked.tools):
        return "a query that is not about quality names distortions or tools"
    if not asked.answer:
        return text_refusal(asked.query, asked.query, limits)
    reason = text_refusal(asked.query, asked.answer, limits) or text_refusal(asked.query, asked.reasoning, limits)
    if reason or not asked.distractors or is_yes_no(asked):
        return reason
    return options_refusal((asked.answer, *asked.distractors), limits, lexicon)


def is_yes_no(asked: Asked) -> bool:
    """Whether a query is answered by yes or no."""
    return {asked.answer, *asked.distractors} == {"Yes", "No"}


def query_of(asked: Asked, lexicon: Lexicon) -> Query:
    """The query as the planner sees it."""
    categories = tuple(dict.fromkeys(lexicon.attributes[name].category for name in asked.distortions))
    return Query(
        text=asked.query, kind=asked.query_type, objects=asked.objects, distortions=categories, tools=asked.tools
    )


def relevant(asked: Asked, issues: Sequence[Issue], lexicon: Lexicon) -> list[Seen]:
    """The issues that a query is about: of its regions, and of the distortions that it names, where it names any. A
    named distortion that no issue tells of is not there."""
    return list(_relevant(asked, issues, lexicon))


def _relevant(asked: Asked, issues: Sequence[Issue], lexicon: Lexicon) -> Iterator[Seen]:
    for place in asked.objects or (GLOBAL,):
        here = {i.distortion: i for i in issues if plain(i.object) == plain(place)}
        # A distortion of a region is one of the picture, too; whether it is among its issues as a whole is not said.
        known = here if asked.objects else {i.distortion: i for i in issues} | here
        for name in asked.distortions or here:
            category = lexicon.attributes[name].category
            found = known.get(name)
            if found is None:
                yield Seen(place, name, category, "none", f"No {name} is visible.")
            else:
                yield Seen(place, name, category, found.severity, found.explanation)
