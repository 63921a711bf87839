"""Predictor `constant`: the same score and the same reply for everything. The floor that any model has to leave."""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge, Le

from vqa2.core.config import register
from vqa2.core.records import Answer, Query
from vqa2.core.run import fingerprint


@register("predictor", "constant")
class Constant:
    """`score01` in [0, 1] and the reply `text`."""

    score01: Annotated[float, Ge(0), Le(1)]
    text: str

    def open(self) -> "ConstantPredictor":
        return ConstantPredictor(self.score01, self.text)


class ConstantPredictor:
    """A missing file is an error here too, so that the floor and a model are measured on the same items."""

    def __init__(self, score01: float, text: str) -> None:
        self.name, self.fingerprint = "constant", fingerprint(["constant", score01, text])
        self.provenance = {"score01": score01, "text": text}
        self._score01, self._text = score01, text

    def score(self, queries: Sequence[Query]) -> list[Answer]:
        return [missing(q) or Answer(id=q.id, score01=self._score01) for q in queries]

    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        return [missing(q) or Answer(id=q.id, text=self._text) for q in queries]


def missing(query: Query) -> Answer | None:
    """The failure of a query whose file is not there."""
    return None if query.path.is_file() else Answer(id=query.id, error="no such file")
