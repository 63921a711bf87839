"""The router (after Q-Router): content type -> experts -> calibrated scores -> weights -> one score, within a budget.

Tier 0 picks one expert and runs exactly that one. Tier 1 runs several and fuses them: prior weight by content type,
adjusted by four terms (fusion.py), mean or median. Tier 2 adds the localization of artifacts, whose types count among
the suspected distortions. A failed expert is evidence and the others go on; where none gives a score there is no score.

Who decides (content type, experts, suspected distortions, optionally base weights) is one of: rules; a chat model
(`llm` of any kind, scripted for tests), whose strict JSON is checked, repaired and, where that fails, replaced by the
rules and priors with a note; a learned gate (`stage=router`), whose weights are taken as they are. The
paper's tier 0 prompt receives scores of several experts; here tier 0 chooses first.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vqa2.agents import fusion
from vqa2.agents._decide import Decision, by_chat, by_gate, by_rules
from vqa2.agents._media import megapixels
from vqa2.agents._names import strengths
from vqa2.agents._spec import Outcome, RouterSpec
from vqa2.agents._tasks import Task, dispatch
from vqa2.agents.evidence import Entry, Evidence
from vqa2.agents.fusion import Adjustment, Fused, Terms
from vqa2.agents.item import Card
from vqa2.agents.schemas import GLOBAL
from vqa2.agents.summarizer import summarize
from vqa2.agents.trace import Plain, StepFailed
from vqa2.agents.world import World


def route(world: World, made: RouterSpec) -> Outcome:
    """Scores one item. An item that cannot be scored has `error` in its result."""
    try:
        known = world.facts()
    except StepFailed as err:
        return Outcome(result={"error": err.reason}, working={})
    usable = world.usable()
    if not usable:
        return Outcome(result={"error": f"no expert can rate this {world.asked.kind}: {_reasons(world)}"}, working={})
    decision = _decide(world, made, known)
    working: dict[str, Any] = {"facts": known, "decision": asdict(decision)}
    readings, failures = _run(world, made, known, decision)
    working |= {"readings": readings, "failures": failures}
    if not readings:
        return Outcome(result={"error": f"no expert gave a score ({_few(failures)})"}, working=working)
    suspected = _suspected(world, made, decision, readings)
    if made.tier == 2:
        suspected = _localized(world, suspected, working)
    fused, terms = _fused(readings, usable, decision, suspected, made.adjustment)
    working |= {"suspected": suspected, "terms": terms, "fused": asdict(fused)}
    task = dispatch(world.asked.question, world.asked.want)
    if task.kind != "score":
        return Outcome(result=_answered(world, made, task, fused, working), working=working)
    result = {
        "score01": fused.score100 / 100,
        "score100": fused.score100,
        "rounded": fused.rounded,
        "content_type": decision.content_type,
        "experts": sorted(readings),
    }
    if decision.uncertainty is not None:
        result["uncertainty"] = decision.uncertainty
    return Outcome(result=result, working=working)


def _answered(world: World, made: RouterSpec, task: Task, fused: Fused, working: dict[str, Any]) -> Plain:
    """The reply to a question, with the readings, their fusion and the localization as evidence, which the working
    keeps (the paper's question mode)."""
    evidence = Evidence()
    for name, score in {**{n: r["score"] for n, r in working["readings"].items()}, "all": fused.score100}.items():
        strong = world.cards[name].strengths if name in world.cards else ()
        about = f" (strong on {', '.join(strong)})" if strong else ""
        text = f"{'all experts, weighted' if name == 'all' else name}{about}: {score:.1f}/100, larger is better"
        evidence.add(
            Entry(
                id=f"tool:{GLOBAL}:{name}",
                kind="tool",
                object=GLOBAL,
                distortion=None,
                tool=name,
                score=score,
                text=text,
            )
        )
    for number, found in enumerate(working.get("localization", {}).get("types", ())):
        text = f"localized: {found}"
        evidence.add(Entry(id=f"localized:{number}", kind="analysis", object=GLOBAL, distortion=None, text=text))
    working["evidence"] = evidence.plain()
    try:
        return summarize(world, made.summary, None, task, evidence)
    except StepFailed as err:
        return {"error": err.reason}


def _fused(
    readings: Mapping[str, Plain],
    cards: Mapping[str, Card],
    decision: Decision,
    suspected: Sequence[str],
    constants: Adjustment,
) -> tuple[Fused, Plain]:
    """A gate's weights make a mean as they are, for that is what they were trained as; others are adjusted first."""
    if decision.weights_by != "gate":
        return weigh(readings, cards, decision.weights, suspected, constants)
    scores = {name: reading["score"] for name, reading in readings.items()}
    return fusion.fuse_experts(scores, {name: decision.weights[name] for name in scores}, spread=math.inf), {}


def weigh(
    readings: Mapping[str, Plain],
    cards: Mapping[str, Card],
    base: Mapping[str, float],
    suspected: Sequence[str],
    constants: Adjustment,
) -> tuple[Fused, Plain]:
    """The fused score of calibrated readings and, by expert, the four terms with base and adjusted weight."""
    scores = {name: reading["score"] for name, reading in readings.items()}
    told, weights = {}, {}
    for name, reading in readings.items():
        card = cards[name]
        terms = Terms(
            specialty=fusion.specialty_match(suspected, card.strengths),
            agreement=fusion.agreement(name, scores, constants.spread),
            confidence=0.0 if card.rmse is None else fusion.confidence(card.rmse, constants.worst_rmse),
            out_of_bounds=fusion.out_of_bounds(reading["outside"]),
        )
        weights[name] = fusion.adjusted(base[name], terms, constants)
        told[name] = {**asdict(terms), "base": base[name], "adjusted": weights[name]}
    return fusion.fuse_experts(scores, weights, constants.spread), told


def _decide(world: World, made: RouterSpec, known: Plain) -> Decision:
    """The gate's decision, or the chat model's, where there is one that gives it; else the rules'."""
    if world.has_gate:
        try:
            return by_gate(world, made)
        except StepFailed as err:
            world.notes.add(f"router: the learned gate gave no decision: {err.reason}")
    if world.has_llm:
        try:
            return by_chat(world, made, known)
        except StepFailed as err:
            world.notes.add(f"router: rules and priors decided, since the chat model gave no decision: {err.reason}")
    return by_rules(world, made, known)


def _run(world: World, made: RouterSpec, known: Plain, decision: Decision) -> tuple[dict[str, Plain], dict[str, str]]:
    """Readings and failures of the decision's experts in its order; tier 0 runs the first and no other."""
    readings: dict[str, Plain] = {}
    failures: dict[str, str] = {}
    size = megapixels(known) / 100
    for name in decision.experts[:1] if made.tier == 0 else decision.experts:
        left, needed = world.seconds_left(), world.cards[name].cost_s * size
        if left is not None and needed > left:
            failures[name] = f"budget: needs about {needed:.2f} s, {max(0.0, left):.2f} s are left"
            continue
        try:
            readings[name] = world.tool(name)
        except StepFailed as err:
            failures[name] = err.reason
    _note(world, failures)
    return readings, failures


def _note(world: World, failures: Mapping[str, str]) -> None:
    """One line a failure; more than three that the budget kept from running share one."""
    unpaid = [name for name, reason in failures.items() if reason.startswith("budget:")]
    for name, reason in failures.items():
        if name not in unpaid or len(unpaid) <= 3:
            world.notes.add(f"{name}: {reason}")
    if len(unpaid) > 3:
        world.notes.add(f"budget: {len(unpaid)} experts did not run: {', '.join(unpaid)}")


def _suspected(world: World, made: RouterSpec, decision: Decision, readings: Mapping[str, Plain]) -> list[str]:
    """What the decision suspects, and what a specialist sees that the median of the experts does not."""
    if decision.suspected or made.tier == 0:
        return list(decision.suspected)
    scores = {name: reading["score"] for name, reading in readings.items()}
    middle = fusion.weighted_median(scores, fusion.normalized(dict.fromkeys(scores, 1.0)))
    low = [name for name, score in scores.items() if score < middle - made.suspect_margin]
    return strengths(s for name in low for s in world.cards[name].strengths)


def _localized(world: World, suspected: list[str], working: dict[str, Any]) -> list[str]:
    """Adds the types of localized artifacts to the suspects, and the evidence to the working."""
    if not world.has_localizer:
        world.notes.add("tier 2: no localization is set up; scored as tier 1")
        return suspected
    try:
        found = world.localize()
    except StepFailed as err:
        world.notes.add(f"tier 2: localization failed: {err.reason}")
        return suspected
    working["localization"] = found
    return strengths([*suspected, *(str(name) for name in found["types"])])


def _reasons(world: World) -> str:
    return _few({card.name: card.why_not for card in world.cards.values()}) or "the pool is empty"


def _few(reasons: Mapping[str, str]) -> str:
    """The first three, and how many more there are; the trace has all."""
    told = [f"{name}: {reason}" for name, reason in reasons.items()]
    more = [f"and {len(told) - 3} more"] if len(told) > 3 else []
    return "; ".join([*told[:3], *more])
