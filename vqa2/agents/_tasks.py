"""The dispatcher: what kind of reply a question wants (AgenticIQA never says which of its two summarizers answers)."""

import re
from dataclasses import dataclass
from typing import Literal

from vqa2.core.prompts import INSTRUCTION, LETTERS, SCORE_QUESTION

_OPTION = re.compile(r"^\s*\(?([A-H])[.):]\)?\s+(.+?)\s*$")
_AUXILIARY = re.compile(
    r"^(is|are|was|were|do|does|did|has|have|had|can|could|would|should|will)\b", re.IGNORECASE
)  # fmt: skip
_RATING = re.compile(r"\b(rate|rating|score)\b.*\bquality\b|\bquality\b.*\b(rating|score)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Task:
    """`question` is the text without media marks, options and instruction; `asked` is all of it. `reply`: whether an
    option is given back by its letter or its text."""

    kind: Literal["score", "choice", "yes-no", "open"]
    question: str
    asked: str
    options: tuple[str, ...] = ()
    reply: Literal["letter", "text"] = "text"


def dispatch(question: str | None, want: Literal["score", "answer", "auto"]) -> Task:
    """The task of a question. `want` is what the caller is sure of; `auto` reads it off the words."""
    if question is None or question == SCORE_QUESTION or want == "score":
        return Task(kind="score", question=_bare(question or ""), asked=question or SCORE_QUESTION)
    options = _options(question)
    text = _bare(question)
    if options:
        kind = "yes-no" if {o.casefold().rstrip(".") for o in options} == {"yes", "no"} else "choice"
        reply = "text" if INSTRUCTION["text"] in question else "letter"
        return Task(kind=kind, question=text, asked=question, options=options, reply=reply)
    if _AUXILIARY.match(text):
        return Task(kind="yes-no", question=text, asked=question, options=("Yes", "No"))
    if want == "auto" and _RATING.search(text):
        return Task(kind="score", question=text, asked=question)
    return Task(kind="open", question=text, asked=question)


def reply_of(task: Task, index: int) -> str:
    """The text that gives option `index` back, worded as our models are trained to reply."""
    said = LETTERS[index] if task.reply == "letter" else task.options[index].rstrip(".")
    return f"{said}."


def _options(question: str) -> tuple[str, ...]:
    """The lettered options, where they run from A on without a gap."""
    found = [m for line in question.splitlines() if (m := _OPTION.match(line))]
    letters = "".join(m[1] for m in found)
    return tuple(m[2] for m in found) if len(found) >= 2 and LETTERS.startswith(letters) else ()


def _bare(question: str) -> str:
    lines = [line.replace("<video>", "").replace("<motion>", "").strip() for line in question.splitlines()]
    kept = [line for line in lines if line and line not in INSTRUCTION.values() and not _OPTION.match(line)]
    return " ".join(kept)
