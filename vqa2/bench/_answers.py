"""The answers file of one evaluation: a header line, then one answer a line, appended as soon as it is given.

The header ties the file to a predictor and a batch size; a file of another pair is set aside (`*.stale`). Each row
carries a key of what was asked (question, kind, file name and size), so an answer is used again only for the same item;
answers of failed items are dropped on loading and asked again.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
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
    prompt = [] if query.prompt is None else [query.prompt]
    return fingerprint([item.mode, query.kind, query.question, *prompt, *sizes])


class AnswerFile:
    """The answers in a folder. Processes that share the work append to files of their own (`answers.part<rank>.jsonl`),
    which `gather` unites. `header["fingerprint"]` tells whose answers they are, the rest of the header what was asked
    last; `session` describes the run that asks and is kept in the header beside those that asked before."""

    def __init__(self, folder: Path, header: Mapping[str, Any], session: Mapping[str, Any]) -> None:
        self.path, self.session = folder / ANSWERS, dict(session)
        self.header: dict[str, Any] = {**header, "sessions": []}

    def gather(self, items: Sequence[Item], failures: bool) -> dict[str, Answer]:
        """Unites all files into one and returns its answers by item id: those to these very items, failed ones only
        with `failures` (without, they are asked again). One process at a time."""
        keys = {item.query.id: item_key(item) for item in items}
        found, sessions = self._earlier()
        good = {r["id"]: r for r in found if keys.get(r["id"]) == r["item"] and (failures or r["error"] is None)}
        if len(good) < len(items) and self.session not in sessions:
            sessions = [*sessions, self.session]
        self.header["sessions"] = sessions
        self._write(self.path, good.values())
        for part in self._parts():
            part.unlink()
        return {row["id"]: _answer(row) for row in good.values()}

    def part(self, rank: int) -> "AnswerFile":
        """The empty file that one of several processes appends to."""
        made = AnswerFile(self.path.parent, self.header, self.session)
        made.path = self.path.with_name(f"{self.path.stem}.part{rank}.jsonl")
        made._write(made.path, [])
        return made

    def append(self, items: Iterable[Item], answers: Iterable[Answer]) -> None:
        """Writes the answers of a batch to disk."""
        lines = [json.dumps({"item": item_key(i), **asdict(a)}) for i, a in zip(items, answers, strict=True)]
        with self.path.open("a", encoding="utf-8") as out:
            out.write("".join(line + "\n" for line in lines))

    def _parts(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.stem}.part*.jsonl"))

    def _earlier(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Rows of all files and the sessions that asked them; files of another fingerprint are set aside."""
        found, sessions = [], []
        for path in (self.path, *self._parts()):
            if not path.is_file():
                continue
            header, rows = read_rows(path)
            if header["fingerprint"] != self.header["fingerprint"]:
                path.replace(path.with_name(f"{path.name}.{header['fingerprint']}.stale"))
                continue
            found += rows
            sessions += [s for s in header["sessions"] if s not in sessions]
        return found, sessions

    def _write(self, path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_text("".join(json.dumps(row) + "\n" for row in [self.header, *rows]), encoding="utf-8")
        part.replace(path)


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
        needed = {"fingerprint", "sessions"} if number == 1 else {"id", "item", "error"}
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
