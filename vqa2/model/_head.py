"""The vocabulary head: logits, or the loss of label positions in pieces.

Shapes: A label positions, D LM width, V vocabulary.

Departs from the library, which projects every position of the prompt: 2,000 tokens of a video prompt times 152,064
words are 1.2 GB of float32 per copy, for a dozen answer tokens.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

PIECE_BYTES = 2**28
"""Float32 logits that live at once (441 label positions of Qwen2's vocabulary)."""


class Head(nn.Linear):
    """`lm_head`. Forward: `hidden [A,D]` -> logits `[A,V]`, or with `targets [A]` the sum of their cross-entropy.

    The loss is taken inside forward, and not around it, because ZeRO-3 gathers a module's weight per call: the number
    of pieces differs between processes, the number of calls must not.
    """

    def forward(self, hidden: Tensor, targets: Tensor | None = None) -> Tensor:
        if targets is None:
            return super().forward(hidden)
        size = max(1, PIECE_BYTES // (4 * self.out_features))
        if len(targets) <= size:
            return self._loss(hidden, targets)
        # The logits of a piece are made again in the backward pass and die with it.
        pieces = zip(hidden.split(size), targets.split(size))
        once = [checkpoint(self._loss, h, t, use_reentrant=False, preserve_rng_state=False) for h, t in pieces]
        return torch.stack(once).sum()

    def _loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        logits = super().forward(hidden).float()
        return nn.functional.cross_entropy(logits, targets, reduction="sum")
