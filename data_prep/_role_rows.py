"""Rows for the agent's roles from what was written about one depiction: planner, executor (detection, analysis, tool
selection) and summarizer.

The prompts are the agent's own (vqa2/agents/roles.py), in one turn as `llm=vqa2` asks them, and the replies are what
its schemas store (vqa2/agents/schemas.py), so that a model trained on them can be put in its place.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

import vqa2.agents.roles as roles
import vqa2.agents.schemas as schemas
from data_prep._dealer import Dealer
from data_prep._lexicon import Lexicon
from data_prep._plans import GLOBAL, Library, plan_of, selected
from data_prep._trace_rules import Wording
from data_prep._traces import UNSTATED, Asked, Issue, Seen, Traces, query_of, relevant
from data_prep._write import rng_of
from vqa2.agents._names import distortion
from vqa2.agents._tasks import Task, dispatch
from vqa2.agents.evidence import Entry, Evidence, finding, measured
from vqa2.core.prompts import LETTERS, SCORE_QUESTION, closed_prompt, one_turn
from vqa2.core.records import Depiction, Instruction, Turn
from vqa2.core.scale import LEVELS, acr_to_score01, level_of

ROLES = {"planner": "planner", "detection": "executor", "analysis": "executor", "selection": "executor",
         "summarizer": "summarizer"}  # fmt: skip
"""Subtask -> role."""
Scores = dict[tuple[str, str], float]
"""(clip id, tool) -> score on 1-5."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What rows are made of. `reference_share`: of the queries that come with a reference; `bare_share`: of the
    summaries that are told no evidence and must look; `writer`: whose issues and queries they are."""

    lexicon: Lexicon
    tools: Library
    wording: Wording
    reference_share: float
    bare_share: float
    seed: int
    writer: str


@dataclass(frozen=True, kw_only=True)
class _Case:
    """One query about one depiction: how the agent reads it (`task`), the place of the right option (-1 where there is
    none), its plan, the issues that it is about, and the tools that could run."""

    depiction: Depiction
    asked: Asked
    task: Task
    right: int
    plan: schemas.Plan
    about: Sequence[Seen]
    usable: Sequence[str]

    @property
    def reference(self) -> bool:
        return self.plan.reference_mode == "full-reference"

    @property
    def there(self) -> list[Seen]:
        return [seen for seen in self.about if seen.severity != "none"]


class RoleRows:
    """Makes the rows, and counts what comes of depictions and queries."""

    def __init__(self, made: Recipe, scores: Scores) -> None:
        self.made, self.scores = made, scores
        self.dealer = Dealer(made.seed, "agentic")
        self.got: Counter[str] = Counter()
        self.without: Counter[str] = Counter()
        self.places: Counter[str] = Counter()
        self.yes_no: Counter[str] = Counter()
        self._torn = _torn(made.lexicon, made.tools)

    def of(self, depiction: Depiction, traces: Traces) -> Iterator[Instruction]:
        """All rows of a depiction; issues and queries are good ones."""
        for number, asked in enumerate(traces.queries, 1):
            yield from self._query(depiction, asked, traces.issues, number)
        yield from self._score(depiction, traces.issues)

    def _query(self, depiction: Depiction, asked: Asked, issues: Sequence[Issue], number: int) -> Iterator[Instruction]:
        case = self._case(depiction, asked, issues, number)
        task, plan, about = case.task, case.plan, case.about

        def row(subtask: str, prompt: roles.Prompt, reply: str, *, see: bool = True) -> Instruction:
            return self._row(depiction, f"{number}-{subtask}", subtask, prompt, reply, see)

        planned = roles.planner(
            task.question, task.options, reference=case.reference, kind=depiction.kind, tools=case.usable
        )
        yield row("planner", planned, _json(plan), see=False)
        detected = {f.object: f.distortions for f in plan.distortions} or _grouped(case.there, plan)
        if plan.plan.distortion_detection and about:
            yield row("detection", roles.detection(task.question, plan.query_scope), _json(_detection(detected)))
        if self._evidence(about) is None:
            self.without["analysis: a severity is not stated"] += 1
        elif any(detected.values()):
            yield row("analysis", roles.analysis(task.question, detected), _json(_analysis(about, detected)))
        if plan.plan.tool_selection:
            yield from (row("selection", *told, see=False) for told in self._selection(case))
        yield from (row("summarizer", *told) for told in self._summary(case))

    def _case(self, depiction: Depiction, asked: Asked, issues: Sequence[Issue], number: int) -> _Case:
        library, query = self.made.tools, query_of(asked, self.made.lexicon)
        rng = rng_of(self.made.seed, "agentic", depiction.id, str(number), "reference")
        modes = [library.tools[name].reference for name in asked.tools]
        reference = any(modes) if modes else bool(rng.random() < self.made.reference_share)
        task, right = dispatch(asked.query, "answer"), _yes_or_no(asked.answer)
        if asked.distractors:
            options, right = self._dealt(asked)
            task = dispatch(closed_prompt(asked.query, options, "letter"), "answer")
        return _Case(
            depiction=depiction,
            asked=asked,
            task=task,
            right=right,
            plan=schemas.Plan(**plan_of(query, reference)),
            about=relevant(asked, issues, self.made.lexicon) if query.kind == "IQA" else [],
            usable=[*library.mode(False), *(library.mode(True) if reference else ())],
        )

    def _dealt(self, asked: Asked) -> tuple[Sequence[str], int]:
        """Options and the place of the right one. Grades keep their order, as in the paper."""
        options = (asked.answer, *asked.distractors)
        grades = tuple(reversed(self.made.wording.grades))
        if set(options) == set(grades):
            return grades, grades.index(asked.answer)
        dealt, place = self.dealer.deal("query", options)
        self.places[f"{len(options)} options, {LETTERS[place]}"] += 1
        if set(options) == {"Yes", "No"}:
            self.yes_no[asked.answer] += 1
        return dealt, place

    def _evidence(self, about: Sequence[Seen]) -> Evidence | None:
        """The analysis as evidence; None where a severity is not stated."""
        evidence = Evidence()
        for seen in about:
            if seen.severity == UNSTATED:
                return None
            evidence.add(finding(_place(seen.object), _canonical(seen), seen.severity, seen.explanation))
        return evidence

    def _selection(self, case: _Case) -> Iterator[tuple[roles.Prompt, str]]:
        library = self.made.tools
        chosen = self._chosen(case)
        if not chosen:
            self.without["selection: no tool is said to suit"] += bool(case.there)
            return
        pairs, assigned = [], []
        for seen in {s.category: s for s in case.there if s.category in chosen}.values():
            name = _canonical(seen)
            # A category with distortions that different tools are best at is told which of them it is.
            detail = f" ({library.known_as[seen.attribute]})" if seen.category in self._torn else ""
            pairs.append((schemas.GLOBAL, name + detail))
            assigned.append({"object": schemas.GLOBAL, "distortion": name, "tool": chosen[seen.category]})
        told = {name: library.tools[name].strengths for name in case.usable}
        yield roles.selection(pairs, told), _json(schemas.Selection(selected_tools=assigned))

    def _chosen(self, case: _Case) -> dict[str, str]:
        """The tool for each category of distortion that is there."""
        there = {seen.attribute: seen.category for seen in case.there}
        return selected(there, self.made.tools, case.reference)

    def _summary(self, case: _Case) -> Iterator[tuple[roles.Prompt, str]]:
        asked, task, evidence = case.asked, case.task, self._evidence(case.about)
        measurements = self._measured(case)
        reason = ""
        if not asked.answer:
            reason = "the answer is not known"
        elif evidence is None:
            reason = "a severity is not stated"
        elif asked.tools and len(measurements) < len(asked.tools):
            reason = "no score of the named tool is known"
        elif task.options and case.right < 0:
            reason = "asked for yes or no, answered otherwise"
        if reason or evidence is None:
            self.without[f"summarizer: {reason}"] += 1
            return
        for entry in measurements:
            evidence.add(entry)
        evidence = self._told(evidence, case.depiction, asked.query)
        if task.options:
            yield roles.choice(task.question, evidence.told(), task.options), LETTERS[case.right]
            return
        claims = [{"text": e.text, "evidence": [e.id]} for e in evidence.entries]
        reply = schemas.Summary(
            final_answer=asked.answer, quality_reasoning=asked.reasoning, claims=claims, sufficient=True, missing=[]
        )
        yield roles.words(task.question, evidence.told()), _json(reply)

    def _measured(self, case: _Case) -> list[Entry]:
        """What is known of the tools that the query names, or of those that the plan has selected."""
        wanted: list[tuple[str | None, str]] = [(None, tool) for tool in case.asked.tools]
        if case.plan.plan.tool_selection:
            wanted = [(distortion(category), tool) for category, tool in self._chosen(case).items()]
        scores = {tool: self.scores.get((case.depiction.clip_id, tool)) for _, tool in wanted}
        return [
            measured(schemas.GLOBAL, found, tool, 100 * acr_to_score01(score))
            for found, tool in wanted
            if (score := scores[tool]) is not None
        ]

    def _score(self, depiction: Depiction, issues: Sequence[Issue]) -> Iterator[Instruction]:
        """The rating of a rated clip, by the letter of its level."""
        seen = [Seen(i.object, i.distortion, self.made.lexicon.attributes[i.distortion].category, i.severity,
                     i.explanation) for i in issues]  # fmt: skip
        evidence = self._evidence(seen)
        if depiction.mos is None or evidence is None:
            self.without["summarizer: no rating"] += depiction.mos is None
            return
        evidence = self._told(evidence, depiction, "score")
        letter = LETTERS[LEVELS.index(level_of(depiction.mos))]
        prompt = roles.score(dispatch(SCORE_QUESTION, "score").question, evidence.told())
        yield self._row(depiction, "score", "summarizer", prompt, letter, True)

    def _told(self, evidence: Evidence, depiction: Depiction, query: str) -> Evidence:
        """The evidence, or none of it for a share of the summaries."""
        rng = rng_of(self.made.seed, "agentic", depiction.id, query, "bare")
        return Evidence() if rng.random() < self.made.bare_share else evidence

    def _row(
        self, depiction: Depiction, suffix: str, subtask: str, prompt: roles.Prompt, reply: str, see: bool
    ) -> Instruction:
        self.got[subtask] += 1
        user = one_turn(prompt.system, prompt.user, see=see)
        return Instruction(
            id=f"{depiction.id}-{suffix}",
            clip_id=depiction.clip_id,
            kind=depiction.kind if see else "text",
            media=depiction.media if see else None,
            task=ROLES[subtask],
            turns=(Turn(user=user, assistant=reply),),
            mos=depiction.mos,
            tags={**depiction.tags, "subtask": subtask, "writer": self.made.writer},
        )


def _torn(lexicon: Lexicon, library: Library) -> set[str]:
    """Categories with distortions that different tools are best at."""
    best: dict[str, set[tuple[str | None, ...]]] = {}
    for name, attribute in lexicon.attributes.items():
        if name in library.known_as:
            tools = tuple(library.best(name, mode) for mode in (False, True))
            best.setdefault(attribute.category, set()).add(tools)
    return {category for category, found in best.items() if len(found) > 1}


def _grouped(about: Sequence[Seen], plan: schemas.Plan) -> dict[str, list[str]]:
    """Categories by object, each once; of the plan's scope every object."""
    made: dict[str, dict[str, None]] = {name: {} for name in plan.query_scope or [schemas.GLOBAL]}
    for seen in about:
        made.setdefault(_place(seen.object), {})[_canonical(seen)] = None
    return {name: list(found) for name, found in made.items()}


def _detection(detected: dict[str, list[str]]) -> schemas.Detection:
    return schemas.Detection(distortion_set=[{"object": n, "distortions": found} for n, found in detected.items()])


def _analysis(about: Sequence[Seen], detected: dict[str, list[str]]) -> schemas.Analysis:
    """What is known of the distortions that are asked about: each once, the strongest of its category."""
    made = []
    for name, asked in detected.items():
        found = [s for s in about if _place(s.object) == name]
        worst = {d: max((s for s in found if _canonical(s) == d), key=_strength) for d in asked}
        judged = [{"type": d, "severity": s.severity, "explanation": s.explanation} for d, s in worst.items()]
        made.append({"object": name, "findings": judged})
    return schemas.Analysis(distortion_analysis=made)


def _yes_or_no(answer: str) -> int:
    """The place of the first word among Yes and No, -1 where it is neither."""
    first = answer.partition(" ")[0].strip(",.;").casefold()
    return ("yes", "no").index(first) if first in ("yes", "no") else -1


def _strength(seen: Seen) -> int:
    return ("none", "slight", "moderate", "severe", "extreme").index(seen.severity)


def _place(name: str) -> str:
    return schemas.GLOBAL if name == GLOBAL else name


def _canonical(seen: Seen) -> str:
    name = distortion(seen.category)
    assert name is not None, f"{seen.category} is no distortion of the agent's"
    return name


def _json(reply: BaseModel) -> str:
    return reply.model_dump_json()
