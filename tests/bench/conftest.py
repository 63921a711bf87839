"""A scripted predictor that counts what it is asked, and small benchmark files on disk."""

import json
from pathlib import Path

import pytest

from vqa2.bench._paper import Column, PaperTable, Row
from vqa2.bench._runner import run
from vqa2.bench.scoring import Scoring
from vqa2.core.prompts import SCORE_QUESTION
from vqa2.core.records import Answer, Instruction, Turn, write_jsonl


class Scripted:
    """Answers from a table by id; an id under `broken` fails, one under `short` loses a key frame; `asked` lists every
    id in order."""

    def __init__(self, table, broken=(), stop_after=None, short=()):
        self.name, self.fingerprint = "scripted", "v1"
        self.table, self.broken, self.stop_after, self.short = dict(table), set(broken), stop_after, set(short)
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
            else Answer(id=q.id, dropped_key_frames=int(q.id in self.short), **{field: self.table[q.id]})
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


@pytest.fixture
def paper_table():
    """VQA²'s table 8 with one measured row, `Mix`; keyword arguments change fields."""

    def make(**changes):
        values = {
            "title": "T & co",
            "note": "raw",
            "published": "vqa2_table8_mixture_scoring.csv",
            "key": ("dataset", "metric"),
            "digits": 3,
            "produce": False,
            "columns": {f"{d} {m}": Column(benchmark=d, metric=("SRCC",) if m == "srcc" else ("PLCC raw",), scale=1.0)
                        for d in ("live-vqc", "lsvq-1080p", "lsvq-test", "konvid-1k") for m in ("srcc", "plcc")},
            "means": {},
            "parts": {},
            "unranked": (),
            "commands": (),
            "besides": (),
            "measured": {"Mix": Row(run="mix", of=None, minus=None, model=None,
                                    commands=("python eval.py run=mix benchmark={benchmark}",))},
        }  # fmt: skip
        return PaperTable(**(values | changes))

    return make


@pytest.fixture
def konvid(write_set, make_row, scripted, quiet, tmp_path):
    """Evaluates predictions of a known SRCC on `count` clips under the published protocol of 10."""

    def evaluate(count=10, label="konvid-1k", split="test", broken=(), short=()):
        rows = [make_row(n, SCORE_QUESTION, mos=9.0 * n, split=split) for n in range(count)]
        root = write_set("s.jsonl", rows)
        made = Scoring(label=label, root=str(root), prepare=None, file="s.jsonl", where={}, without=(), groups=(),
                       published_n=10, sources=(), batch_size=4, bootstrap=50, seed=0)  # fmt: skip
        order = [0.1, 0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]  # one swap of neighbours: SRCC = 1 - 12 / 990
        predictor = scripted({f"c{n}": order[n] for n in range(count)}, broken=broken, short=short)
        return run(made, predictor, tmp_path / "out" / f"{label}-{count}-{split}-{len(broken)}-{len(short)}", quiet)

    return evaluate
