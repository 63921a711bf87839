"""Temporal consistency reward (VQAThinker, arXiv:2508.06051): a bonus where the clip is rated better in its own order.

The same prompt is answered G times more on a perturbed copy of the clip; accurate answers on the clean clip earn a
bonus where the clean group scores higher than the perturbed one. The official code has two versions; `variant` says
which of three rules holds:

- `fixed`: the clean group is strictly better (the paper's figure) in the sum of regression and ranking; one bonus for
  answers above both thresholds; perturbed answers are ranked against the *clean* answers of the other clips, so that
  only one thing changes.
- `paper_aug` (August 2025, before the paper): the clean group is no worse in ranking and no worse in regression; one
  bonus for answers above the ranking threshold; perturbed answers are ranked among perturbed ones.
- `release_nov` (November 2025, whose own script switches the reward off): both terms are compared and rewarded each for
  itself, so up to two bonuses, with >= as in August; perturbed answers are ranked among perturbed ones.

Departs from the released code in every variant:
- the comparison is per clip; the release compares means over a micro-batch in which clips are mixed;
- the bonus is a reward of its own; the release adds it to the columns of the terms, which is the same sum (but not the
  same under `normalize_then_sum`);
- regression has no factor 0.8 for few decimals (see regression.py), which in the release also bars such answers from
  the bonus;
- unreadable answers are left out of the comparison on both sides (failing to answer is no sign of having seen the
  order; the release draws a random answer); with no readable perturbed answer the reward is not applicable, with no
  readable clean one nothing is earned;
- without opponents (one prompt) `fixed` and `release_nov` use regression alone, and `paper_aug` is not applicable;
- all G perturbed rollouts share one perturbation (one prefill), drawn from the seed and the row's id, so that it is the
  same in every epoch and in a resumed run; the release draws one for each rollout, and anew each time;
- `random_drop` blackens up to `most` (3) parts in every variant; one of the two August commits has at most 2.

As in the release, what is drawn may leave the clip as it is (shuffle 1 in 720, local_shuffle 1 in 48, jitter 1 in 182;
18 of the 2,650 embedded training clips at seed 0): such a clip's bonus is decided by chance, as it is for a model that
does not see the order.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, MinLen

from vqa2.core.config import register, spec
from vqa2.rewards._answer import read_answer
from vqa2.rewards._scoring import bell, field_of, group_rows, rank

Mode = Literal["shuffle", "local_shuffle", "reverse", "jitter", "duplicate", "random_drop"]
Values = list[float | None]


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
    `ranking_above`, combined as `variant` says. `sigma`, `eps`: of the regression and the ranking reward."""

    weight: Annotated[float, Ge(0)]
    variant: Literal["fixed", "paper_aug", "release_nov"]
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
        target: list[float | None],
        perturbed: list[str | None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **_: object,
    ) -> Values:
        """0, `bonus` or (`release_nov`) twice that per completion; None where the clip has no perturbed copy (stills,
        prompts that ask for no rating, or none was made).

        Logged: the share of clips whose clean group is strictly better in regression + ranking. To a model that does
        not see the order of frames the two groups differ by chance, and it is about a half."""
        if perturbed is None:
            return [None] * len(completions)
        clean, disturbed = (
            [None if c is None else read_answer(c) for c in texts] for texts in (completions, perturbed)
        )
        field, field_off = (field_of(prompt_id, answers, target) for answers in (clean, disturbed))
        near, near_off = (bell(answers, target, self.sigma) for answers in (clean, disturbed))
        order = rank(clean, field, prompt_id, field, self.eps)
        among = field if self.variant == "fixed" else field_off
        order_off = rank(disturbed, field_off, prompt_id, among, self.eps)
        out: Values = [None] * len(completions)
        better: list[bool] = []
        for rows in group_rows(prompt_id).values():
            own, off = ([k for k in rows if answers[k] is not None] for answers in (clean, disturbed))
            if not off or target[rows[0]] is None:
                continue
            if not own:
                out = [0.0 if k in rows else value for k, value in enumerate(out)]
                continue
            gap_near = _mean(near, own) - _mean(near_off, off)
            ranked = order[own[0]] is not None and order_off[off[0]] is not None
            gap_order = _mean(order, own) - _mean(order_off, off) if ranked else None
            better.append(gap_near + (gap_order or 0.0) > 0)
            for k in rows:
                out[k] = self._bonus(near[k], order[k], gap_near, gap_order)
        if log_metric is not None and better:
            log_metric("clean_better", float(np.mean(better)))
        return out

    def _bonus(self, near: float | None, order: float | None, gap_near: float, gap_order: float | None) -> float | None:
        """The reward of one completion; `gap_*`: clean minus perturbed group mean, None without opponents."""
        assert near is not None
        is_near = near > self.regression_above
        in_order = order is not None and order > self.ranking_above
        if self.variant == "fixed":
            better = gap_near + (gap_order or 0.0) > 0
            return self.bonus * (better and is_near and (in_order or order is None))
        if self.variant == "paper_aug":
            return None if gap_order is None else self.bonus * (gap_order >= 0 and gap_near >= 0 and in_order)
        return self.bonus * ((gap_order is not None and gap_order >= 0 and in_order) + (gap_near >= 0 and is_near))


def _mean(values: Values, rows: list[int]) -> float:
    """Mean over rows, in sorted order so that row order does not matter."""
    return float(np.mean(sorted(v for k in rows if (v := values[k]) is not None)))
