"""A file of human depictions, and asking about each of them: rules or a language model, estimate, progress, failures.

Answers are used in the order of the depictions, whatever order they come in, so a run that was killed and continued
gives the same bytes. Memory holds ids and a few depictions at a time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from data_prep._files import Parts
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.llm import BadReply, Llm, LlmError, Reply, Request, Usage
from vqa2.core.progress import bars
from vqa2.core.records import Depiction
from vqa2.core.scale import level_of

FAILED = "failed.jsonl"
_DEPICTION = TypeAdapter(Depiction)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Who is asked what about each depiction: `request_of` for a language model, `by_rules` where `llm` is None.
    `max_cost`, `give_up_after`, `tolerate`: when the run stops, see conf/extend.yaml."""

    depictions: Path
    llm: Llm | None
    request_of: Callable[[Depiction], Request]
    by_rules: Callable[[Depiction], Any]
    max_cost: float | None
    give_up_after: int
    tolerate: int


def read_depictions(path: Path) -> Iterator[Depiction]:
    """The depictions of a JSONL file, one at a time. DataError names file and line of the first bad one."""
    if not path.is_file():
        raise DataError(f"{path}: no such file of depictions (docs/extend.md shows its form)")
    seen: dict[str, int] = {}
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                made = _DEPICTION.validate_json(line.decode("utf-8"))
            except UnicodeDecodeError as err:
                raise DataError(f"{path}:{number}: not UTF-8 (byte {err.start}); convert the file first") from None
            except ValidationError as err:
                first = err.errors()[0]
                where = ".".join(str(x) for x in first["loc"]) or "row"
                raise DataError(f"{path}:{number}: {where}: {first['msg'].lower()}") from None
            if made.id in seen:
                raise DataError(f"{path}:{number}: id {made.id!r} is that of line {seen[made.id]}")
            if not made.overall.strip():
                raise DataError(f"{path}:{number}: overall: empty")
            if made.mos is not None and not 0 <= made.mos <= 100:
                raise DataError(f"{path}:{number}: mos: {made.mos} is not on 0-100; scale it first")
            seen[made.id] = number
            yield made
    if not seen:
        raise DataError(f"{path}: holds no depictions")


def told(depiction: Depiction) -> dict[str, str]:
    """What a prompt's format may say of a depiction."""
    return {
        "overall": depiction.overall.strip(),
        "in_context": " ".join(depiction.in_context).strip() or "(nothing)",
        "level": "(unknown)" if depiction.mos is None else level_of(depiction.mos),
        "kind": depiction.kind,
    }


def write_all(
    job: Job, parts: Parts, add: Callable[[Depiction, Reply | BadReply], None], console: Console
) -> tuple[int, int]:
    """Gives every depiction and what was written about it to `add`; returns (depictions, those without an answer).

    Those without an answer are written to failed.jsonl of `parts`; DataError where they are more than `tolerate`.
    """
    total, failed = sum(1 for _ in read_depictions(job.depictions)), 0
    if job.llm is not None:
        _show_estimate(job, job.llm, console)
    with bars() as shown:
        for depiction, outcome in _outcomes(job):
            if isinstance(outcome, Reply | BadReply):
                add(depiction, outcome)
            else:
                failed += 1
                parts.write(FAILED, {"depiction": depiction.id, "reason": str(outcome)})
            shown.add("depictions", 1, total)
    if failed > job.tolerate:
        parts.keep(FAILED)
        raise DataError(
            f"{parts.folder}: {failed} of {total} depictions have no answer ({FAILED} lists them); the same command "
            "asks for those alone, tolerate=<number> finishes without them"
        )
    return total, failed


def _outcomes(job: Job) -> Iterator[tuple[Depiction, Reply | LlmError]]:
    """Depictions with what was written about them, in the order of the file."""
    if job.llm is None:
        for depiction in read_depictions(job.depictions):
            yield depiction, Reply(text="", parsed=job.by_rules(depiction), cached=True, usage=Usage())
        return
    requests = (job.request_of(d) for d in read_depictions(job.depictions))
    replies = job.llm.chat_all(requests, lambda: None, job.give_up_after)
    yield from zip(read_depictions(job.depictions), replies, strict=True)


def _show_estimate(job: Job, llm: Llm, console: Console) -> None:
    made = llm.estimate(job.request_of(d) for d in read_depictions(job.depictions))
    console.print(str(made), markup=False)
    if job.max_cost is not None and (made.cost is None or made.cost > job.max_cost):
        known = "unknown (set llm.price_prompt and llm.price_completion)" if made.cost is None else f"{made.cost:.2f}"
        raise ConfigError(f"max_cost: {job.max_cost:.2f}, but the run may cost {known}")
