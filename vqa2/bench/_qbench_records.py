"""The official Q-Bench-Video JSON, read as released: `question_type` a string or a list, `answers`, `correct_choice`.

Questions about two videos (a `<first>_cat_<second>.mp4` name, or a Joint or Compare context) are set aside and named
where the caller does not want them, as in the paper of VQA², which reports single videos. `quality_concern` is absent
from the released file and therefore optional, or joined from another file. A file without any right answer (the test
set's are withheld) is read; one that lacks some is an error.
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
_CAT = "_cat_"


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question. `second` is the other video of a pair. `answers` is empty for open questions; `reference` is the
    right option's text or the open reference, `choice` the option's letter; both empty where answers are withheld."""

    id: str
    path: Path
    second: Path | None
    context: str
    text: str
    kind: str
    video_type: str
    concerns: tuple[str, ...]
    answers: tuple[str, ...]
    choice: str
    reference: str


@dataclass(frozen=True, kw_only=True)
class Questions:
    """`excluded`: (video_name, reason) of the pairs that were left out. `withheld`: the file holds no right answers."""

    kept: tuple[Question, ...]
    excluded: tuple[tuple[str, str], ...]
    withheld: bool


Concerns = Mapping[tuple[str, str], tuple[str, ...]]
"""(video_name, question) -> quality concerns."""


def read_concerns(file: Path) -> Concerns:
    """Of a file whose records have `video_name`, `question` and `quality_concern`. DataError where one question has
    two different answers."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for record in _records(file):
        key, concerns = (record.text("video_name"), record.text("question")), tuple(record.texts("quality_concern"))
        if found.setdefault(key, concerns) != concerns:
            raise record.error("quality_concern", f"{concerns} here and {found[key]} before, of the same question")
    return found


def read_questions(
    file: Path, video_root: Path, reference_keys: Sequence[str], pairs: bool, concerns: Concerns
) -> Questions:
    """The questions of a file, those about two videos only with `pairs`; `concerns` are for records that have none of
    their own. DataError names file, record and key, and `concerns` of which no question is here."""
    read = _records(file)
    if concerns and not any((r.values.get("video_name"), r.values.get("question")) in concerns for r in read):
        raise DataError(f"{file}: no question is one of those in the file of concerns")
    keys = ("correct_choice", *reference_keys)
    withheld = not any(key in record.values for record in read for key in keys)
    kept, excluded = [], []
    for record in read:
        reason = _pair(record)
        if reason and not pairs:
            excluded.append((record.text("video_name"), reason))
        else:
            kept.append(_question(record, video_root, None if withheld else reference_keys, concerns))
    return Questions(kept=tuple(kept), excluded=tuple(excluded), withheld=withheld)


def _records(file: Path) -> list["_Record"]:
    try:
        records = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as err:
        raise DataError(f"{file}: not JSON: {err}") from None
    if not isinstance(records, list):
        raise DataError(f"{file}: a list of records is needed, got {type(records).__name__}")
    return [_Record(file, number, values) for number, values in enumerate(records)]


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
    if _CAT in record.text("video_name"):
        return "two videos (_cat_ name)"
    context = _context(record)
    return f"two videos ({context} context)" if "Joint" in context or "Compare" in context else ""


def _context(record: _Record) -> str:
    return " ".join(record.texts("context"))


def _question(record: _Record, video_root: Path, reference_keys: Sequence[str] | None, concerns: Concerns) -> Question:
    """`reference_keys` is None where answers are withheld."""
    kinds = record.texts("question_type")
    kind = next((k for k in (*CLOSED, OPEN) if k in kinds), None)
    if kind is None:
        raise record.error("question_type", f"{', '.join(kinds)} is unknown; known: {', '.join((*CLOSED, OPEN))}")
    path, second = _paths(record, video_root)
    answers = () if kind == OPEN else _options(record)
    choice = reference = ""
    if reference_keys is not None:
        choice = "" if kind == OPEN else _choice(record, len(answers))
        reference = answers[LETTERS.index(choice)] if choice else _reference(record, reference_keys)
    name, text = record.text("video_name"), record.text("question")
    told = record.texts("quality_concern") if "quality_concern" in record.values else concerns.get((name, text), ())
    return Question(
        id=f"{record.number:05d}-{name}",
        path=path,
        second=second,
        context=_context(record),
        text=text,
        kind=kind,
        video_type=record.text("video_type"),
        concerns=tuple(told),
        answers=answers,
        choice=choice,
        reference=reference,
    )


def _paths(record: _Record, video_root: Path) -> tuple[Path, Path | None]:
    """The video, or the two of a pair: `<first.mp4>_cat_<second.mp4>.mp4` names both."""
    first, mark, second = record.text("video_name").partition(_CAT)
    if _pair(record) and not mark:
        raise record.error("video_name", f"a question about two videos needs {_CAT} between their names, got {first!r}")
    try:
        return inside(video_root, first), inside(video_root, second.removesuffix(".mp4")) if mark else None
    except DataError as err:
        raise record.error("video_name", str(err)) from None


def _options(record: _Record) -> tuple[str, ...]:
    answers = tuple(record.texts("answers"))
    if not 2 <= len(answers) <= len(LETTERS):
        raise record.error("answers", f"2 to {len(LETTERS)} options are needed, got {len(answers)}")
    return answers


def _choice(record: _Record, count: int) -> str:
    choice, letters = record.text("correct_choice"), LETTERS[:count]
    if len(choice) != 1 or choice not in letters:
        raise record.error("correct_choice", f"one of {', '.join(letters)} is needed, got {choice!r}")
    return choice


def _reference(record: _Record, keys: Sequence[str]) -> str:
    found = [key for key in keys if key in record.values]
    if not found:
        known = ", ".join(record.values)
        raise record.error(keys[0], f"no reference text under {', '.join(keys)}; the record has {known}")
    return record.text(found[0])
