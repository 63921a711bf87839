"""The trace: one JSON per item with everything that came from outside, so that the run can be repeated without it.

A router or agent is a deterministic program around calls to models, tools and the file system. Every such call goes
through a tape: `Recorder` makes the call and keeps request, reply or error, and seconds; `Player` gives the recorded
outcome to the same program, which must ask for the same things in the same order. What the program derives from them
(plan, calibrated scores, weights, answer, spending) is computed again, so a replay that ends in the same bytes proves
that nothing else had a part in the result. Times are recorded outcomes too: a budget in seconds replays exactly.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import TypeAdapter, ValidationError

from vqa2.core.errors import DataError, UserError
from vqa2.core.llm import LlmUnavailable

VERSION = 4
Kind = Literal["probe", "gate", "chat", "levels", "options", "say", "tool", "localize"]
Plain = dict[str, Any]


class StepFailed(UserError):
    """A call that ended in an error which belongs to this item; it is in the trace. `reply` is what came before it."""

    def __init__(self, reason: str, reply: Plain | None = None) -> None:
        super().__init__(reason)
        self.reason, self.reply = reason, reply


@dataclass(frozen=True, kw_only=True)
class Step:
    """One call: `request` is all that was asked, `reply` plain JSON; with `error`, what there was before it failed."""

    kind: Kind
    request: Plain
    reply: Plain | None
    error: str | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One item. `config`: every value and tool card that decides the result; `notes`: fallbacks and what they were
    for; `working`: what was derived on the way (plan, scores, weights, evidence); `result`: what was answered."""

    version: int
    program: Literal["router", "agent"]
    config: Plain
    query: Plain
    steps: tuple[Step, ...]
    notes: tuple[str, ...]
    working: Plain
    result: Plain
    spending: Plain


class Tape(Protocol):
    """The only way from a program to the outside."""

    steps: list[Step]

    def do(self, kind: Kind, request: Plain, call: Callable[[], Plain]) -> Plain:
        """The reply to a request. StepFailed where the call failed for this item."""


class Recorder:
    """Makes the calls. User errors and time-outs belong to the item; a model that can answer nothing at all
    (LlmUnavailable) stops the run instead."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def do(self, kind: Kind, request: Plain, call: Callable[[], Plain]) -> Plain:
        asked, start, error = plain(request), time.perf_counter(), None
        try:
            reply = plain(call())
        except LlmUnavailable:
            raise
        except StepFailed as err:
            reply, error = plain(err.reply), err.reason
        except UserError as err:
            reply, error = None, str(err)
        seconds = round(time.perf_counter() - start, 6)
        self.steps.append(Step(kind=kind, request=asked, reply=reply, error=error, seconds=seconds))
        return _outcome(self.steps[-1])


class Player:
    """Gives recorded outcomes in order. DataError where the program asks for something else."""

    def __init__(self, recorded: tuple[Step, ...]) -> None:
        self.recorded, self.steps = recorded, []

    def do(self, kind: Kind, request: Plain, call: Callable[[], Plain]) -> Plain:
        number = len(self.steps)
        if number == len(self.recorded):
            raise DataError(f"trace: step {number} ({kind}) was never recorded: this version asks for more")
        step = self.recorded[number]
        if (step.kind, step.request) != (kind, plain(request)):
            raise DataError(f"trace: step {number} recorded {step.kind}, this version asks for another {kind}")
        self.steps.append(step)
        return _outcome(step)


def _outcome(step: Step) -> Plain:
    if step.error is not None:
        raise StepFailed(step.error, step.reply)
    assert step.reply is not None
    # A copy: what the program does with a reply must not reach the trace.
    return json.loads(json.dumps(step.reply))


def plain(values: Any) -> Any:
    """Values as JSON gives them back: tuples become lists, so that live and replayed runs compare equal."""
    return json.loads(json.dumps(values, allow_nan=False))


def spending(steps: list[Step]) -> Plain:
    """What a run cost: seconds, experts run, tries at a chat model (cached ones and refused replies too), calls of our
    own model, tokens and money where a price is known."""
    chats = [s for s in steps if s.kind in ("gate", "chat", "options", "levels", "say")]
    usage = [s.reply.get("usage", {}) for s in chats if s.reply]
    costs = [s.reply.get("cost") for s in chats if s.reply and "cost" in s.reply]
    return {
        "seconds": round(sum(s.seconds for s in steps), 6),
        "experts": sum(s.kind == "tool" for s in steps),
        "llm_calls": sum(_tries(s) for s in chats if "messages" in s.request),
        "model_calls": sum(
            s.kind in ("gate", "levels", "options", "say") and "messages" not in s.request for s in chats
        ),
        "prompt_tokens": sum(u.get("prompt_tokens", 0) for u in usage),
        "completion_tokens": sum(u.get("completion_tokens", 0) for u in usage),
        "cost": None if None in costs else round(sum(costs), 9),
    }


def _tries(step: Step) -> int:
    """How often the chat model was asked: once for each refused reply and once for the one that was taken."""
    refused = len((step.reply or {}).get("rejected", ()))
    return refused + 1 if step.error is None else max(1, refused)


@dataclass
class Notes:
    """Fallbacks and refusals of one item, in order, each once."""

    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        if line not in self.lines:
            self.lines.append(line)


def dumps(trace: Trace) -> str:
    """The trace as text; equal traces give equal bytes. Keys keep their order: prompts list types and experts in it."""
    return json.dumps(asdict(trace), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_trace(path: Path, trace: Trace) -> None:
    """Writes one trace atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(dumps(trace), encoding="utf-8")
    part.replace(path)


def read_trace(path: Path) -> Trace:
    """A trace from disk. DataError where it is none, or of another version."""
    if not path.is_file():
        raise DataError(f"{path}: no such trace")
    try:
        trace = TypeAdapter(Trace).validate_json(path.read_bytes())
    except ValidationError as err:
        first = err.errors()[0]
        where = "".join(f"{part}." for part in first["loc"]).rstrip(".")
        raise DataError(f"{path}: no trace ({where or 'file'}: {first['msg'].lower()})") from None
    if trace.version != VERSION:
        raise DataError(f"{path}: trace version {trace.version}, this program reads {VERSION}")
    return trace
