"""Instruction rows as benchmark items: shared checks of the sets that data_prep writes."""

from collections.abc import Sequence
from pathlib import Path

from vqa2.core.errors import DataError
from vqa2.core.prompts import SCORE_QUESTION
from vqa2.core.records import Instruction, Query, inside, read_jsonl


def rows_of(root: Path, file: str, tags: Sequence[str]) -> list[Instruction]:
    """The rows of an instruction set. DataError where a row has no media or lacks one of the tags."""
    path = root / file
    rows = read_jsonl(path, Instruction)
    for number, row in enumerate(rows, 1):
        if row.media is None:
            raise DataError(f"{path}:{number}: {row.id}: media: a clip is needed to be asked about")
        absent = [tag for tag in tags if tag not in row.tags]
        if absent:
            raise DataError(f"{path}:{number}: {row.id}: tags.{absent[0]}: missing; known: {', '.join(row.tags)}")
    return rows


def query_of(root: Path, row: Instruction) -> Query:
    """The row's first question, None for the plain scoring question, and its tag `prompt`, where it has one."""
    assert row.media is not None
    user = row.turns[0].user
    question = None if user == SCORE_QUESTION else user
    path, prompt = inside(root, row.media), row.tags.get("prompt")
    return Query(id=row.id, path=path, kind=row.kind, question=question, prompt=prompt)
