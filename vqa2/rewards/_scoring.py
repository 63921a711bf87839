"""The arithmetic that rewards share (VQAThinker, arXiv:2508.06051, section on rewards; VisualQuality-R1 for ranking).

Answers and targets are on the 1-5 scale; an answer of None is unreadable and earns 0; a target of None belongs to a
prompt that asks for no rating: nothing here applies to it.
Shapes: S completions, P prompts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

Answer = float | None


def bell(answers: Sequence[Answer], target: Sequence[float | None], sigma: float) -> list[float | None]:
    """exp(-(answer - target)² / 2 sigma²) for each completion, in [0, 1]; None without a target."""
    pairs = zip(answers, target, strict=True)
    return [
        None if y is None else 0.0 if a is None else float(np.exp(-((a - y) ** 2) / (2 * sigma**2))) for a, y in pairs
    ]


@dataclass(frozen=True)
class Field:
    """What a completion is ranked against: for each rated prompt its id, target, and mean and unbiased variance of its
    readable answers (variance 0 for a single one; a prompt with none is no opponent and has a mean of None)."""

    ids: tuple[str, ...]
    target: tuple[float, ...]
    mean: tuple[Answer, ...]
    variance: tuple[float, ...]


EMPTY = Field(ids=(), target=(), mean=(), variance=())


def field_of(prompt_id: Sequence[str], answers: Sequence[Answer], target: Sequence[float | None]) -> Field:
    """The rated prompts of a step in a canonical order, so that rewards do not depend on the order of completions."""
    groups = {i: rows for i, rows in group_rows(prompt_id).items() if target[rows[0]] is not None}
    ids = tuple(sorted(groups))
    # Sorted before summing: floating-point sums, and with them rewards, are then the same in every order.
    readable = [sorted(a for k in groups[i] if (a := answers[k]) is not None) for i in ids]
    return Field(
        ids=ids,
        target=tuple(y for i in ids if (y := target[groups[i][0]]) is not None),
        mean=tuple(float(np.mean(r)) if r else None for r in readable),
        variance=tuple(float(np.var(r, ddof=1)) if len(r) > 1 else 0.0 for r in readable),
    )


def joined(own: Field, past: Field) -> Field:
    """A step's prompts and those of earlier steps that are not among them."""
    kept = [k for k, i in enumerate(past.ids) if i not in own.ids]
    return Field(
        ids=own.ids + tuple(past.ids[k] for k in kept),
        target=own.target + tuple(past.target[k] for k in kept),
        mean=own.mean + tuple(past.mean[k] for k in kept),
        variance=own.variance + tuple(past.variance[k] for k in kept),
    )


def rivals(prompt: str, field: Field) -> list[int]:
    """Places in `field` of the opponents of a prompt: every other one with a readable answer."""
    return [k for k, other in enumerate(field.ids) if other != prompt and field.mean[k] is not None]


def rank(
    answers: Sequence[Answer], own: Field, prompt_id: Sequence[str], field: Field, eps: float
) -> list[float | None]:
    """Mean fidelity of every completion against the mean answer of every other prompt of `field`.

    p = Phi((answer - mean_j) / sqrt(variance + variance_j + eps)), g = 1, 0.5 or 0 as target >, = or < target_j,
    fidelity = sqrt(p g + eps) + sqrt((1 - p)(1 - g) + eps). `own` holds the variance of the completion's own group.
    An unreadable answer earns 0; None for all completions of a prompt without opponents, or that is not in `own`.
    """
    out: list[float | None] = [None] * len(answers)
    for prompt, rows in group_rows(prompt_id).items():
        others = rivals(prompt, field)
        if not others or prompt not in own.ids:
            continue
        mean, spread, theirs = (np.array([of[j] for j in others]) for of in (field.mean, field.variance, field.target))
        k = own.ids.index(prompt)
        wins = (np.sign(own.target[k] - theirs) + 1) / 2
        for row in rows:
            if (answer := answers[row]) is None:
                out[row] = 0.0
                continue
            p = ndtr((answer - mean) / np.sqrt(own.variance[k] + spread + eps))
            out[row] = float(np.mean(np.sqrt(p * wins + eps) + np.sqrt((1 - p) * (1 - wins) + eps)))
    return out


def group_rows(prompt_id: Sequence[str]) -> Mapping[str, list[int]]:
    """Prompt id -> its rows."""
    groups: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompt_id):
        groups.setdefault(prompt, []).append(row)
    return groups
