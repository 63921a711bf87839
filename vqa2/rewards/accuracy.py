"""Accuracy reward: GRPO on multiple-choice questions, so that it can train understanding and not only rating.

Not in VQAThinker, whose rows are ratings alone; the 0/1 reward on closed questions is that of Video-R1
(arXiv:2503.21776), with this project's strict grammar in place of a search for the first letter.
"""

from typing import Annotated

from annotated_types import Ge

from vqa2.core.config import register
from vqa2.rewards._answer import read_choice


@register("reward", "accuracy")
class Accuracy:
    """1 where the answer block holds the letter of the right option, else 0; None for prompts that ask for a rating."""

    weight: Annotated[float, Ge(0)]

    def __call__(self, completions: list[str], *, choice: list[str | None], **_: object) -> list[float | None]:
        """`choice`: the right letter of a multiple-choice prompt, None for a rating prompt."""
        pairs = zip(completions, choice, strict=True)
        return [None if right is None else float(read_choice(c) == right) for c, right in pairs]
