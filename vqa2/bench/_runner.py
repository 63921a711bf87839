"""Runs one benchmark against one predictor: asks in batches, keeps every answer at once, resumes per item, reports.

Batches are cut from the full list of items, neighbors in length together and the longest first, so that a resumed run
asks in the batches of an unbroken one. Several processes take every n-th batch each; the first one reports. Predictors
report what they cannot do per item (`Answer.error`); nothing is asked twice, replaced or left out of the counts.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vqa2.bench._answers import AnswerFile, read_answers
from vqa2.bench._items import Benchmark, Described, Item, OpenPredictor, Planner
from vqa2.bench._origin import origin
from vqa2.core.errors import DataError
from vqa2.core.records import Answer, Query, Report
from vqa2.core.run import environment, fingerprint

REPORT = "report.json"


@dataclass(frozen=True)
class Shard:
    """This process among those that share an evaluation; `barrier` returns when all have come to it."""

    rank: int
    world: int
    barrier: Callable[[], None]


ALONE = Shard(0, 1, lambda: None)


def run(
    benchmark: Benchmark,
    predictor: OpenPredictor,
    out: Path,
    advance: Callable[[int, int], None],
    shard: Shard = ALONE,
) -> Report | None:
    """The report, also written to `out/report.json`; answers go to `out/answers.jsonl`. None in all but the first of
    several processes.

    `advance(done, total)` is called once before the first question (with the answers found on disk) and after each
    batch, with the counts of this process. An interruption loses at most the batches that were being asked.
    """
    items = benchmark.items()
    check_ids(items, benchmark.label)
    asked = origin(benchmark, items)
    file = AnswerFile(out, _header(benchmark, predictor) | asked, _session(benchmark, predictor, shard))
    if shard.rank == 0:
        file.gather(items, failures=False)
    shard.barrier()
    known = read_answers(file.path)
    _ask_all(benchmark, predictor, items, known, file, advance, shard)
    shard.barrier()
    if shard.rank > 0:
        return None
    answers = file.gather(items, failures=True)
    report = benchmark.report(items, [answers[i.query.id] for i in items], predictor.name)
    assert len(report.failures) == report.n_failed, "every failure is listed and every listed item is a failure"
    short = sum(a.dropped_key_frames > 0 for a in answers.values())
    frames = (f"{short} items lost key frames to fit the model",) if short else ()
    made = asked | {"sessions": file.header["sessions"]}
    report = replace(report, deviations=(*report.deviations, *frames), provenance=made)
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


def _ask_all(
    benchmark: Benchmark,
    predictor: OpenPredictor,
    items: Sequence[Item],
    known: dict[str, Answer],
    file: AnswerFile,
    advance: Callable[[int, int], None],
    shard: Shard,
) -> None:
    """Asks what this process's batches lack, batch by batch."""
    batches = _batches(items, benchmark.batch_size, predictor)[shard.rank :: shard.world]
    missing = [[item for item in batch if item.query.id not in known] for batch in batches]
    total = sum(map(len, batches))
    done = total - sum(map(len, missing))
    advance(done, total)
    out = file if shard.world == 1 else file.part(shard.rank)
    with _planned(predictor, [item.query for batch in missing for item in batch]):
        for batch in filter(None, missing):
            out.append(batch, _ask(predictor, batch))
            done += len(batch)
            advance(done, total)


@contextmanager
def _planned(predictor: OpenPredictor, queries: Sequence[Query]) -> Iterator[None]:
    """Tells the predictor what is coming; after it, also after Ctrl-C, that nothing is: nobody decodes on."""
    plan = predictor.plan if isinstance(predictor, Planner) else lambda queries: None
    plan(queries)
    try:
        yield
    finally:
        plan(())


def _header(benchmark: Benchmark, predictor: OpenPredictor) -> dict[str, Any]:
    # How replies are graded is no part of it: graded otherwise, they are not asked for again. Batches can change last
    # digits.
    identity = [predictor.fingerprint, benchmark.batch_size]
    return {"fingerprint": fingerprint(identity), "benchmark": benchmark.label, "predictor": predictor.name}


def _session(benchmark: Benchmark, predictor: OpenPredictor, shard: Shard) -> dict[str, Any]:
    """What asks: the predictor's settings and checkpoint, versions, command."""
    described = predictor.provenance if isinstance(predictor, Described) else {}
    who = {"name": predictor.name, "fingerprint": predictor.fingerprint, **described}
    made = {"predictor": who, "processes": shard.world, "environment": environment(benchmark.seed)}
    return json.loads(json.dumps(made))


def _batches(items: Sequence[Item], size: int, predictor: OpenPredictor) -> list[Sequence[Item]]:
    """Runs of at most `size` items of one mode; the longest first where the predictor knows lengths, else in order."""
    modes = [[i for i in items if i.mode == mode] for mode in ("score", "answer")]
    if isinstance(predictor, Planner):
        modes = [sorted(some, key=lambda i: -predictor.length(i.query)) for some in modes]
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
    """A report that `run` wrote. DataError where there is none, or something else."""
    if not path.is_file():
        raise DataError(f"{path}: no such report")
    try:
        return TypeAdapter(Report).validate_json(path.read_bytes())
    except ValidationError as err:
        raise DataError(f"{path}: no report ({err.errors()[0]['msg'].lower()}); run the evaluation again") from None
