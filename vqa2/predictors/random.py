"""Predictor `random`: chance level. A score and a reply drawn per item from the seed and the item's id alone, so that
order, batches and resumption change nothing."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, MinLen

from vqa2.core.config import register
from vqa2.core.records import Answer, Query
from vqa2.core.run import fingerprint
from vqa2.predictors.constant import missing

_OPTION = re.compile(r"^([A-H])\. (.+)$", re.MULTILINE)


@register("predictor", "random")
class Random:
    """`reply`: what of a lettered option is said, its letter or its text; questions without options get one of
    `replies`."""

    seed: Annotated[int, Ge(0)]
    reply: Literal["letter", "text"]
    replies: Annotated[tuple[str, ...], MinLen(1)]

    def open(self) -> "RandomPredictor":
        return RandomPredictor(self)


class RandomPredictor:
    """A missing file is an error here too, as for `constant`."""

    def __init__(self, made: Random) -> None:
        self.name, self._made = "random", made
        self.fingerprint = fingerprint(["random", made.seed, made.reply, *made.replies])
        self.provenance = asdict(made)

    def score(self, queries: Sequence[Query]) -> list[Answer]:
        return [missing(q) or Answer(id=q.id, score01=float(self._rng(q).random())) for q in queries]

    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        return [missing(q) or Answer(id=q.id, text=self._reply(q)) for q in queries]

    def _reply(self, query: Query) -> str:
        options = _OPTION.findall(query.question or "")
        if not options:
            return self._made.replies[self._rng(query).integers(len(self._made.replies))]
        letter, text = options[self._rng(query).integers(len(options))]
        return f"{letter}." if self._made.reply == "letter" else text

    def _rng(self, query: Query) -> np.random.Generator:
        return np.random.default_rng([self._made.seed, int(fingerprint(query.id), 16)])
