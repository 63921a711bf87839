"""Pairwise ranking reward (VQAThinker, arXiv:2508.06051; the fidelity reward of VisualQuality-R1, arXiv:2505.14460).

Each answer is compared with the mean answer of every other prompt under Thurstone's model; the reward is high where the
order agrees with the MOS. The official code has one version of it (the two of the temporal reward: see temporal.py).

Departs from the released code: opponents are all other prompts of the optimizer step over all processes, and of
`memory` earlier prompts (the release sees one process's micro-batch: a single opponent with its own script, a division
by zero with none); an unreadable answer earns 0 and enters no mean or variance (the release substitutes a random
score); a single readable answer has variance 0. As in the release there is no margin and no weight by MOS difference.
Stated behavior: with one prompt, or no other prompt with a readable answer, the reward is not applicable (None); so it
is for prompts that ask for no rating (target None).
"""

from collections.abc import Callable
from typing import Annotated

from annotated_types import Ge, Gt

from vqa2.core.config import register
from vqa2.rewards._answer import read_answer
from vqa2.rewards._scoring import EMPTY, Field, field_of, joined, rank, rivals


@register("reward", "ranking")
class Ranking:
    """Mean fidelity against all other prompts, in [0, 1 + eps]; `eps` guards both the variance and the roots. `memory`:
    how many prompts of earlier steps, each with the answers it then got, are opponents, too (0: none)."""

    weight: Annotated[float, Ge(0)]
    eps: Annotated[float, Gt(0)]
    memory: Annotated[int, Ge(0)]

    def __call__(
        self,
        completions: list[str],
        *,
        prompt_id: list[str],
        target: list[float | None],
        past: Field = EMPTY,
        log_extra: Callable[[str, list], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **_: object,
    ) -> list[float | None]:
        """One reward per completion; the lists hold the whole step. None where there is no opponent.

        `past`: the memory. The number of opponents is logged per completion and as a mean over the step.
        """
        answers = [read_answer(c) for c in completions]
        own = field_of(prompt_id, answers, target)
        field = joined(own, past)
        count = {prompt: len(rivals(prompt, field)) for prompt in own.ids}
        opponents = [count.get(prompt) for prompt in prompt_id]
        if log_extra is not None:
            log_extra("opponents", opponents)
        if log_metric is not None and (known := [n for n in opponents if n is not None]):
            log_metric("opponents", sum(known) / len(known))
        return rank(answers, own, prompt_id, field, self.eps)
