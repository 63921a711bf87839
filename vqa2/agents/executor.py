"""The executor (AgenticIQA, section 3.2): detection, analysis, selection and execution of tools, each gated by a flag.

A chat model does the first three where there is one; a reply that stays invalid falls back to the rules with a note.
The rules need no model: a distortion is present where the experts declared strong on it score low (20-point bins, as
the level words), and selection is a lookup: the strong tool with the smallest calibration error, where none is strong
the best calibrated one. The paper's own strengths make its selection nearly such a table.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import create_model

from vqa2.agents import roles
from vqa2.agents._media import Box
from vqa2.agents._names import DISTORTIONS, SPATIAL, severity_of
from vqa2.agents._tasks import Task
from vqa2.agents.evidence import Entry, Evidence, failed, finding, measured, where
from vqa2.agents.item import Card
from vqa2.agents.schemas import GLOBAL, Analysis, Assigned, Detection, Plan, Selection, Strict
from vqa2.agents.trace import StepFailed
from vqa2.agents.world import World

Wanted = tuple[str, str | None, str]
"""(object, distortion or None, tool)."""


def execute(world: World, plan: Plan, task: Task, evidence: Evidence) -> None:
    """Runs the subtasks that are on and have not run yet; what they find goes into `evidence`."""
    if plan.distortions:
        evidence.detected = {f.object: list(f.distortions) for f in plan.distortions}
    if _due(plan, evidence, "distortion_detection"):
        evidence.detected = _detected(world, plan, task)
    if _due(plan, evidence, "distortion_analysis") and any(evidence.detected.values()):
        _analyze(world, task, evidence)
    wanted: list[Wanted] = [(name, None, tool) for name in _objects(plan) for tool in plan.required_tools]
    if _due(plan, evidence, "tool_selection"):
        wanted += _selected(world, plan, evidence)
    if _due(plan, evidence, "tool_execute"):
        for name, found, tool in wanted:
            evidence.add(_measured(world, name, found, tool))


def _due(plan: Plan, evidence: Evidence, subtask: str) -> bool:
    """Whether a subtask is on and new; from now on it has run. Tools run again, for what was selected meanwhile."""
    if not plan.plan.model_dump()[subtask] or (subtask in evidence.ran and subtask != "tool_execute"):
        return False
    if subtask not in evidence.ran:
        evidence.ran.append(subtask)
    return True


def _objects(plan: Plan) -> list[str]:
    return list(plan.query_scope) or [GLOBAL]


def _detected(world: World, plan: Plan, task: Task) -> dict[str, list[str]]:
    if world.has_llm:
        try:
            reply: Any = world.chat(roles.detection(task.question, plan.query_scope), Detection)
            return {f.object: list(f.distortions) for f in reply.distortion_set}
        except StepFailed as err:
            world.notes.add(f"detection: by rules, since the chat model gave none: {err.reason}")
    vocabulary = SPATIAL if world.asked.kind == "image" else DISTORTIONS
    found = {}
    for name in _objects(plan):
        severities = {d: severity_by_tools(world, name, d) for d in vocabulary}
        found[name] = [d for d, told in severities.items() if told is not None and told[0] != "none"]
    return found


def _analyze(world: World, task: Task, evidence: Evidence) -> None:
    if world.has_llm:
        try:
            reply: Any = world.chat(roles.analysis(task.question, evidence.detected), Analysis)
        except StepFailed as err:
            world.notes.add(f"analysis: by rules, since the chat model gave none: {err.reason}")
        else:
            for entry in reply.distortion_analysis:
                for judged in entry.findings:
                    evidence.add(finding(entry.object, judged.type, judged.severity, judged.explanation))
            return
    for name, found in evidence.detected.items():
        for d in found:
            told = severity_by_tools(world, name, d)
            if told is None:
                world.notes.add(f"analysis: no expert that is strong on {d} gave a score{where(name)}; not judged")
            else:
                evidence.add(finding(name, d, *told))


def severity_by_tools(world: World, name: str, found: str) -> tuple[str, str] | None:
    """Severity and reason from the mean score of the experts that are strong on a distortion; None without a score."""
    scores = {}
    for card in world.usable().values():
        if found in card.strengths:
            try:
                scores[card.name] = world.tool(card.name, _box(world, name))["score"]
            except StepFailed:
                continue
    if not scores:
        return None
    why = ", ".join(f"{tool} {score:.0f}/100" for tool, score in scores.items())
    return severity_of(sum(scores.values()) / len(scores)), why


def _selected(world: World, plan: Plan, evidence: Evidence) -> list[Wanted]:
    usable = world.usable()
    if not usable:
        return []
    pairs = [(name, d) for name in _objects(plan) for d in evidence.detected.get(name, [])]
    if world.has_llm and pairs:
        told = roles.selection(pairs, {card.name: card.strengths for card in usable.values()})
        try:
            reply: Any = world.chat(told, contract(sorted(usable)), see=False)
            return [(a.object, a.distortion, a.tool) for a in reply.selected_tools]
        except StepFailed as err:
            world.notes.add(f"selection: by the lookup table, since the chat model gave none: {err.reason}")
    chosen: list[Wanted] = [(name, d, lookup(usable, d)) for name, d in pairs]
    unmeasured = [name for name in _objects(plan) if name not in {name for name, _ in pairs}]
    return chosen + [(name, None, lookup(usable, None)) for name in unmeasured]


def lookup(cards: Mapping[str, Card], found: str | None) -> str:
    """The tool for a distortion (None: for the whole impression) by the rules in the docstring of this file."""
    strong = [c for c in cards.values() if found in c.strengths]
    return min(strong or cards.values(), key=lambda c: (c.rmse if c.rmse is not None else 1e9, c.cost_s, c.name)).name


def contract(tools: Sequence[str]) -> type[Strict]:
    """A selection among the tools that can run."""
    tool: Any = Literal[tuple(tools)]
    assigned: Any = create_model("Assigned", __base__=Assigned, tool=(tool, ...))
    return create_model("Selection", __base__=Selection, selected_tools=(list[assigned], ...))


def _measured(world: World, name: str, found: str | None, tool: str) -> Entry:
    if tool not in world.usable():
        return failed(name, found, tool, world.cards[tool].why_not if tool in world.cards else "no such tool")
    try:
        reading = world.tool(tool, _box(world, name))
    except StepFailed as err:
        world.notes.add(f"{tool}: {err.reason}")
        return failed(name, found, tool, err.reason)
    return measured(name, found, tool, reading["score"])


def _box(world: World, name: str) -> Box | None:
    """The region's box where the caller knows it; else tools see the whole picture."""
    box = world.asked.regions.get(name)
    if name != GLOBAL and box is None:
        world.notes.add(f"{name}: no box is known; tools measured the whole picture")
    return box
