"""GRPO arithmetic on tensors (arXiv:2402.03300 and its variants), under TRL's names; equal to TRL 1.16 in the tests.

Shapes: S completions (P prompts x G, a prompt's group in consecutive rows), C completion tokens, R rewards.

Departs from TRL: where a reward does not apply to a completion (NaN), the weights of the others are scaled up to the
same sum; TRL drops the term, which reads "not applicable" as zero.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

STD_EPS = 1e-4  # TRL's guard of the division by a standard deviation

LossType = Literal["grpo", "dr_grpo", "bnpo", "dapo"]
Level = Literal["token", "sequence"]
Scale = Literal["group", "batch", "none"]
Aggregation = Literal["sum_then_normalize", "normalize_then_sum"]


@dataclass(frozen=True)
class Scored:
    """`total [S]`: weighted reward, NaN where none applies. `advantages [S]`. `zero_std [S]`: nothing to learn from."""

    total: Tensor
    advantages: Tensor
    zero_std: Tensor


def score(parts: Tensor, weights: Tensor, group: int, scale: Scale, aggregation: Aggregation) -> Scored:
    """Rewards `parts [S,R]` (NaN: not applicable) and `weights [R]` to totals and advantages.

    `sum_then_normalize`: weighted sum, centered per group, divided by the standard deviation of the group, of the batch
    or by nothing. `normalize_then_sum` (GDPO, arXiv:2601.05242): every reward normalized per group, summed, normalized
    over the batch. A completion without any applicable reward has advantage 0 and enters no mean.
    """
    total = _weighted(parts, weights)
    if aggregation == "normalize_then_sum":
        grouped = parts.view(-1, group, parts.shape[1])
        normal = (grouped - grouped.nanmean(1, keepdim=True)) / (nanstd(grouped, 1) + STD_EPS)
        summed = _weighted(normal.view_as(parts), weights)
        std = nanstd(summed, 0).expand_as(summed)
        advantages = (summed - summed.nanmean()) / (std + STD_EPS)
    else:
        grouped = total.view(-1, group)
        centered = (grouped - grouped.nanmean(1, keepdim=True)).flatten()
        spread = nanstd(total, 0) if scale == "batch" else nanstd(grouped, 1)
        std = spread.expand_as(grouped).flatten() if scale != "batch" else spread.expand_as(total)
        advantages = centered if scale == "none" else centered / (std + STD_EPS)
    return Scored(total, advantages.nan_to_num(0.0), torch.isclose(std, torch.zeros_like(std)))


def _weighted(parts: Tensor, weights: Tensor) -> Tensor:
    """Sum over the rewards that apply, their weights scaled to the sum of all `[S]`; NaN where none with a weight
    applies."""
    applies = ~parts.isnan() & (weights > 0)
    share = weights.sum() / (applies * weights).sum(1)
    return torch.where(applies.any(1), (parts.nan_to_num(0.0) * weights).sum(1) * share, torch.nan)


def nanstd(x: Tensor, dim: int) -> Tensor:
    """Unbiased standard deviation without NaNs, `dim` kept; NaN with fewer than two values."""
    count = (~x.isnan()).sum(dim, keepdim=True)
    variance = (x - x.nanmean(dim, keepdim=True)).square().nansum(dim, keepdim=True) / (count - 1)
    return torch.where(count > 1, variance.sqrt(), torch.nan)


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """The fields of trl.GRPOConfig that shape the loss; names and meaning are TRL's (`use_bias_correction_kl`
    multiplies the KL term by the importance ratio)."""

    loss_type: LossType
    importance_sampling_level: Level
    epsilon: float
    epsilon_high: float
    beta: float
    use_bias_correction_kl: bool
    max_completion_length: int


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """One micro-batch: log-probabilities of the policy, of the policy that sampled and (with beta) of the reference,
    `mask [S,C]` of tokens that count, `advantages [S]`."""

    logps: Tensor
    old_logps: Tensor
    ref_logps: Tensor | None
    mask: Tensor
    advantages: Tensor


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The micro-batch's share of the step's loss; without gradient: the KL estimate per token `[S,C]` (None without
    beta), and where the ratio was clipped below and above, `[S,C]`, or `[S,1]` for ratios per sequence."""

    loss: Tensor
    kl: Tensor | None
    clipped_low: Tensor
    clipped_high: Tensor


def policy_loss(tokens: Tokens, settings: LossSettings, num_items: Tensor, micro_batches: float) -> Terms:
    """The loss of a micro-batch and what is logged of it.

    `num_items`: counted tokens of the whole optimizer step, per process (normalizes `dapo`); the other losses are means
    over the micro-batch, divided by `micro_batches`.
    """
    mask, advantages = tokens.mask, tokens.advantages.unsqueeze(1)
    log_ratio = tokens.logps - tokens.old_logps
    if settings.importance_sampling_level == "sequence":
        log_ratio = ((log_ratio * mask).sum(1) / mask.sum(1).clamp(min=1.0)).unsqueeze(1)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - settings.epsilon, 1 + settings.epsilon_high)
    per_token = -torch.min(ratio * advantages, clipped * advantages)
    kl = None
    if settings.beta:
        assert tokens.ref_logps is not None
        gap = tokens.ref_logps - tokens.logps
        kl = gap.exp() - gap - 1
        kl = kl * ratio if settings.use_bias_correction_kl else kl
        per_token = per_token + settings.beta * kl
    return Terms(
        loss=_reduce(per_token * mask, mask, settings, num_items, micro_batches),
        kl=None if kl is None else kl.detach(),
        clipped_low=((ratio < 1 - settings.epsilon) & (advantages < 0)).detach(),
        clipped_high=((ratio > 1 + settings.epsilon_high) & (advantages > 0)).detach(),
    )


def _reduce(per_token: Tensor, mask: Tensor, settings: LossSettings, num_items: Tensor, micro_batches: float) -> Tensor:
    """Masked losses `[S,C]` to one number, as `loss_type` normalizes it."""
    if settings.loss_type == "dapo":
        return per_token.sum() / num_items.clamp(min=1.0)
    if settings.loss_type == "grpo":
        mean = (per_token.sum(1) / mask.sum(1).clamp(min=1.0)).mean()
    elif settings.loss_type == "bnpo":
        mean = per_token.sum() / mask.sum().clamp(min=1.0)
    else:
        mean = per_token.sum() / (per_token.shape[0] * settings.max_completion_length)
    return mean / micro_batches


def token_logps(logits: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability of `ids [S,C]` under `logits [S,C,V]` at the sampling temperature, and the entropy (without
    gradient)."""
    logits = logits.float() / temperature
    logps = logits.gather(2, ids.unsqueeze(2)).squeeze(2) - logits.logsumexp(2)
    with torch.no_grad():
        distribution = logits.log_softmax(2)
        entropy = -(distribution.exp() * distribution).sum(2)
    return logps, entropy
