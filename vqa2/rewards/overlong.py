"""Soft overlong punishment (DAPO, arXiv:2503.14476, equation 13): completions near the length limit lose reward.

Equal to `trl.rewards.get_soft_overlong_punishment` in the tests, but chosen in YAML. Not in VQAThinker.
"""

from typing import Annotated

from annotated_types import Ge, Gt, Le

from vqa2.core.config import register


@register("reward", "overlong")
class Overlong:
    """0 up to the last `cache` share of `max_tokens`, from there a straight line to -1 at `max_tokens`, -1 beyond.

    `max_tokens` is the policy's `max_completion_length`, which no completion exceeds; the end token counts.
    """

    weight: Annotated[float, Ge(0)]
    max_tokens: Annotated[int, Ge(1)]
    cache: Annotated[float, Gt(0), Le(1)]

    def __call__(self, *, completion_ids: list[list[int]], **_: object) -> list[float | None]:
        """One value in [-1, 0] per completion, from its number of tokens alone."""
        cache = max(1, round(self.cache * self.max_tokens))
        free = self.max_tokens - cache
        return [max(-1.0, min(0.0, (free - len(ids)) / cache)) for ids in completion_ids]
