"""The official Q-Bench-Video JSON, read as released: `question_type` a string or a list, `answers`, `correct_choice`.

Questions about two videos (a `_cat_` name, or a Joint or Compare context) are set aside and named, as in the paper of
VQA², which reports single videos. `quality_concern` is absent from the released file and therefore optional.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqa2.core.errors import DataError
from vqa2.core.prompts import LETTERS
from vqa2.core.records import inside

CLOSED, OPEN = ("yes-or-no", "what/how"), "open_ended"


@dataclass(frozen=True, kw_only=True)
class Question:
    """One single-video question. `answers` is empty for open questions; `reference` is the right option's text or the
    open reference; `choice` its letter."""

    id: str
    path: Path
    text: str
    kind: str
    video_type: str
    concerns: tuple[str, ...]
    answers: tuple[str, ...]
    choice: str
    reference: str


def read_questions(
    file: Path, video_root: Path, reference_keys: Sequence[str]
) -> tuple[list[Question], list[tuple[str, str]]]:
    """The questions, and (video_name, reason) of the pairs. DataError names file, record and key."""
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    try:
        records = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as err:
        raise DataError(f"{file}: not JSON: {err}") from None
    if not isinstance(records, list):
        raise DataError(f"{file}: a list of records is needed, got {type(records).__name__}")
    questions, pairs = [], []
    for number, values in enumerate(records):
        record = _Record(file, number, values)
        reason = _pair(record)
        if reason:
            pairs.append((record.text("video_name"), reason))
        else:
            questions.append(_question(record, video_root, reference_keys))
    return questions, pairs


class _Record:
    """One record whose keys are taken with checks."""

    def __init__(self, file: Path, number: int, values: Any) -> None:
        self.where, self.number = f"{file}: record {number}", number
        if not isinstance(values, Mapping):
            raise DataError(f"{self.where}: an object is needed, got {type(values).__name__}")
        self.values = values

    def text(self, key: str) -> str:
        return self._strings(key, (str,))[0]

    def texts(self, key: str) -> list[str]:
        """A string or a list of strings, as a list."""
        return self._strings(key, (str, list))

    def error(self, key: str, problem: str) -> DataError:
        return DataError(f"{self.where}: {key}: {problem}")

    def _strings(self, key: str, types: tuple[type, ...]) -> list[str]:
        if key not in self.values:
            raise self.error(key, f"missing; the record has {', '.join(self.values)}")
        value = self.values[key]
        found = value if isinstance(value, list) else [value]
        if not isinstance(value, types) or not found or not all(isinstance(v, str) and v.strip() for v in found):
            raise self.error(key, f"text is needed, got {value!r}")
        return found


def _pair(record: _Record) -> str:
    if "_cat_" in record.text("video_name"):
        return "two videos (_cat_ name)"
    context = " ".join(record.texts("context"))
    return f"two videos ({context} context)" if "Joint" in context or "Compare" in context else ""


def _question(record: _Record, video_root: Path, reference_keys: Sequence[str]) -> Question:
    kinds = record.texts("question_type")
    kind = next((k for k in (*CLOSED, OPEN) if k in kinds), None)
    if kind is None:
        raise record.error("question_type", f"{', '.join(kinds)} is unknown; known: {', '.join((*CLOSED, OPEN))}")
    name = record.text("video_name")
    try:
        path = inside(video_root, name)
    except DataError as err:
        raise record.error("video_name", str(err)) from None
    answers, choice, reference = (), "", ""
    if kind == OPEN:
        reference = _reference(record, reference_keys)
    else:
        answers, choice = _options(record)
        reference = answers[LETTERS.index(choice)]
    return Question(
        id=f"{record.number:05d}-{name}",
        path=path,
        text=record.text("question"),
        kind=kind,
        video_type=record.text("video_type"),
        concerns=tuple(record.texts("quality_concern")) if "quality_concern" in record.values else (),
        answers=answers,
        choice=choice,
        reference=reference,
    )


def _options(record: _Record) -> tuple[tuple[str, ...], str]:
    answers = tuple(record.texts("answers"))
    if not 2 <= len(answers) <= len(LETTERS):
        raise record.error("answers", f"2 to {len(LETTERS)} options are needed, got {len(answers)}")
    choice, letters = record.text("correct_choice"), LETTERS[: len(answers)]
    if len(choice) != 1 or choice not in letters:
        raise record.error("correct_choice", f"one of {', '.join(letters)} is needed, got {choice!r}")
    return answers, choice


def _reference(record: _Record, keys: Sequence[str]) -> str:
    found = [key for key in keys if key in record.values]
    if not found:
        known = ", ".join(record.values)
        raise record.error(keys[0], f"no reference text under {', '.join(keys)}; the record has {known}")
    return record.text(found[0])
