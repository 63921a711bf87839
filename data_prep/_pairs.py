"""The question-answer pairs that a writer makes of one depiction, and what a pair must be to be used.

Writers give the answer and wrong options apart and no letters: letters are dealt later, evenly. A pair that fails a
check is refused with its reason; the others of its reply are kept.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Interval
from pydantic import BaseModel, ConfigDict

from data_prep._lexicon import Lexicon
from vqa2.core.config import spec
from vqa2.core.prompts import LETTERS

Kind = Literal["binary", "choice", "open", "temporal", "conversation"]
KINDS: tuple[Kind, ...] = ("binary", "choice", "open", "temporal", "conversation")
YES_NO = ("Yes", "No")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class YesNo(_Strict):
    """A question that yes or no answers."""

    question: str
    answer: Literal["Yes", "No"]


class Closed(_Strict):
    """A question with one right answer and wrong ones."""

    question: str
    answer: str
    distractors: tuple[str, ...]


class Plain(_Strict):
    """A question answered in free text; in a conversation, one turn."""

    question: str
    answer: str


class Pairs(_Strict):
    """The reply of a writer about one depiction. `conversation` holds the turns of one conversation."""

    binary: tuple[YesNo, ...]
    choice: tuple[Closed, ...]
    open: tuple[Plain, ...]
    temporal: tuple[Closed, ...]
    conversation: tuple[Plain, ...]


@dataclass(frozen=True)
class Pair:
    """One pair in a common form: `options` has the answer first and is empty for free text; `turns` is set for a
    conversation alone."""

    kind: Kind
    question: str
    answer: str
    options: tuple[str, ...] = ()
    turns: tuple[tuple[str, str], ...] = ()


@spec
class Limits:
    """What is refused: texts longer than so many characters, `distractors` outside (least, most), conversations of
    fewer `turns`, and `hidden` words that speak of the text instead of the clip (the model sees no depiction)."""

    question: Annotated[int, Ge(1)]
    answer: Annotated[int, Ge(1)]
    distractors: tuple[Annotated[int, Interval(ge=1, le=7)], Annotated[int, Interval(ge=1, le=7)]]
    turns: Annotated[int, Ge(1)]
    hidden: tuple[str, ...]


def pairs_of(reply: Pairs) -> Iterator[Pair]:
    """The pairs of a reply in a fixed order."""
    for item in reply.binary:
        wrong = YES_NO[1 - YES_NO.index(item.answer)]
        yield Pair("binary", item.question, item.answer, (item.answer, wrong))
    for item in reply.choice:
        yield Pair("choice", item.question, item.answer, (item.answer, *item.distractors))
    for item in reply.open:
        yield Pair("open", item.question, item.answer)
    for item in reply.temporal:
        yield Pair("temporal", item.question, item.answer, (item.answer, *item.distractors))
    if reply.conversation:
        turns = tuple((turn.question, turn.answer) for turn in reply.conversation)
        yield Pair("conversation", turns[0][0], turns[0][1], turns=turns)


def refusal(pair: Pair, limits: Limits, lexicon: Lexicon) -> str:
    """Why a pair may not be used; empty for a good one."""
    for question, answer in pair.turns or ((pair.question, pair.answer),):
        reason = text_refusal(question, answer, limits)
        if reason:
            return reason
    if pair.kind == "conversation":
        if len(pair.turns) < limits.turns:
            return f"a conversation of {len(pair.turns)} turns, {limits.turns} are needed"
        repeated = [q for q, n in Counter(plain(q) for q, _ in pair.turns).items() if n > 1]
        return f"the question {repeated[0]!r} is asked twice" if repeated else ""
    if pair.kind == "temporal" and not lexicon.says_time(pair.question):
        return "a temporal question that does not speak of time"
    return options_refusal(pair.options, limits, lexicon) if pair.kind in ("choice", "temporal") else ""


def options_refusal(options: tuple[str, ...], limits: Limits, lexicon: Lexicon) -> str:
    """Why the wrong options (all but the first) do not stand beside the right one; empty where they do."""
    answer, *wrong = options
    least, most = limits.distractors
    if not least <= len(wrong) <= min(most, len(LETTERS) - 1):
        return f"{len(wrong)} distractors, {least} to {most} are needed"
    if len({plain(w) for w in wrong}) < len(wrong):
        return "two distractors are the same"
    right, meant = plain(answer), lexicon.meaning(answer)
    for text in wrong:
        if not plain(text):
            return "an empty distractor"
        if plain(text) == right:
            return f"the distractor {text!r} is the answer"
        if re.search(r"\b(all|none|both|any) of (the )?(above|these|them)\b", text, re.IGNORECASE):
            return f"the distractor {text!r} speaks of the other options"
        if _inside(plain(text), right) or _inside(right, plain(text)):
            return f"the distractor {text!r} and the answer {answer!r} contain each other"
        if meant and lexicon.meaning(text) == meant:
            return f"the distractor {text!r} means the answer {answer!r}"
    return ""


def plain(text: str) -> str:
    """A text without case, punctuation and articles, for comparison."""
    words = re.findall(r"\w+", text.casefold())
    return " ".join(w for w in words if w not in ("a", "an", "the"))


def _inside(short: str, long: str) -> bool:
    """Whether all words of one text stand in the other in a row."""
    return f" {short} " in f" {long} "


def text_refusal(question: str, answer: str, limits: Limits) -> str:
    """Why two texts that the model will see may not be used; empty for good ones."""
    if not question.strip() or not answer.strip():
        return "an empty question or answer"
    if len(question) > limits.question or len(answer) > limits.answer:
        return f"{len(question)} and {len(answer)} characters, at most {limits.question} and {limits.answer}"
    if "<video>" in question + answer or "<motion>" in question + answer:
        return "holds a media mark"
    for word in limits.hidden:
        if re.search(rf"\b{word}\b", f"{question} {answer}", re.IGNORECASE):
            return f"speaks of a text that the model does not see: {word!r}"
    return ""
