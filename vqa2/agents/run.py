"""Runs a router or an agent on one item, live or from its trace."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter

from vqa2.agents._spec import AgentSpec, Outcome, RouterSpec
from vqa2.agents.agent import assess
from vqa2.agents.item import Asked, Card, cards
from vqa2.agents.router import route
from vqa2.agents.trace import VERSION, Plain, Player, Recorder, Trace, dumps, plain, spending
from vqa2.agents.world import Means, World
from vqa2.core.config import decode
from vqa2.core.errors import DataError

PROGRAMS: dict[str, tuple[type, Callable]] = {"router": (RouterSpec, route), "agent": (AgentSpec, assess)}


def live(program: str, made: RouterSpec | AgentSpec, asked: Asked, means: Means) -> Trace:
    """One item, answered and recorded."""
    cls, _ = PROGRAMS[program]
    assert means.pool is not None
    config = {
        "spec": json.loads(TypeAdapter(cls).dump_json(made)),
        "cards": {name: asdict(card) for name, card in cards(means.pool, asked).items()},
        "left_out": means.pool.left_out,
        "llm": None if means.llm is None else means.llm.backend.identity,
        "tries": 1 if means.llm is None else 1 + means.llm.backend.repairs,
        "voice": None if means.voice is None else {"name": means.voice.name, "can": means.voice.can},
        "localizer": None if means.localizer is None else means.localizer.name,
        "gate": None if means.gate is None else means.gate.name,
    }
    return _run(program, plain(config), plain(asked.plain()), Recorder(), means)


def replay(trace: Trace) -> Trace:
    """The same item again from its trace alone. DataError where this version asks for something else."""
    return _run(trace.program, trace.config, trace.query, Player(trace.steps), None)


def check(trace: Trace) -> None:
    """DataError where a replay does not end in the same bytes."""
    again = replay(trace)
    if dumps(again) != dumps(trace):
        before, after = asdict(trace), asdict(again)
        key = next(k for k in before if json.dumps(before[k]) != json.dumps(after[k]))
        raise DataError(f"trace: the replay differs in {key!r}: this version computes something else")


def _run(program: str, config: Plain, query: Plain, tape: Recorder | Player, means: Means | None) -> Trace:
    cls, fn = PROGRAMS[program]
    made = decode(cls, config["spec"], program)
    asked = Asked(
        **{
            **query,
            "path": Path(query["path"]),
            "reference": query["reference"] and Path(query["reference"]),
            "regions": {name: tuple(box) for name, box in query["regions"].items()},
        }
    )
    world = World(
        tape=tape,
        asked=asked,
        cards={name: Card.from_plain(values) for name, values in config["cards"].items()},
        budget=made.budget,
        frames=made.frames,
        seed=made.seed,
        has_llm=config["llm"] is not None,
        reads_files=(config["llm"] or {}).get("media") == "file",
        voices=tuple(config["voice"]["can"]) if config["voice"] else (),
        has_localizer=config["localizer"] is not None,
        has_gate=config["gate"] is not None,
        tries=config["tries"],
        means=means,
    )
    outcome: Outcome = fn(world, made)
    return Trace(
        version=VERSION,
        program=program,
        config=config,
        query=query,
        steps=tuple(tape.steps),
        notes=tuple(world.notes.lines),
        working=plain(outcome.working),
        result=plain(outcome.result),
        spending=spending(tape.steps),
    )
