"""Bell-shaped regression reward (VQAThinker, arXiv:2508.06051): how near the answer is to the clip's MOS.

Departs from the released code: no factor 0.8 for answers with fewer than two decimals (it is applied to the float, so
3.50 counts as one decimal and a perfect answer is punished for one label in ten); an unreadable answer earns 0 instead
of the reward of a random integer; targets are on the 1-5 scale that the prompt names, not MOS / 20. The official code
has one version of it. Not applicable (None) to prompts that ask for no rating.
"""

from typing import Annotated

from annotated_types import Ge, Gt

from vqa2.core.config import register
from vqa2.rewards._answer import read_answer
from vqa2.rewards._scoring import bell


@register("reward", "regression")
class Regression:
    """exp(-(answer - target)² / 2 sigma²); `sigma` in points of the 1-5 scale."""

    weight: Annotated[float, Ge(0)]
    sigma: Annotated[float, Gt(0)]

    def __call__(self, completions: list[str], *, target: list[float | None], **_: object) -> list[float | None]:
        """One reward in [0, 1] per completion; 0 for an unreadable answer."""
        return bell([read_answer(c) for c in completions], target, self.sigma)
