"""The planner (AgenticIQA, section 3.1): query type, scope, distortions, and which subtasks run.

The paper's truth table needs no model: selection and execution of tools follow from whether the query names a region
and whether it names a tool. Rules read regions, tools and distortions off the words; a chat model reads them better,
and its plan is held to the same closed vocabulary. Departure: with `regions: crops`, a region whose box is known is
measured by tools on its crop; the paper disables tools for every local query.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, create_model

from vqa2.agents import roles
from vqa2.agents._names import DISTORTIONS, distortion, distortion_words
from vqa2.agents._spec import AgentSpec
from vqa2.agents._tasks import Task
from vqa2.agents.roles import Prompt
from vqa2.agents.schemas import GLOBAL, Flags, Found, Plan
from vqa2.agents.trace import StepFailed
from vqa2.agents.world import World


def flags(*, iqa: bool, explicit: bool, region: bool, tool: bool) -> Flags:
    """The truth table."""
    return Flags(
        distortion_detection=iqa and not explicit,
        distortion_analysis=iqa,
        tool_selection=iqa and not region and not tool,
        tool_execute=iqa and (tool or not region),
    )


def plan(world: World, made: AgentSpec, task: Task) -> Plan:
    """The chat model's plan where it gives a valid one, else the rules'. A note names regions with boxes that the plan
    does not look at."""
    decided = _measurable(world, made, _planned(world, made, task))
    for name in world.asked.regions:
        if name not in decided.query_scope:
            world.notes.add(f"planner: the query is not about the region {name!r}; its box is not used")
    return decided


def _planned(world: World, made: AgentSpec, task: Task) -> Plan:
    regions = (*made.region_words, *world.asked.regions)
    reference = world.asked.reference is not None
    rules = by_rules(task.question, made, sorted(world.usable()), reference, regions)
    if not world.has_llm or not task.question:
        return rules
    try:
        decided: Any = world.chat(_asked(world, task), contract(sorted(world.usable())), see=False)
    except StepFailed as err:
        world.notes.add(f"planner: rules planned, since the chat model gave no plan: {err.reason}")
        return rules
    return Plan(**decided.model_dump())


def by_rules(question: str, made: AgentSpec, tools: Sequence[str], reference: bool, regions: Sequence[str]) -> Plan:
    """A plan from the words of the query: names of tools, of `regions`, distortions, words of aesthetics."""
    said = question.casefold()
    iqa = not any(_word(word, said) for word in made.aesthetic_words)
    scope = [name for name in dict.fromkeys(regions) if _word(name, said)] if iqa else []
    named = [name for name in tools if _word(name.replace("_", " "), said) or _word(name, said)] if iqa else []
    found = named_distortions(said) if iqa else []
    listed = [Found(object=name, distortions=found) for name in scope or [GLOBAL]] if found else []
    return Plan(
        query_type="IQA" if iqa else "Other",
        query_scope=scope,
        distortion_source="explicit" if found else "inferred",
        distortions=listed,
        reference_mode="full-reference" if reference else "no-reference",
        required_tools=named,
        plan=flags(iqa=iqa, explicit=bool(found), region=bool(scope), tool=bool(named)),
    )


def named_distortions(text: str) -> list[str]:
    """The categories whose names or aliases occur as whole words, in the vocabulary's order."""
    found, left = set(), text.casefold()
    for word in distortion_words():
        left, times = re.subn(rf"\b{re.escape(word)}\b", " | ", left)
        if times:
            found.add(distortion(word))
    return [name for name in DISTORTIONS if name in found]


def more(made: Plan, missing: Sequence[str]) -> Plan:
    """The plan with further subtasks on."""
    return made.model_copy(update={"plan": made.plan.model_copy(update=dict.fromkeys(missing, True))})


def contract(tools: Sequence[str]) -> type[BaseModel]:
    """A plan whose tools are those that can run."""
    if not tools:
        return Plan
    listed: Any = list[Literal[tuple(tools)]]
    return create_model("Plan", __base__=Plan, required_tools=(listed, ...))


def _measurable(world: World, made: AgentSpec, decided: Plan) -> Plan:
    """With `regions: crops` tools run on regions whose boxes are known."""
    known: Mapping[str, Any] = world.asked.regions
    if decided.query_type == "Other" or made.regions != "crops" or not decided.query_scope:
        return decided
    if not set(decided.query_scope) <= set(known):
        return decided
    tools = ["tool_execute"] if decided.required_tools else ["tool_selection", "tool_execute"]
    return more(decided, tools)


def _asked(world: World, task: Task) -> Prompt:
    return roles.planner(
        task.question,
        task.options,
        reference=world.asked.reference is not None,
        kind=world.asked.kind,
        tools=list(world.usable()),
        regions=list(world.asked.regions),
    )


def _word(word: str, text: str) -> bool:
    return re.search(rf"\b{re.escape(word.casefold())}\b", text) is not None
