"""Language models that grade open answers 0, 1 or 2, as Q-Bench-Video's authors ask gpt-4o to (its README), in several
rounds.

Departs from the README: every reply is kept (vqa2/core/llm.py), so grading again costs nothing and a killed run
continues; a round is told from the others by its seed; `Score:2` without a blank is read too. A round whose reply is no
grade counts in no mean and is reported; a question without any grade is not graded, and so is one with a round that
failed: it is asked again next time.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, MinLen

from vqa2.core.config import spec
from vqa2.core.errors import ConfigError
from vqa2.core.llm import Llm, LlmError, Reply, Request, open_llm
from vqa2.core.progress import bars
from vqa2.core.records import Metric
from vqa2.core.run import say
from vqa2.core.scale import bootstrap_interval

_SYSTEM = (
    "You are a helpful assistant that grades answers related to visual video quality. There are a lot of special terms "
    "or keywords related to video processing and photography. You will pay attention to the context of `quality "
    "evaluation' when grading."
)
_USER = (
    "Given the question [{question}], evaluate whether the response [{reply}] completely matches the correct answer "
    "[{reference}]. \nFirst, check the response and please rate score 0 if the response is not a valid answer.\n"
    "Please rate score 2 if the response completely or almost completely matches the correct answer on completeness, "
    "accuracy, and relevance. \nPlease rate score 1 if the response partly matches the correct answer on completeness, "
    "accuracy, and relevance.\nPlease rate score 0 if the response doesn't match the correct answer on completeness, "
    "accuracy, and relevance at all.\nPlease only provide the result in the following format: Score:"
)
_ROUNDS = 5
_DATE = r"-\d{4}-\d\d-\d\d"
_GRADE = re.compile(r"\s*(?:score)?\s*:?\s*([012])\s*\.?\s*", re.IGNORECASE)


@spec
class Judge:
    """`llms`: name -> component of kind llm, the first grades and the others are compared with it; components named
    `rules` are no judges. `rounds` per question. `budget`: what a run may cost at most by the estimate, null for no
    limit; 0 grades from the cache alone. `published`: the model that published figures were graded by; a dated version
    of it (`gpt-4o-2024-08-06`) counts as it, a smaller model (`gpt-4o-mini`) does not."""

    llms: Annotated[dict[str, dict[str, Any]], MinLen(1)]
    rounds: Annotated[int, Ge(1)]
    budget: Annotated[float, Ge(0)] | None
    give_up_after: Annotated[int, Ge(1)]
    cache: str
    published: str

    def named(self) -> dict[str, dict[str, Any]]:
        """The judges that are language models."""
        return {name: values for name, values in self.llms.items() if values.get("name") != "rules"}


@dataclass(frozen=True, kw_only=True)
class OpenAnswer:
    """One reply to grade."""

    id: str
    question: str
    reply: str
    reference: str


@dataclass(frozen=True)
class Verdict:
    """Grades of the rounds, None for a reply that is no grade; `error` where a round was not answered. `models`: who
    answered the rounds, where the endpoint says so."""

    rounds: tuple[int | None, ...]
    error: str = ""
    models: tuple[str, ...] = ()

    @property
    def valid(self) -> list[int]:
        return [g for g in self.rounds if g is not None]

    @property
    def mark(self) -> float | None:
        """Mean grade / 2; None where there is no grade."""
        return None if self.error or not self.valid else sum(self.valid) / len(self.valid) / 2

    @property
    def reason(self) -> str:
        """Why there is no mark."""
        if self.error:
            return f"judge: {self.error}"
        return "" if self.valid else f"judge: no grade in {len(self.rounds)} replies"

    @property
    def grade(self) -> int:
        """The lower median of the valid rounds, for agreement."""
        return sorted(self.valid)[(len(self.valid) - 1) // 2]


def check(judge: Judge, where: str) -> None:
    """ConfigError or DataError for a judge that cannot be opened; before anything is asked of the predictor."""
    for name, values in judge.named().items():
        if values["name"] == "http":
            open_llm(values, Path(judge.cache), f"{where}.llms.{name}")


def grade_all(judge: Judge, answers: Sequence[OpenAnswer], where: str) -> dict[str, dict[str, Verdict]]:
    """Judge -> id -> verdict. Says what it may cost first; ConfigError where that is over the budget."""
    return {
        name: _grade(open_llm(values, Path(judge.cache), f"{where}.llms.{name}"), name, judge, answers)
        for name, values in judge.named().items()
    }


def model_of(values: Mapping[str, Any]) -> str:
    """How a judge is called in reports: its model, or its component where that has none."""
    return values.get("model", values["name"])


def departures(judge: Judge, verdicts: Sequence[Verdict]) -> list[str]:
    """Why grades of the first judge are not comparable with published ones: no judge, another model, one that changes
    under its name, another temperature, another number of rounds."""
    if not judge.named():
        return ["open questions are not graded by a language model"]
    values, published = next(iter(judge.named().values())), judge.published
    asked, found = model_of(values), []
    names = [asked, *dict.fromkeys(m for v in verdicts for m in v.models if m != asked)]
    others = [name for name in names if not re.fullmatch(rf"{re.escape(published)}({_DATE})?", name)]
    if others:
        found.append(f"judge {', '.join(others)}, published with {published}")
    elif not re.fullmatch(rf".*{_DATE}", asked):
        found.append(f"judge {asked} names no dated model, which changes with time")
    for key in ("temperature", "top_p"):
        if values.get(key) is not None:
            same = ", so that all rounds are one" if key == "temperature" and not values[key] else ""
            found.append(f"judge with {key} {values[key]:g}{same}, published with the endpoint's default")
    if judge.rounds != _ROUNDS:
        found.append(f"{judge.rounds} rounds of the judge, published with {_ROUNDS}")
    return found


def agreement(
    first: Mapping[str, Verdict], second: Mapping[str, Verdict], name: str, *, bootstrap: int, seed: int
) -> tuple[Metric, ...]:
    """Cohen's kappa of two judges over the questions that both graded, plain and with quadratic weights."""
    both = [(v.grade, second[i].grade) for i, v in first.items() if v.mark is not None and second[i].mark is not None]
    pairs = np.asarray(both, int).reshape(-1, 2)
    made = []
    for kind, quadratic in (("", False), (", quadratic weights", True)):
        value = cohen_kappa(pairs, quadratic)
        lo, hi = bootstrap_interval(lambda i, q=quadratic: cohen_kappa(pairs[i], q), len(pairs), bootstrap, seed)
        defined = np.isfinite(value)
        note = "" if defined else "undefined: fewer than two different grades"
        made.append(Metric(name=f"kappa with {name}{kind}", value=float(value) if defined else None, n=len(pairs),
                           lo=lo if defined else None, hi=hi if defined else None, note=note))  # fmt: skip
    return tuple(made)


def cohen_kappa(pairs: np.ndarray, quadratic: bool) -> float:
    """Agreement of two raters beyond chance on grades 0, 1, 2 `[n, 2]`; nan where both give one and the same grade."""
    if not len(pairs):
        return float("nan")
    table = np.zeros((3, 3))
    np.add.at(table, tuple(pairs.T), 1 / len(pairs))
    distance = np.abs(np.subtract.outer(np.arange(3), np.arange(3)))
    cost = distance**2 if quadratic else distance > 0
    by_chance = float((cost * np.outer(table.sum(1), table.sum(0))).sum())
    return 1 - float((cost * table).sum()) / by_chance if by_chance else float("nan")


def read_grade(text: str) -> int | None:
    """`Score: 2`, `Score:2` or `2`, nothing beside it; None for anything else."""
    found = _GRADE.fullmatch(text)
    return int(found[1]) if found else None


def _grade(llm: Llm | None, name: str, judge: Judge, answers: Sequence[OpenAnswer]) -> dict[str, Verdict]:
    assert llm is not None
    requests = [_request(a, number) for a in answers for number in range(judge.rounds)]
    estimate = llm.estimate(requests)
    say(f"judge {name}: {len(answers)} answers x {judge.rounds} rounds: {estimate}")
    to_ask = estimate.requests - estimate.cached
    costly = estimate.cost is None or estimate.cost > (judge.budget or 0) or judge.budget == 0
    if judge.budget is not None and to_ask and costly:
        raise ConfigError(f"judge.budget: {judge.budget:g} is not enough for {estimate}; raise it or use null")
    with bars() as shown:
        tick = partial(shown.add, f"judge {name}", 1, len(requests))
        outcomes = list(llm.chat_all(requests, tick, judge.give_up_after))
    size = judge.rounds
    return {a.id: _verdict(outcomes[n * size : (n + 1) * size]) for n, a in enumerate(answers)}


def _verdict(outcomes: Sequence[Reply | LlmError]) -> Verdict:
    errors = [str(o) for o in outcomes if isinstance(o, LlmError)]
    if errors:
        return Verdict((), f"{len(errors)} of {len(outcomes)} rounds failed, the last: {errors[-1]}")
    replies = [o for o in outcomes if isinstance(o, Reply)]
    models = tuple(dict.fromkeys(r.usage.model for r in replies if r.usage.model))
    return Verdict(tuple(read_grade(r.text) for r in replies), models=models)


def _request(answer: OpenAnswer, number: int) -> Request:
    user = _USER.format(question=answer.question, reply=answer.reply, reference=answer.reference)
    messages = ({"role": "system", "content": _SYSTEM}, {"role": "user", "content": user})
    return Request(messages=messages, seed=number)
