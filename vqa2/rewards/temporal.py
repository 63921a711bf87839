"""Temporal consistency reward (VQAThinker, arXiv:2508.06051): a bonus where the clip is rated better in its own order.

The same prompt is answered G times more on a perturbed copy of the clip; accurate answers on the clean clip earn a
bonus where the clean group scores higher than the perturbed one.

Departs from the released code (its August and November 2025 versions differ; its own script switches the reward off):
- the comparison is per clip; the release compares means over a micro-batch in which clips are mixed;
- strictly higher (the paper's figure), on the sum of regression and ranking reward; the release uses >= on each term;
- one bonus for answers above both thresholds; the release adds it to the columns of the terms (August: ranking only);
- perturbed answers are ranked against the *clean* answers of the other clips, so that only one thing changes;
- unreadable perturbed answers are left out (failing to answer is no sign of having seen the order); with none readable
  the reward is not applicable. Unreadable clean answers count as 0;
- all G perturbed rollouts share one perturbation (one prefill); the release draws one for each.
"""

from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, MinLen

from vqa2.core.config import register, spec
from vqa2.rewards._answer import read_answer
from vqa2.rewards._scoring import bell, field_of, group_rows, rank

Mode = Literal["shuffle", "local_shuffle", "reverse", "jitter", "duplicate", "random_drop"]


@spec
class Perturbation:
    """How a clip is disturbed in time: cut into `segments` equal parts (the paper's model sees 6 frames), by one of
    `modes`, drawn at random. `window`: parts shuffled together by local_shuffle; `most`: most parts that duplicate
    repeats or random_drop blackens."""

    modes: Annotated[tuple[Mode, ...], MinLen(1)]
    segments: Annotated[int, Ge(2)]
    window: Annotated[int, Ge(2)]
    most: Annotated[int, Ge(1)]


@register("reward", "temporal")
class Temporal:
    """`bonus` for clean answers with a regression reward above `regression_above` and a ranking reward above
    `ranking_above` (where ranking applies). `sigma`, `eps`: of the regression and the ranking reward."""

    weight: Annotated[float, Gt(0)]
    bonus: Annotated[float, Gt(0)]
    regression_above: Annotated[float, Ge(0)]
    ranking_above: Annotated[float, Ge(0)]
    sigma: Annotated[float, Gt(0)]
    eps: Annotated[float, Gt(0)]
    perturbation: Perturbation

    def __call__(
        self,
        completions: list[str],
        *,
        prompt_id: list[str],
        target: list[float],
        perturbed: list[str | None] | None = None,
        **_: object,
    ) -> list[float | None]:
        """`bonus` or 0 per completion; None where the clip has no perturbed copy (stills, or none was made)."""
        if perturbed is None:
            return [None] * len(completions)
        clean, disturbed = (
            [None if c is None else read_answer(c) for c in texts] for texts in (completions, perturbed)
        )
        field = field_of(prompt_id, clean, target)
        near, order = bell(clean, target, self.sigma), rank(clean, field, prompt_id, field, self.eps)
        near_off = bell(disturbed, target, self.sigma)
        order_off = rank(disturbed, field_of(prompt_id, disturbed, target), prompt_id, field, self.eps)
        out: list[float | None] = [None] * len(completions)
        for rows in group_rows(prompt_id).values():
            readable = [k for k in rows if disturbed[k] is not None]
            if not readable:
                continue
            better = _mean(near, order, rows) > _mean(near_off, order_off, readable)
            for k in rows:
                accurate = near[k] > self.regression_above and _above(order[k], self.ranking_above)
                out[k] = self.bonus if better and accurate else 0.0
        return out


def _above(value: float | None, threshold: float) -> bool:
    return value is None or value > threshold


def _mean(near: list[float], order: list[float | None], rows: list[int]) -> float:
    """Mean of regression plus ranking reward; the sum is taken in sorted order so that row order does not matter."""
    return float(np.mean(sorted(near[k] + (order[k] or 0.0) for k in rows)))
