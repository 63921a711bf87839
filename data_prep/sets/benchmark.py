"""Set `benchmark`: a mini benchmark in the record form of Q-Bench-Video, from test clips only."""

from typing import Annotated, Any

from annotated_types import Ge

from data_prep._questions import OPEN, ask, facts_of
from data_prep._write import rng_of, videos
from vqa2.core.config import register
from vqa2.core.prompts import LETTERS
from vqa2.core.records import Clip


@register("set", "benchmark")
class Benchmark:
    """`questions` per question type."""

    questions: dict[str, Annotated[int, Ge(0)]]

    def records(self, clips: list[Clip], seed: int) -> list[dict[str, Any]]:
        """Records with the fields of the released JSON; `video_name` is relative to media/test."""
        out = []
        pool = sorted((c for c in videos(clips) if c.split == "test"), key=lambda c: c.id)
        for kind, count in self.questions.items():
            rng, number = rng_of(seed, "benchmark", kind), 0
            order = [int(i) for i in rng.permutation(len(pool))]
            while number < count:
                clip = pool[order[(number + len(out)) % len(pool)]]
                question = None
                while question is None:
                    question = ask(kind, facts_of(clip), rng)
                    if question is None:
                        clip = pool[int(rng.integers(len(pool)))]
                out.append(self._record(clip, question))
                number += 1
        return out

    def _record(self, clip: Clip, question) -> dict[str, Any]:
        record: dict[str, Any] = {
            "video_name": clip.path.split("/")[-1],
            "question": question.text,
            "video_type": clip.tags["origin"],
            "question_type": question.kind,
            "context": "Global",
            "quality_concern": [question.concern],
        }
        if question.kind == OPEN:
            return {**record, "correct_ans": question.answer}
        letter = LETTERS[question.options.index(question.answer)]
        return {**record, "answers": list(question.options), "correct_choice": letter}
