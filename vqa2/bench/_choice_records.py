"""Multiple-choice files about images, in two forms: LLVisionQA of Q-Bench as released, and AgenticIQA-Eval.

`llvisionqa`: a list of `{"img_path", "question", "candidates", "correct_ans" (the option's text), "type", "concern"}`
with the released numbering of types and concerns; the test file has no `correct_ans`.
`agenticiqa`: AgenticIQA-Eval is described in the paper and not released, so the form is ours: a list of `{"track",
"image", "question", "answers", "correct_choice" (a letter)}`, with `reference` (the pristine image of a full-reference
question) and `evidence` (what the summarizer is told first) where there is any.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from vqa2.core.errors import DataError
from vqa2.core.prompts import LETTERS
from vqa2.core.records import inside

Form = Literal["llvisionqa", "agenticiqa"]
TYPES = ("yes-or-no", "how", "what")
CONCERNS = ("global distortion", "global other", "local distortion", "local other")
Track = Literal["planner", "executor-distortion", "executor-tool", "summarizer"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One question. `second` is the reference image; `choice` the right letter, empty where it is withheld; `axes` are
    the breakdowns: axis -> the question's value."""

    id: str
    path: Path
    second: Path | None
    text: str
    options: tuple[str, ...]
    choice: str
    axes: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class _LLVision:
    img_path: str
    question: str
    candidates: list[str]
    type: int
    concern: int
    correct_ans: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Agentic:
    track: Track
    image: str
    question: str
    answers: list[str]
    correct_choice: str
    reference: str | None = None
    evidence: str = ""


def read_choices(file: Path, media_root: Path, form: Form) -> list[Choice]:
    """Every question. DataError names file, record and key; a file that withholds only some answers is refused."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as err:
        raise DataError(f"{file}: not JSON: {err}") from None
    if not isinstance(values, list) or not values:
        raise DataError(f"{file}: a list of records is needed")
    kind, make = _FORMS[form]
    made = [
        _read(TypeAdapter(kind), make, record, f"{file}: record {n}", media_root) for n, record in enumerate(values)
    ]
    without = [c.id for c in made if not c.choice]
    if without and len(without) < len(made):
        raise DataError(
            f"{file}: {len(without)} of {len(made)} records have no right answer, the first is {without[0]}"
        )
    return [_numbered(n, c) for n, c in enumerate(made)]


def _read(adapter: TypeAdapter, make: Callable[[Any, Path], Choice], record: Any, where: str, root: Path) -> Choice:
    try:
        return make(adapter.validate_json(json.dumps(record), strict=True), root)
    except ValidationError as err:
        first = err.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise DataError(f"{where}: {key or 'record'}: {first['msg'].lower()}, got {first['input']!r:.80}") from None
    except DataError as err:
        raise DataError(f"{where}: {err}") from None


def _llvision(record: _LLVision, root: Path) -> Choice:
    options, right = _options(record.candidates, "candidates"), record.correct_ans
    if right is not None and options.count(right) != 1:
        raise DataError(f"correct_ans: {right!r} must be one of candidates, once")
    return Choice(
        id=record.img_path,
        path=inside(root, record.img_path),
        second=None,
        text=record.question,
        options=options,
        choice="" if right is None else LETTERS[options.index(right)],
        axes={
            "question type": _named(record.type, TYPES, "type"),
            "concern": _named(record.concern, CONCERNS, "concern"),
        },
    )


def _agentic(record: _Agentic, root: Path) -> Choice:
    options, reference = _options(record.answers, "answers"), record.reference
    if record.correct_choice not in tuple(LETTERS[: len(options)]):
        raise DataError(f"correct_choice: one of {', '.join(LETTERS[: len(options)])} is needed")
    return Choice(
        id=record.image,
        path=inside(root, record.image),
        second=inside(root, reference) if reference else None,
        text="\n".join(filter(None, [record.evidence, record.question])),
        options=options,
        choice=record.correct_choice,
        axes={"track": record.track},
    )


_FORMS: dict[str, tuple[Any, Callable[[Any, Path], Choice]]] = {
    "llvisionqa": (_LLVision, _llvision),
    "agenticiqa": (_Agentic, _agentic),
}


def _numbered(number: int, choice: Choice) -> Choice:
    """Several questions share an image, so that its name alone is no id."""
    return replace(choice, id=f"{number:05d}-{choice.id}")


def _options(found: list[str], key: str) -> tuple[str, ...]:
    if not 2 <= len(found) <= len(LETTERS):
        raise DataError(f"{key}: 2 to {len(LETTERS)} options are needed, got {len(found)}")
    return tuple(found)


def _named(number: int, names: tuple[str, ...], key: str) -> str:
    if number not in range(len(names)):
        raise DataError(f"{key}: 0 to {len(names) - 1} is needed, got {number}")
    return names[number]
