"""The summarizer (AgenticIQA, section 3.3): evidence to a score, an option, yes or no, or a text with linked claims.

Score: probabilities of five levels (our model's level softmax, or a chat model's option log-probabilities A .. E) times
the tools' mean, fused as fusion.py says. Choice: log-probabilities of the options, letters read where the backend gives
none. Text: every claim names the evidence entries that it rests on; ids outside the evidence are refused.

Who answers: the chat model, else our model, else rules, which take what the evidence says outright and otherwise give
no answer. A guess is never made. The sufficiency test is the chat model's own where it replies in words; where nothing
but evidence is left to answer from, it is that of the rules.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from annotated_types import Len
from pydantic import create_model

from vqa2.agents import fusion, roles
from vqa2.agents._names import DISTORTIONS, SEVERITIES, one_scale
from vqa2.agents._spec import SummarySpec
from vqa2.agents._tasks import Task, reply_of
from vqa2.agents.evidence import Entry, Evidence
from vqa2.agents.planner import named_distortions
from vqa2.agents.schemas import Claim, Plan, Summary
from vqa2.agents.trace import Plain, StepFailed
from vqa2.agents.world import World
from vqa2.core.prompts import LETTERS
from vqa2.core.scale import LEVELS, acr_to_score01, level_of

_WORDS = ("excellent", "good", "fair", "poor", "bad")


class Insufficient(Exception):
    """Subtasks that have not run are needed first."""

    def __init__(self, missing: Sequence[str]) -> None:
        super().__init__(", ".join(missing))
        self.missing = list(missing)


def summarize(world: World, made: SummarySpec, plan: Plan | None, task: Task, evidence: Evidence) -> Plain:
    """The result. StepFailed where nobody can answer; Insufficient where more evidence is needed first and the plan
    could give it."""
    answer = {"score": _score, "open": _text}.get(task.kind, _option)
    return answer(world, made, plan, task, evidence)


def _score(world: World, made: SummarySpec, plan: Plan | None, task: Task, evidence: Evidence) -> Plain:
    """The fused score with both of its sides and the other forms beside it."""
    tools, levels = evidence.tools_acr(made.repeats), _levels(world, made, task, evidence)
    if levels is None:
        _check_evidence(plan, task, evidence)
    if tools is None and levels is None:
        said = "; ".join(e.text for e in evidence.of("failure")) or "no tool was run"
        raise StepFailed(f"no score: there are no level probabilities and no tool score ({said})")
    acr = fusion.fuse_levels(tools, levels, made.eta, made.fusion)
    if not 1.0 <= acr <= 5.0:
        world.notes.add(f"fusion {made.fusion}: {acr:.4f} leaves the 1-5 scale and was clipped")
    forms: tuple[fusion.Form, ...] = ("normalized", "printed", "tools", "levels", "average")
    both = tools is not None and levels is not None
    return {
        "task": "score",
        "score01": acr_to_score01(min(5.0, max(1.0, acr))),
        "acr": acr,
        "tools_acr": tools,
        "levels": levels,
        "form": made.fusion,
        "forms": {form: fusion.fuse_levels(tools, levels, made.eta, form) for form in forms} if both else {},
        "claims": [_claim(e) for e in evidence.entries if e.kind != "failure"],
    }


def _levels(world: World, made: SummarySpec, task: Task, evidence: Evidence) -> list[float] | None:
    """Level probabilities, best first; None where no model gives any."""
    if world.has_llm:
        try:
            told = world.choose(roles.score(task.question, evidence.told()), LETTERS[:5])
            return _softmax(told)
        except StepFailed as err:
            world.notes.add(f"summarizer: no level probabilities of the chat model: {err.reason}")
    if "levels" in world.voices:
        try:
            return list(world.levels(_question(made, task, evidence)))
        except StepFailed as err:
            world.notes.add(f"summarizer: no level probabilities of our model: {err.reason}")
    return None


def _option(world: World, made: SummarySpec, plan: Plan | None, task: Task, evidence: Evidence) -> Plain:
    if world.has_llm:
        try:
            return _chosen_by_chat(world, plan, task, evidence)
        except StepFailed as err:
            world.notes.add(f"summarizer: no option by the chat model: {err.reason}")
    if "options" in world.voices:
        try:
            replies = [reply_of(task, i) for i in range(len(task.options))]
            return _picked(task, _softmax(world.options(_question(made, task, evidence), replies)), "our model")
        except StepFailed as err:
            world.notes.add(f"summarizer: no option by our model: {err.reason}")
    _check_evidence(plan, task, evidence)
    index, why = _by_rules(made, task, evidence)
    return {"task": task.kind, "text": reply_of(task, index), "option": index, "probabilities": None, "by": "rules",
            "claims": [_claim(e) for e in why]}  # fmt: skip


def _chosen_by_chat(world: World, plan: Plan | None, task: Task, evidence: Evidence) -> Plain:
    letters = LETTERS[: len(task.options)]
    told = roles.choice(task.question, evidence.told(), task.options)
    try:
        return _picked(task, _softmax(world.choose(told, letters)), "chat")
    except StepFailed as err:
        world.notes.add(f"summarizer: the letter is read, since there are no log-probabilities: {err.reason}")
    answers: Any = Literal[tuple(letters)]
    schema = create_model("Letter", __base__=_summary(evidence), final_answer=(answers, ...))
    reply: Any = world.chat(told, schema)
    _check_sufficient(world, plan, reply)
    index = letters.index(reply.final_answer)
    return {"task": task.kind, "text": reply_of(task, index), "option": index, "probabilities": None, "by": "chat",
            "claims": [c.model_dump() for c in reply.claims]}  # fmt: skip


def _picked(task: Task, probabilities: list[float], by: str) -> Plain:
    index = max(range(len(probabilities)), key=probabilities.__getitem__)
    return {"task": task.kind, "text": reply_of(task, index), "option": index, "probabilities": probabilities,
            "by": by, "claims": []}  # fmt: skip


def _by_rules(made: SummarySpec, task: Task, evidence: Evidence) -> tuple[int, list[Entry]]:
    """The option that the evidence says outright and the entries that say it. StepFailed for every other question."""
    for rule in (_rule_yes_no, _rule_distortion, _rule_severity):
        found = rule(task, evidence)
        if found is not None:
            return found
    found = _rule_level(task, evidence, evidence.tools_acr(made.repeats))
    if found is None:
        raise StepFailed(
            "rules cannot answer this question from the evidence; a chat model or a model of ours is needed"
        )
    return found


def _rule_yes_no(task: Task, evidence: Evidence) -> tuple[int, list[Entry]] | None:
    """Whether a distortion that is asked about was found, where all of them were looked at."""
    named = named_distortions(task.question)
    found = [e for e in (evidence.worst(name) for name in named) if e is not None]
    if task.kind != "yes-no" or not found or len(found) < len(named):
        return None
    return _plain(task).index("yes" if any(e.severity != "none" for e in found) else "no"), found


def _rule_distortion(task: Task, evidence: Evidence) -> tuple[int, list[Entry]] | None:
    """The one distortion among the options that is the worst finding."""
    names = [named_distortions(option) for option in task.options]
    if not all(len(n) == 1 for n in names) or len({n[0] for n in names}) < len(names):
        return None
    found = {i: e for i, n in enumerate(names) if (e := evidence.worst(n[0])) is not None and e.severity != "none"}
    worst = max((SEVERITIES.index(e.severity or "none") for e in found.values()), default=0)
    top = [i for i, e in found.items() if SEVERITIES.index(e.severity or "none") == worst]
    return (top[0], [found[top[0]]]) if len(top) == 1 else None


def _rule_severity(task: Task, evidence: Evidence) -> tuple[int, list[Entry]] | None:
    """The severity of the worst finding, where the options are severities."""
    try:
        options = one_scale(_plain(task))
    except ValueError:
        return None
    found = [e for d in DISTORTIONS if (e := evidence.worst(d)) is not None]
    worst = max(found, key=lambda e: SEVERITIES.index(e.severity or "none"), default=None)
    if worst is None or options.count(worst.severity or "none") != 1:
        return None
    return options.index(worst.severity or "none"), [worst]


def _rule_level(task: Task, evidence: Evidence, acr: float | None) -> tuple[int, list[Entry]] | None:
    """The level of the tools' mean, where the options are level words."""
    options = _plain(task)
    for words in (LEVELS, _WORDS):
        if acr is not None and set(options) <= set(words):
            word = words[LEVELS.index(level_of(100 * acr_to_score01(acr)))]
            return (options.index(word), evidence.of("tool")) if word in options else None
    return None


def _plain(task: Task) -> list[str]:
    return [option.casefold().rstrip(".") for option in task.options]


def _text(world: World, made: SummarySpec, plan: Plan | None, task: Task, evidence: Evidence) -> Plain:
    if world.has_llm:
        try:
            reply: Any = world.chat(roles.words(task.question, evidence.told()), _summary(evidence))
        except StepFailed as err:
            world.notes.add(f"summarizer: no text by the chat model: {err.reason}")
        else:
            _check_sufficient(world, plan, reply)
            claims = [c.model_dump() for c in reply.claims]
            return {"task": "open", "text": reply.final_answer, "reasoning": reply.quality_reasoning, "by": "chat",
                    "claims": claims}  # fmt: skip
    if "say" in world.voices:
        try:
            text = world.say(_question(made, task, evidence))
            world.notes.add("summarizer: the model's own words; the claims beside them are the evidence's")
            return {"task": "open", "text": text, "by": "our model", "claims": _claims(evidence)}
        except StepFailed as err:
            world.notes.add(f"summarizer: no text by our model: {err.reason}")
    _check_evidence(plan, task, evidence)
    claims = _claims(evidence)
    if not claims:
        raise StepFailed("rules have no evidence to describe")
    acr = evidence.tools_acr(made.repeats)
    level = "" if acr is None else f" Hence, the quality is {level_of(100 * acr_to_score01(acr))}."
    said = "; ".join(c["text"] for c in claims)
    return {"task": "open", "text": f"{said[:1].upper()}{said[1:]}.{level}", "by": "rules", "claims": claims}


def _check_evidence(plan: Plan | None, task: Task, evidence: Evidence) -> None:
    """The rules' sufficiency test: Insufficient where subtasks are off without which evidence alone cannot answer. What
    is on and failed is not asked for again, and neither is anything for a query that is not about degradations."""
    if plan is None or plan.query_type == "Other":
        return
    if task.kind == "score":
        needed = [] if evidence.of("tool") else ["tool_selection", "tool_execute"]
    else:
        needed = [] if evidence.of("analysis") or evidence.ran else ["distortion_detection", "distortion_analysis"]
    off = [name for name in needed if not plan.plan.model_dump()[name]]
    if off:
        raise Insufficient(off)


def _check_sufficient(world: World, plan: Plan | None, reply: Any) -> None:
    """Insufficient where the chat model asks for subtasks that are off."""
    if reply.sufficient:
        return
    off = [] if plan is None else [name for name in reply.missing if not plan.plan.model_dump()[name]]
    if off:
        raise Insufficient(off)
    world.notes.add("summarizer: found the evidence insufficient with nothing left to run; its answer was taken")


def _summary(evidence: Evidence) -> type[Summary]:
    """A summary whose claims cite entries that exist."""
    ids = [e.id for e in evidence.entries]
    cited: Any = list[Literal[tuple(ids)]] if ids else Annotated[list[str], Len(0, 0)]
    claim: Any = create_model("Claim", __base__=Claim, evidence=(cited, ...))
    return create_model("Summary", __base__=Summary, claims=(list[claim], ...))


def _claims(evidence: Evidence) -> list[Plain]:
    return [_claim(e) for e in evidence.entries if e.kind == "analysis"] or [
        _claim(e) for e in evidence.entries if e.kind == "tool"
    ]


def _claim(entry: Entry) -> Plain:
    return {"text": entry.text, "evidence": [entry.id]}


def _question(made: SummarySpec, task: Task, evidence: Evidence) -> str:
    """What our own model is asked: the question as the benchmark words it."""
    return f"{task.asked}\nEvidence:\n{evidence.told()}" if made.evidence_to_voice else task.asked


def _softmax(logprobs: Sequence[float | None]) -> list[float]:
    """Probabilities among the options; one whose log-probability the backend does not show has none."""
    top = max(value for value in logprobs if value is not None)
    raw = [0.0 if value is None else math.exp(value - top) for value in logprobs]
    return [value / math.fsum(raw) for value in raw]
