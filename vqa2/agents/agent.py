"""The agent (AgenticIQA, section 3): planner -> executor -> summarizer, and back to the planner where evidence lacks.

Departures: the paper has one sentence on its reflection loop; here a sufficiency test knows which subtasks were off,
asks for those alone, and at most `max_replans` times. It works on images and videos, and without any model (rules).
"""

from vqa2.agents._spec import AgentSpec, Outcome
from vqa2.agents._tasks import dispatch
from vqa2.agents.evidence import Evidence
from vqa2.agents.executor import execute
from vqa2.agents.planner import more, plan
from vqa2.agents.schemas import Plan
from vqa2.agents.summarizer import Insufficient, summarize
from vqa2.agents.trace import Plain, StepFailed
from vqa2.agents.world import World


def assess(world: World, made: AgentSpec) -> Outcome:
    """Answers one item. An item that cannot be answered has `error` in its result."""
    task = dispatch(world.asked.question, world.asked.want)
    working: Plain = {"task": task.kind, "options": list(task.options)}
    try:
        working["facts"] = world.facts()
    except StepFailed as err:
        return Outcome(result={"error": err.reason}, working=working)
    decided = plan(world, made, task)
    working["plans"] = [decided.model_dump()]
    evidence = Evidence()
    for turn in range(made.max_replans + 1):
        execute(world, decided, task, evidence)
        working["evidence"] = evidence.plain()
        try:
            return Outcome(result=summarize(world, made.summary, decided, task, evidence), working=working)
        except Insufficient as err:
            lacking = err.missing
        except StepFailed as err:
            return Outcome(result={"error": err.reason}, working=working)
        if turn < made.max_replans:
            decided = _replanned(world, decided, lacking, working)
    said = f"the evidence stayed insufficient after {made.max_replans} replans: {', '.join(lacking)} missing"
    return Outcome(result={"error": said}, working=working)


def _replanned(world: World, decided: Plan, lacking: list[str], working: Plain) -> Plan:
    world.notes.add(f"replan: {', '.join(lacking)} on")
    made = more(decided, lacking)
    working["plans"].append(made.model_dump())
    return made
