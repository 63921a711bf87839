"""Set `understanding` (VQA² stage 3): closed and open questions on clips, and reasoned ratings.

The reasoned ratings (task `reasoning`) show the reply form that GRPO asks for; VQAThinker's base model knows it.
"""

from typing import Annotated, Literal

from annotated_types import Ge

from data_prep._questions import BINARY, CHOICE, OPEN, Question, draw, facts_of, names_in, reasoned
from data_prep._write import by_split, rng_of, row, videos
from vqa2.core.config import register
from vqa2.core.prompts import REASON_QUESTION, closed_prompt, open_prompt
from vqa2.core.records import Clip, Instruction


@register("set", "understanding")
class Understanding:
    """Questions per clip and kind, none twice about one clip; `reply`: closed questions are answered by `letter` or by
    the option's `text`."""

    binary: Annotated[int, Ge(0)]
    choice: Annotated[int, Ge(0)]
    open: Annotated[int, Ge(0)]
    reasoned: bool
    reply: Literal["letter", "text"]

    def write(self, clips: list[Clip], seed: int) -> dict[str, list[Instruction]]:
        rows, rated = [], videos(clips)
        names = {split: names_in([c for c in rated if c.split == split]) for split in ("train", "test")}
        for clip in rated:
            rng, facts, asked = rng_of(seed, "understanding", clip.id), facts_of(clip), set()
            for kind, count in ((BINARY, self.binary), (CHOICE, self.choice), (OPEN, self.open)):
                for number in range(count):
                    question = draw(kind, facts, names[clip.split], rng, asked)
                    if question is not None:
                        suffix = f"-{kind.replace('/', '_')}-{number}"
                        user, answer = prompt_of(question, self.reply)
                        rows.append(row(clip, "understanding", suffix, user, answer,
                                        question_type=kind, quality_concern=question.concern))  # fmt: skip
            if self.reasoned:
                rows.append(row(clip, "reasoning", "-reasoned", REASON_QUESTION, reasoned(facts)))
        return by_split(rows)


def prompt_of(question: Question, reply: str) -> tuple[str, str]:
    """(user text, answer text) of a question."""
    if not question.options:
        return open_prompt(question.text), question.answer
    if reply == "text":
        return closed_prompt(question.text, question.options, reply), f"{question.answer}."
    letter = "ABCDEFGH"[question.options.index(question.answer)]
    return closed_prompt(question.text, question.options, reply), f"{letter}."
