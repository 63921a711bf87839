"""Runs one benchmark against one predictor: asks in batches, keeps every answer at once, resumes per item, reports.

Batches are cut from the full list of items, so that a resumed run asks in the batches of an unbroken one. Predictors
report what they cannot do per item (`Answer.error`); nothing is asked twice, replaced or left out of the counts.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import TypeAdapter

from vqa2.bench._answers import ANSWERS, AnswerFile
from vqa2.bench._items import Benchmark, Item, OpenPredictor
from vqa2.core.errors import DataError
from vqa2.core.records import Answer, Report
from vqa2.core.run import fingerprint

REPORT = "report.json"


def run(benchmark: Benchmark, predictor: OpenPredictor, out: Path, advance: Callable[[int, int], None]) -> Report:
    """The report, also written to `out/report.json`; answers go to `out/answers.jsonl`.

    `advance(done, total)` is called once before the first question (with the answers found on disk) and after each
    batch. An interruption loses at most the batch that was being asked.
    """
    items = benchmark.items()
    check_ids(items, benchmark.label)
    file = AnswerFile(out / ANSWERS, _header(benchmark, predictor))
    known = file.resume(items)
    advance(len(known), len(items))
    for batch in _batches(items, benchmark.batch_size):
        missing = [item for item in batch if item.query.id not in known]
        if missing:
            answers = _ask(predictor, missing)
            file.append(missing, answers)
            known.update({a.id: a for a in answers})
            advance(len(known), len(items))
    report = benchmark.report(items, [known[i.query.id] for i in items], predictor.name)
    assert len(report.failures) == report.n_failed, "every failure is listed and every listed item is a failure"
    write_report(out / REPORT, report)
    return report


def check_ids(items: Sequence[Item], label: str) -> None:
    """DataError for a benchmark without items or with an id twice: answers are kept by id."""
    if not items:
        raise DataError(f"{label}: the benchmark has no items")
    seen: set[str] = set()
    for item in items:
        if item.query.id in seen:
            raise DataError(f"{label}: the id {item.query.id} occurs twice")
        seen.add(item.query.id)


def _header(benchmark: Benchmark, predictor: OpenPredictor) -> dict[str, str]:
    # How replies are graded is no part of it: graded otherwise, they are not asked for again. Batches can change last
    # digits.
    identity = [predictor.fingerprint, benchmark.batch_size]
    return {"fingerprint": fingerprint(identity), "benchmark": benchmark.label, "predictor": predictor.name}


def _batches(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Runs of at most `size` items of one mode, in order."""
    modes = [[i for i in items if i.mode == mode] for mode in ("score", "answer")]
    return [some[start : start + size] for some in modes for start in range(0, len(some), size)]


def _ask(predictor: OpenPredictor, items: Sequence[Item]) -> list[Answer]:
    verb = predictor.score if items[0].mode == "score" else predictor.answer
    answers = verb([item.query for item in items])
    assert [a.id for a in answers] == [i.query.id for i in items], f"{predictor.name}: one answer per query, in order"
    return [_checked(answer, item.mode) for answer, item in zip(answers, items)]


def _checked(answer: Answer, mode: str) -> Answer:
    """The answer, or a failure where it does not hold what was asked for."""
    if answer.error is not None:
        return answer
    if mode == "answer":
        return answer if answer.text is not None else Answer(id=answer.id, error="the predictor gave no text")
    if answer.score01 is None:
        return Answer(id=answer.id, error="the predictor gave no score")
    if not (math.isfinite(answer.score01) and 0.0 <= answer.score01 <= 1.0):
        return Answer(id=answer.id, error=f"score01 {answer.score01} is not in [0, 1]")
    return replace(answer, score01=float(answer.score01))


def write_report(path: Path, report: Report) -> None:
    """The report as JSON, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(asdict(report), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)


def read_report(path: Path) -> Report:
    """A report that `run` wrote. DataError where there is none."""
    if not path.is_file():
        raise DataError(f"{path}: no such report")
    return TypeAdapter(Report).validate_json(path.read_bytes())
