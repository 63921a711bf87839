"""Predictor `reasoning`: scores as VQAThinker does (arXiv:2508.06051), by a written thought and an answer on 1-5.

One greedy completion per clip, read by the grammar that the GRPO rewards use. Departs from the released script, which
scores an unreadable completion 3.00: here it is a failure, listed with what was written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vqa2.core.config import register
from vqa2.core.prompts import REASON_QUESTION
from vqa2.core.records import Answer, Query
from vqa2.core.run import fingerprint
from vqa2.core.scale import acr_to_score01
from vqa2.model.predict import ModelPredictor
from vqa2.predictors.model import Model
from vqa2.rewards._answer import read_answer

_SHOWN = 120


@register("predictor", "reasoning")
class Reasoning(Model):
    """The fields of predictor `model`; `max_new_tokens` has to leave room for the thought."""

    def open(self) -> "ReasoningPredictor":
        return reasoning(super().open())


def reasoning(inner: ModelPredictor) -> "ReasoningPredictor":
    """A model that scores by what it writes."""
    return ReasoningPredictor(inner, fingerprint(["reasoning", inner.fingerprint]), inner.provenance)


class ReasoningPredictor:
    """A model that writes completions, as a scorer. Questions pass through to it. `provenance`: what it is, for result
    files."""

    def __init__(self, inner: ModelPredictor, fingerprint: str, provenance: Mapping[str, Any]) -> None:
        self.name, self.fingerprint, self._inner = f"{inner.name} (reasoning)", fingerprint, inner
        self.provenance = dict(provenance)

    def plan(self, queries: Sequence[Query]) -> None:
        """As the model's: its clips are decoded ahead."""
        self._inner.plan(queries)

    def length(self, query: Query) -> int:
        """As the model's."""
        return self._inner.length(query)

    def score(self, queries: Sequence[Query]) -> list[Answer]:
        """score01 and the whole completion as `text`. A query that tells stalls fails: the prompt has no place for
        them."""
        plain = [replace(q, question=REASON_QUESTION) for q in queries if q.question is None]
        made = {a.id: reasoned(a) for a in self._inner.answer(plain)} if plain else {}
        return [made.get(q.id) or Answer(id=q.id, error="the reasoning prompt cannot tell stalls") for q in queries]

    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        return self._inner.answer(queries)


def reasoned(answer: Answer) -> Answer:
    """A completion with the score that it states, or a failure where it states none."""
    if answer.error is not None:
        return answer
    assert answer.text is not None
    acr = read_answer(answer.text)
    if acr is None:
        shown = " ".join(answer.text.split())[:_SHOWN]
        return Answer(id=answer.id, error=f"unreadable rating: {shown!r}", dropped_key_frames=answer.dropped_key_frames)
    return replace(answer, score01=acr_to_score01(acr))
