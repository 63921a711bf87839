"""Set `grpo_choice`: multiple-choice questions without an answer, for GRPO with the reward `accuracy`.

Not in VQAThinker, whose rows are ratings. The right letter is in the tag `answer`.
"""

from typing import Annotated

from annotated_types import Ge

from data_prep._questions import CHOICE, draw, facts_of, names_in
from data_prep._write import by_split, rng_of, row, videos
from vqa2.core.config import register
from vqa2.core.prompts import LETTERS, REASON_FORM, closed_prompt
from vqa2.core.records import Clip, Instruction


@register("set", "grpo_choice")
class GrpoChoice:
    """`questions` per clip, none twice about one clip."""

    questions: Annotated[int, Ge(1)]

    def write(self, clips: list[Clip], seed: int) -> dict[str, list[Instruction]]:
        rows, rated = [], videos(clips)
        names = {split: names_in([c for c in rated if c.split == split]) for split in ("train", "test")}
        for clip in rated:
            rng, facts, asked = rng_of(seed, "grpo_choice", clip.id), facts_of(clip), set()
            drawn = [draw(CHOICE, facts, names[clip.split], rng, asked) for _ in range(self.questions)]
            for number, question in enumerate(q for q in drawn if q is not None):
                user = f"{closed_prompt(question.text, question.options, 'letter')} {REASON_FORM}"
                letter = LETTERS[question.options.index(question.answer)]
                rows.append(row(clip, "grpo", f"-choice-{number}", user, "", answer=letter))
        return by_split(rows)
