"""The answers file of one evaluation: a header line, then one answer a line, appended as soon as it is given.

The header ties the file to a predictor and a batch size; a file of another pair is set aside (`*.stale`). Each row
carries a key of what was asked (question, kind, file name and size), so an answer is used again only for the same item;
answers of failed items are dropped on loading and asked again.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vqa2.bench._items import Item
from vqa2.core.errors import DataError
from vqa2.core.records import Answer
from vqa2.core.run import fingerprint

ANSWERS = "answers.jsonl"
_ANSWER = TypeAdapter(Answer)


def item_key(item: Item) -> str:
    """What was asked of which file: two items with equal keys have the same answer."""
    query = item.query
    files = [path for path in (query.path, query.second) if path is not None]
    sizes = [(path.name, path.stat().st_size if path.is_file() else None) for path in files]
    return fingerprint([item.mode, query.kind, query.question, *sizes])


class AnswerFile:
    """`header["fingerprint"]` identifies benchmark configuration and predictor."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path, self.header = path, dict(header)

    def resume(self, items: Iterable[Item]) -> dict[str, Answer]:
        """Good answers of an earlier run by item id; leaves a file that holds just those, ready to append to."""
        keys = {item.query.id: item_key(item) for item in items}
        rows = [row for row in self._earlier() if keys.get(row["id"]) == row["item"] and row["error"] is None]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(self.path.name + ".part")
        part.write_text("".join(json.dumps(row) + "\n" for row in [self.header, *rows]), encoding="utf-8")
        part.replace(self.path)
        return {row["id"]: _answer(row) for row in rows}

    def append(self, items: Iterable[Item], answers: Iterable[Answer]) -> None:
        """Writes the answers of a batch to disk."""
        lines = [json.dumps({"item": item_key(i), **asdict(a)}) for i, a in zip(items, answers, strict=True)]
        with self.path.open("a", encoding="utf-8") as out:
            out.write("".join(line + "\n" for line in lines))

    def _earlier(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        header, rows = read_rows(self.path)
        if header == self.header:
            return rows
        self.path.replace(self.path.with_name(f"{self.path.name}.{header['fingerprint']}.stale"))
        return []


def read_rows(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and rows. A last line cut short by a kill is dropped; any other malformed line is a DataError."""
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = []
    # A whole file ends in a newline, so the last piece is empty; otherwise it is the line that was being written.
    for number, line in enumerate(lines[:-1], 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            raise DataError(f"{path}:{number}: not a line of JSON; delete the file to ask again") from None
        needed = {"fingerprint"} if number == 1 else {"id", "item", "error"}
        if not isinstance(rows[-1], dict) or not needed <= set(rows[-1]):
            raise DataError(f"{path}:{number}: not a line of an answers file; delete the file to ask again")
    if not rows:
        raise DataError(f"{path}: an answers file without a header; delete the file to ask again")
    return rows[0], rows[1:]


def read_answers(path: Path) -> dict[str, Answer]:
    """Every answer of a finished evaluation by item id, failures included."""
    return {row["id"]: _answer(row) for row in read_rows(path)[1]}


def _answer(row: Mapping[str, Any]) -> Answer:
    try:
        return _ANSWER.validate_python({key: value for key, value in row.items() if key != "item"})
    except ValidationError as err:
        problem = err.errors()[0]["msg"].lower()
        raise DataError(f"answer {row['id']}: {problem}; delete the file to ask again") from None
