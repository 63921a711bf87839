"""Set `benchmark`: a mini benchmark in the record form of Q-Bench-Video, from test clips only."""

from itertools import cycle
from typing import Annotated, Any

from annotated_types import Ge

from data_prep._questions import BINARY, OPEN, Question, draw, facts_of, names_in
from data_prep._write import rng_of, videos
from vqa2.core.config import register
from vqa2.core.errors import DataError
from vqa2.core.prompts import LETTERS
from vqa2.core.records import Clip


@register("set", "benchmark")
class Benchmark:
    """`questions` per question type; yes and no are equally many."""

    questions: dict[str, Annotated[int, Ge(0)]]

    def records(self, clips: list[Clip], seed: int) -> list[dict[str, Any]]:
        """Records with the fields of the released JSON; `video_name` is relative to media/test."""
        pool = sorted((c for c in videos(clips) if c.split == "test"), key=lambda c: c.id)
        return [record for kind, count in self.questions.items() for record in self._of(kind, count, pool, seed)]

    def _of(self, kind: str, count: int, pool: list[Clip], seed: int) -> list[dict[str, Any]]:
        """All clips take turns; a clip gets a question again only when every clip has had all of them."""
        rng, names = rng_of(seed, "benchmark", kind), names_in(pool)
        out: list[dict[str, Any]] = []
        asked: dict[str, set[str]] = {clip.id: set() for clip in pool}
        idle = 0
        for index in cycle(rng.permutation(len(pool)).tolist()):
            if len(out) == count:
                return out
            clip = pool[index]
            wanted = ("Yes", "No")[len(out) % 2] if kind == BINARY else None
            question = draw(kind, facts_of(clip), names, rng, asked[clip.id], wanted)
            if question is not None:
                out.append(self._record(clip, question))
                idle = 0
                continue
            idle += 1
            if idle == len(pool):
                asked = {clip.id: set() for clip in pool}
            elif idle > 2 * len(pool):
                break
        raise DataError(f"sets.benchmark.questions.{kind}: {count} wanted, the {len(pool)} test clips give {len(out)}")

    def _record(self, clip: Clip, question: Question) -> dict[str, Any]:
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
