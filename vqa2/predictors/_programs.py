"""A router or an agent as a predictor: one trace per item, the answer taken from it."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from vqa2.agents.item import Asked
from vqa2.agents.run import PROGRAMS, live
from vqa2.agents.trace import Trace, write_trace
from vqa2.agents.world import Means
from vqa2.core.errors import ConfigError
from vqa2.core.records import Answer, Query
from vqa2.core.run import fingerprint


class ProgramPredictor:
    """Asks one item after the other. Means are opened once and serve all items."""

    def __init__(self, program: str, made: Any, means: Means, traces: Path) -> None:
        self.name, self.made, self.means, self.traces = program, made, means, traces
        settings = TypeAdapter(PROGRAMS[program][0]).dump_python(made, mode="json")
        who = _who(means)
        self.provenance = {"settings": settings, **who}
        self.fingerprint = fingerprint([program, settings, [*who.values()]])

    def score(self, queries: Sequence[Query]) -> list[Answer]:
        """score01 per query, from its trace."""
        return [self._answer(q, "score", "score01") for q in queries]

    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        """A text per query, from its trace."""
        return [self._answer(q, "answer", "text") for q in queries]

    def trace(self, asked: Asked) -> tuple[Trace, Path]:
        """One item; its trace is on disk before it is returned with its path."""
        made, path = live(self.name, self.made, asked, self.means), self.traces / f"{_file_name(asked)}.json"
        write_trace(path, made)
        return made, path

    def _answer(self, query: Query, want: Literal["score", "answer"], field: str) -> Answer:
        if want == "answer" and query.question is None:
            raise ConfigError(f"{query.id}: a question is needed to answer")
        if query.second is not None and not query.pristine:
            return Answer(id=query.id, error=f"the {self.name} takes one clip, the question is about two")
        asked = Asked(
            id=query.id,
            path=query.path,
            kind=query.kind,
            question=query.question,
            want=want,
            reference=query.second,
            prompt=query.prompt,
        )
        result = self.trace(asked)[0].result
        if "error" in result:
            return Answer(id=query.id, error=result["error"])
        levels = result.get("levels")
        return Answer(id=query.id, **{field: result[field]}, levels=None if levels is None else tuple(levels))


def _file_name(asked: Asked) -> str:
    """Readable, and different for different items: an id may hold any character."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", asked.id)[-80:]
    return f"{readable}-{fingerprint(asked.plain())[:8]}"


def _who(means: Means) -> dict[str, Any]:
    """Everyone whose change changes answers: experts with their calibrations, chat model, models of ours, localizer,
    gate."""
    pool = means.pool
    assert pool is not None
    experts = {name: [pool.subject(name).identity, _curve(pool.calibration_of(name))] for name in pool.experts}
    return {
        "experts": experts,
        "llm": None if means.llm is None else means.llm.backend.identity,
        "voice": None if means.voice is None else means.voice.name,
        "localizer": None if means.localizer is None else means.localizer.name,
        "gate": None if means.gate is None else means.gate.name,
    }


def _curve(made: Any) -> Any:
    return made if isinstance(made, str) else [made.form, made.parameters, made.raw_range]
