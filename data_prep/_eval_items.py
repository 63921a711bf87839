"""The questions of the AgenticIQA-Eval-form benchmark: every answer follows from what was done to the picture, from the
planner's rules or from the stated strengths of tools."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep._degrade import SPATIAL
from data_prep._eval_media import Sample
from data_prep._lexicon import Lexicon
from data_prep._plans import GLOBAL, Library, Query, plan_of
from data_prep._trace_rules import Wording

YES_NO = ("Yes", "No")
Draw = Callable[[str, Sample, bool, np.random.Generator], "Item | None"]


@dataclass(frozen=True)
class Item:
    """A question; `options` has the answer first. `context` stands before it; `form` is what it asks for."""

    form: str
    context: str
    question: str
    options: tuple[str, ...]

    @property
    def kind(self) -> str:
        """yes-or-no, or the question's first word: what, which, how, why."""
        return "yes-or-no" if set(self.options) == set(YES_NO) else self.question.split()[0].lower()


@dataclass(frozen=True, kw_only=True)
class Bank:
    """What questions are made of; see conf/agentic_eval.yaml."""

    lexicon: Lexicon
    library: Library
    wording: Wording
    objects: Sequence[str]
    effects: dict[str, str]
    questions: dict[str, dict[str, str]]
    severities: Sequence[str]
    ssim: tuple[float, float, float, float, float]

    def draw(
        self, track: str, form: str, sample: Sample, reference: bool, rng: np.random.Generator, wanted: str | None
    ) -> Item | None:
        """A question of a form about a picture, answered `wanted` where that is given; None where there is none."""
        draw: dict[str, Draw] = {
            "planner": self._planner,
            "executor-distortion": self._distortion,
            "executor-tool": self._tool,
            "summarizer": self._summarizer,
        }
        for _ in range(32):
            made = draw[track](form, sample, reference, rng)
            if made is None or wanted in (None, made.options[0]):
                return made
        return None

    def answers(self, track: str, form: str) -> tuple[str, ...]:
        """`Yes` and `No` for the forms that they answer, to take turns; empty for others."""
        yes_no = {
            ("planner", "quality"),
            ("planner", "selection"),
            ("executor-distortion", "present"),
            ("executor-tool", "suits"),
            ("summarizer", "enough"),
        }
        return YES_NO if (track, form) in yes_no else ()

    def _planner(self, form: str, sample: Sample, reference: bool, rng: np.random.Generator) -> Item | None:
        query, name = self._query(rng, form)
        plan = plan_of(query, reference)
        context = f"Reference picture: {'given' if reference else 'not given'}. Query: {query.text}"
        if form == "object":
            options = (query.objects[0], *self._some([o for o in self.objects if o not in query.objects], 3, rng))
        elif form == "distortion":
            options = (name, *self._some(self._unlike([name]), 3, rng))
        elif form == "mode":
            both = ("With the reference picture", "Without a reference picture")
            options = both if plan["reference_mode"] == "Full-Reference" else both[::-1]
        else:
            yes = plan["query_type"] == "IQA" if form == "quality" else plan["plan"]["tool_selection"]
            options = YES_NO if yes else YES_NO[::-1]
        return Item(form, context, self.questions["planner"][form], tuple(options))

    def _query(self, rng: np.random.Generator, form: str) -> tuple[Query, str]:
        """A query and the distortion that it names; with a region for `object`, with a distortion for `distortion`."""
        local = form == "object" or (form != "mode" and rng.random() < 0.4)
        where = str(rng.choice(self.objects)) if local else ""
        place, objects = (f"the {where}", (where,)) if local else ("this image", ())
        if form == "quality" and rng.random() < 0.5:
            text = str(rng.choice(self.wording.other)).format(place=place)
            return Query(text=text, kind="Other", objects=objects), ""
        name = str(rng.choice(SPATIAL)) if form == "distortion" or rng.random() < 0.5 else ""
        bank = (*self.wording.binary, *self.wording.severity) if name else self.wording.why
        text = str(rng.choice(bank)).format(place=place, distortion=name)
        tools: tuple[str, ...] = ()
        if form != "object" and rng.random() < self.wording.tool_share:
            tools = (str(rng.choice(list(self.library.tools))),)
            text = self.wording.tool.format(tool=tools[0], query=text[0].lower() + text[1:])
        named = (self.lexicon.attributes[name].category,) if name else ()
        return Query(text=text, kind="IQA", objects=objects, distortions=named, tools=tools), name

    def _distortion(self, form: str, sample: Sample, reference: bool, rng: np.random.Generator) -> Item | None:
        there = list(sample.severities)
        name = there[int(rng.integers(len(there)))]
        context = "The second picture is the undistorted reference." if reference else ""
        if form == "severity":
            options = (sample.severities[name], *(s for s in self.severities if s != sample.severities[name]))
        elif form == "present":
            if rng.random() < 0.5:
                options = YES_NO
            else:
                name, options = self._some(self._unlike(there), 1, rng)[0], YES_NO[::-1]
        elif form == "category":
            of = {a: self.lexicon.attributes[a].category for a in SPATIAL}
            others = {of[a] for a in self._unlike(there)} - {of[a] for a in there}
            options = (of[name], *self._some(sorted(others), 3, rng))
        else:
            options = (name, *self._some(self._unlike(there), 3, rng))
        question = self.questions["executor-distortion"][form].format(distortion=name)
        return Item(form, context, question, tuple(options))

    def _tool(self, form: str, sample: Sample, reference: bool, rng: np.random.Generator) -> Item | None:
        name = list(sample.severities)[int(rng.integers(len(sample.severities)))]
        mode = self.library.mode(reference)
        context = "A reference picture is given." if reference else "No reference picture is given."
        known = self.library.known_as[name]
        if form == "best_at":
            stated = [t for t in mode if self.library.tools[t].strengths]
            tool = str(rng.choice(stated))
            strengths = self.library.tools[tool].strengths
            others = sorted({s for t in self.library.tools.values() for s in t.strengths} - set(strengths))
            question = self.questions["executor-tool"][form].format(tool=tool)
            return Item(form, context, question, (str(rng.choice(strengths)), *self._some(others, 3, rng)))
        if form == "suits":
            tool = str(rng.choice([t for t in mode if self.library.tools[t].strengths]))
            described = self.library.describe(tool)
            question = self.questions["executor-tool"][form].format(described=described, distortion=known)
            return Item(form, context, question, YES_NO if self.library.suits(tool, name) else YES_NO[::-1])
        best = self.library.best(name, reference)
        if best is None:
            return None
        # Wrong tools with strengths of their own first: beside "no known strengths" the right one stands out.
        others = self._some([t for t in mode if not self.library.suits(t, name)], len(mode), rng)
        others.sort(key=lambda t: not self.library.tools[t].strengths)
        listed = [best, *others[:3]]
        told = " ".join(f"{t}: {self.library.describe(t)}." for t in sorted(listed))
        question = self.questions["executor-tool"][form].format(distortion=known)
        return Item(form, f"{context} {told}", question, tuple(listed))

    def _summarizer(self, form: str, sample: Sample, reference: bool, rng: np.random.Generator) -> Item | None:
        there = list(sample.severities)
        entries = [{"type": a, "severity": s, "explanation": f"In the picture, {self.effects[a]}."}
                   for a, s in sample.severities.items()]  # fmt: skip
        context = f"Distortion analysis: {json.dumps({GLOBAL: entries})}."
        score = logistic(sample.ssim, self.ssim)
        if reference:
            context += f" Tool scores (1 to 5, larger is better): SSIM {score:.2f}."
        name, question = there[int(rng.integers(len(there)))], self.questions["summarizer"][form]
        if form == "grade":
            if not reference:
                return None
            grades = self.wording.grades
            right = grades[min(4, int((score - 1) / 0.8))]
            return Item(form, context, question, (right, *self._some([g for g in grades if g != right], 3, rng)))
        if form == "enough":
            yes = rng.random() < 0.5
            bank = self.wording.severity if yes else self.wording.other
            query = str(rng.choice(bank)).format(place="this image", distortion=name)
            return Item(form, f"{context} Query: {query}", question, YES_NO if yes else YES_NO[::-1])
        if form == "worst":
            if len(there) < 2 or len({*sample.severities.values()}) < 2:
                return None
            less, most = sorted(there, key=lambda a: self.severities.index(sample.severities[a]))
            return Item(form, context, question, (most, less, *self._some(self._unlike(there), 2, rng)))
        options = (name, *self._some(self._unlike(there), 3, rng))
        return Item(form, context, question.format(effect=self.effects[name]), options)

    def _unlike(self, there: Sequence[str]) -> list[str]:
        """Distortions that a picture with these neither has nor seems to have."""
        near = {*there, *(other for a in there for other in self.lexicon.attributes[a].alike)}
        return [a for a in SPATIAL if a not in near]

    def _some(self, values: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
        return [str(x) for x in rng.permutation(values)[:count]]


def logistic(raw: float, betas: tuple[float, float, float, float, float]) -> float:
    """A tool's raw value on 1-5: the five-parameter logistic in its standard form (the paper's print lacks the 1+)."""
    b1, b2, b3, b4, b5 = betas
    value = b1 * (0.5 - 1 / (1 + np.exp(b2 * (raw - b3)))) + b4 * raw + b5
    return float(np.clip(value, 1, 5))
