"""Set `grpo` (VQAThinker): rating prompts without an answer; the rewards compare with the clip's MOS.

`choice` multiple-choice questions per clip beside them (not in VQAThinker): their right letter is in the tag `answer`,
which the reward `accuracy` compares with.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated

from annotated_types import Ge

from data_prep._questions import CHOICE, draw, facts_of, names_in
from data_prep._write import by_split, rated, rng_of, row, videos
from vqa2.core.config import register
from vqa2.core.errors import ConfigError
from vqa2.core.prompts import LETTERS, REASON_FORM, REASON_QUESTION, closed_prompt
from vqa2.core.records import Clip, Instruction


@register("set", "grpo")
class Grpo:
    """The prompt texts are vqa2/core/prompts.py's."""

    choice: Annotated[int, Ge(0)]

    def write(self, clips: list[Clip], seed: int) -> dict[str, list[Instruction]]:
        return by_split([*_ratings(clips), *self._choices(videos(clips), seed)])

    def stream(self, clips: Iterable[Clip], seed: int) -> Iterator[Instruction]:
        """The rows as the clips come. ConfigError for questions, which need to know all clips."""
        if self.choice:
            raise ConfigError(f"sets.grpo.choice: {self.choice}: label files tell nothing to ask about; use 0")
        return _ratings(clips)

    def _choices(self, clips: list[Clip], seed: int) -> Iterator[Instruction]:
        names = {split: names_in([c for c in clips if c.split == split]) for split in ("train", "test")}
        for clip in clips:
            rng, facts, asked = rng_of(seed, "grpo", clip.id), facts_of(clip), set()
            drawn = [draw(CHOICE, facts, names[clip.split], rng, asked) for _ in range(self.choice)]
            for number, question in enumerate(q for q in drawn if q is not None):
                user = f"{closed_prompt(question.text, question.options, 'letter')} {REASON_FORM}"
                letter = LETTERS[question.options.index(question.answer)]
                yield row(clip, "grpo", f"-choice-{number}", user, "", answer=letter)


def _ratings(clips: Iterable[Clip]) -> Iterator[Instruction]:
    return (row(c, "grpo", "", REASON_QUESTION, "") for c in rated(clips))
