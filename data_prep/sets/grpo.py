"""Set `grpo` (VQAThinker): rating prompts without an answer; the rewards compare with the clip's MOS.

`choice` multiple-choice questions per clip beside them (not in VQAThinker): their right letter is in the tag `answer`,
which the reward `accuracy` compares with.
"""

from typing import Annotated

from annotated_types import Ge

from data_prep._questions import CHOICE, draw, facts_of, names_in
from data_prep._write import by_split, rng_of, row, videos
from vqa2.core.config import register
from vqa2.core.prompts import LETTERS, REASON_FORM, REASON_QUESTION, closed_prompt
from vqa2.core.records import Clip, Instruction


@register("set", "grpo")
class Grpo:
    """The prompt texts are vqa2/core/prompts.py's."""

    choice: Annotated[int, Ge(0)]

    def write(self, clips: list[Clip], seed: int) -> dict[str, list[Instruction]]:
        rated = videos(clips)
        rows = [row(c, "grpo", "", REASON_QUESTION, "") for c in rated]
        names = {split: names_in([c for c in rated if c.split == split]) for split in ("train", "test")}
        for clip in rated:
            rng, facts, asked = rng_of(seed, "grpo", clip.id), facts_of(clip), set()
            drawn = [draw(CHOICE, facts, names[clip.split], rng, asked) for _ in range(self.choice)]
            for number, question in enumerate(q for q in drawn if q is not None):
                user = f"{closed_prompt(question.text, question.options, 'letter')} {REASON_FORM}"
                letter = LETTERS[question.options.index(question.answer)]
                rows.append(row(clip, "grpo", f"-choice-{number}", user, "", answer=letter))
        return by_split(rows)
