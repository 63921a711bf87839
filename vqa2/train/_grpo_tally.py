"""What is summed over an optimizer step: tokens (entropy, KL and how often the ratio was clipped, as TRL logs them) and
seconds.

Shapes: S completions, C completion tokens.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor

from vqa2.train._grpo_loss import Terms

SUMS = ("count", "entropy", "kl", "clip_count", "clip_low", "clip_high")

SPANS = ("data_s", "generation_s", "reward_s", "update_s")


class Clock:
    """Wall-clock seconds that this process spends in each of `SPANS`, since the last `start`."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """All spans at 0."""
        self.seconds = dict.fromkeys(SPANS, 0.0)

    @contextmanager
    def __call__(self, span: str) -> Iterator[None]:
        """What is inside counts for `span`."""
        started = time.perf_counter()
        yield
        self.seconds[span] += time.perf_counter() - started


class Tally:
    """Sums of this process since the last `means`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._clear()

    def add(self, terms: Terms, entropy: Tensor, mask: Tensor, weight: float) -> None:
        """A pass: `entropy`, `mask [S,C]`; `weight` 0 where it only keeps other processes company."""
        self._sums["count"] += weight * mask.sum()
        self._sums["entropy"] += weight * (entropy * mask).sum()
        if terms.kl is not None:
            self._sums["kl"] += weight * (terms.kl * mask).sum()
        # Ratios per sequence are counted by sequence, as in TRL.
        over = mask if terms.clipped_low.shape == mask.shape else torch.ones_like(terms.clipped_low)
        self._sums["clip_count"] += weight * over.sum()
        self._sums["clip_low"] += weight * (terms.clipped_low * over).sum()
        self._sums["clip_high"] += weight * (terms.clipped_high * over).sum()

    def means(self, accelerator: Accelerator, with_kl: bool) -> dict[str, float]:
        """Token means over all processes, under TRL's names; the sums start anew."""
        totals = accelerator.reduce(torch.stack(list(self._sums.values())), reduction="sum").tolist()
        sums = dict(zip(self._sums, totals))
        self._clear()
        tokens, clipped = max(sums["count"], 1.0), max(sums["clip_count"], 1.0)
        made = {
            "entropy": sums["entropy"] / tokens,
            "clip_ratio/low_mean": sums["clip_low"] / clipped,
            "clip_ratio/high_mean": sums["clip_high"] / clipped,
            "clip_ratio/region_mean": (sums["clip_low"] + sums["clip_high"]) / clipped,
        }
        return made | ({"kl": sums["kl"] / tokens} if with_kl else {})

    def _clear(self) -> None:
        self._sums = {name: torch.zeros((), device=self._device) for name in SUMS}
