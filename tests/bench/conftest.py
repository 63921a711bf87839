"""A scripted predictor that counts what it is asked, and small benchmark files on disk."""

import json
from pathlib import Path

import pytest

from vqa2.core.records import Answer, Instruction, Turn, write_jsonl


class Scripted:
    """Answers from a table by id; an id under `broken` fails; `asked` lists every id in order."""

    def __init__(self, table, broken=(), stop_after=None):
        self.name, self.fingerprint = "scripted", "v1"
        self.table, self.broken, self.stop_after = dict(table), set(broken), stop_after
        self.asked, self.calls, self.questions = [], 0, {}

    def score(self, queries):
        return self._reply(queries, "score01")

    def answer(self, queries):
        return self._reply(queries, "text")

    def _reply(self, queries, field):
        if self.stop_after is not None and self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        self.asked += [q.id for q in queries]
        self.questions.update({q.id: q.question for q in queries})
        return [
            Answer(id=q.id, error="cannot decode")
            if q.id in self.broken
            else Answer(id=q.id, **{field: self.table[q.id]})
            for q in queries
        ]


@pytest.fixture
def scripted():
    return Scripted


@pytest.fixture
def quiet():
    return lambda done, total: None


def instruction(number, user, assistant="", mos=None, kind="video", **tags):
    return Instruction(
        id=f"c{number}",
        clip_id=f"c{number}",
        kind=kind,
        media=f"media/test/c{number}.mp4",
        task="x",
        turns=(Turn(user=user, assistant=assistant),),
        mos=mos,
        tags=tags,
    )


@pytest.fixture
def write_set(tmp_path):
    """Writes instruction rows as `<name>` under a data root and returns the root."""

    def write(name, rows):
        write_jsonl(tmp_path / "data" / name, rows)
        return tmp_path / "data"

    return write


@pytest.fixture
def make_row():
    return instruction


@pytest.fixture
def write_json(tmp_path):
    def write(records) -> Path:
        path = tmp_path / "qbench.json"
        path.write_text(json.dumps(records), encoding="utf-8")
        return path

    return write
