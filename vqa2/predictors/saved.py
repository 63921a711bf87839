"""Predictor `saved`: answers from disk by item id, of an earlier evaluation or of another program. No media are read.

A row is `{"id": ..., "score01": ...}` or `{"id": ..., "text": ...}` (or `"error"`); the answers.jsonl of an evaluation
is such a file. Rows of one id complete each other; two different values are an error.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from vqa2.core.config import register
from vqa2.core.errors import DataError
from vqa2.core.records import Answer, Query, json_object

_ANSWER = TypeAdapter(Answer)
_KEYS = {"id", "text", "score01", "levels", "error", "item", "dropped_key_frames"}


@register("predictor", "saved")
class Saved:
    """`answers`: a JSONL file, or a folder whose JSONL files (at any depth) are read together."""

    answers: str

    def open(self) -> "SavedPredictor":
        return SavedPredictor(Path(self.answers))


class SavedPredictor:
    """An id without a saved answer gives an Answer with `error`."""

    def __init__(self, path: Path) -> None:
        files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            raise DataError(f"{path}: no saved answers here (a JSONL file or a folder of them is needed)")
        digest = hashlib.sha256()
        self._answers: dict[str, Answer] = {}
        for file in files:
            digest.update(file.read_bytes())
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
                self._add(line, f"{file}:{number}", number == 1)
        self.name, self.fingerprint = str(path), digest.hexdigest()[:16]
        self.provenance = {"answers": str(path), "sha256": digest.hexdigest()}

    def score(self, queries: Sequence[Query]) -> list[Answer]:
        return [self._one(q, "score01") for q in queries]

    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        return [self._one(q, "text") for q in queries]

    def _one(self, query: Query, field: str) -> Answer:
        found = self._answers.get(query.id)
        if found is None:
            return Answer(id=query.id, error="no saved answer")
        values = asdict(found)
        if values[field] is None:
            return Answer(id=query.id, error=found.error or f"no saved {field}")
        return found

    def _add(self, line: str, where: str, first: bool) -> None:
        row = json_object(line, where)
        if first and "fingerprint" in row:
            return  # the header of an evaluation's answers file
        unknown = set(row) - _KEYS
        if unknown:
            raise DataError(f"{where}: {sorted(unknown)[0]}: unknown key; known: {', '.join(sorted(_KEYS))}")
        try:
            answer = _ANSWER.validate_python({k: v for k, v in row.items() if k != "item"})
        except ValidationError as err:
            problem = err.errors()[0]
            key = ".".join(str(part) for part in problem["loc"])
            raise DataError(f"{where}: {key}: {problem['msg'].lower()}") from None
        if answer.text is None and answer.score01 is None and answer.error is None:
            raise DataError(f"{where}: {answer.id}: one of text, score01 and error is needed")
        self._answers[answer.id] = _merged(self._answers.get(answer.id), answer, where)


def _merged(old: Answer | None, new: Answer, where: str) -> Answer:
    """Both rows of one id in one answer; an error gives way to a value (a failed item that was asked again)."""
    if old is None:
        return new
    values = asdict(old)
    for key, value in asdict(new).items():
        if key == "dropped_key_frames":
            values[key] = max(value, values[key])  # the texts of both rows differ in length
            continue
        if value is None or value == values[key]:
            continue
        if values[key] is not None and key != "error":
            raise DataError(f"{where}: {new.id}: {key}: two different saved answers")
        values[key] = value
    if values["text"] is not None or values["score01"] is not None:
        values["error"] = None
    return Answer(**values)
