"""Pairwise ranking reward (VQAThinker, arXiv:2508.06051; the fidelity reward of VisualQuality-R1, arXiv:2505.14460).

Each answer is compared with the mean answer of every other prompt under Thurstone's model; the reward is high where the
order agrees with the MOS.

Departs from the released code: opponents are all other prompts of the optimizer step over all processes (the release
sees one process's micro-batch: a single opponent with its own script, a division by zero with none); an unreadable
answer earns 0 and enters no mean or variance (the release substitutes a random score); a single readable answer has
variance 0. Stated behavior: with one prompt, or no other prompt with a readable answer, the reward is not applicable
(None).
"""

from typing import Annotated

from annotated_types import Gt

from vqa2.core.config import register
from vqa2.rewards._answer import read_answer
from vqa2.rewards._scoring import field_of, rank


@register("reward", "ranking")
class Ranking:
    """Mean fidelity against all other prompts, in [0, 1 + eps]; `eps` guards both the variance and the roots."""

    weight: Annotated[float, Gt(0)]
    eps: Annotated[float, Gt(0)]

    def __call__(
        self, completions: list[str], *, prompt_id: list[str], target: list[float], **_: object
    ) -> list[float | None]:
        """One reward per completion; the lists hold the whole step. None where there is no opponent."""
        answers = [read_answer(c) for c in completions]
        field = field_of(prompt_id, answers, target)
        return rank(answers, field, prompt_id, field, self.eps)
