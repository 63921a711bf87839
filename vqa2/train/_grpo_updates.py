"""More than one update on a rollout (`num_iterations`; mu in the paper, arXiv:2402.03300).

Departs from TRL, where every update is a step of the loop: a step here is a rollout with all its updates, and so are
what counts steps: `max_steps`, the learning-rate schedule, checkpoints, the log. A clip is then read once per rollout,
an epoch stays an epoch, and a resumed run begins with a rollout of its own.
"""

from typing import Any

from torch import Tensor
from transformers import TrainerCallback


class UpdatesAhead(TrainerCallback):
    """All updates on a rollout but the last, which is the loop's own, at the beginning of the loop's step: the random
    state of a resumed run is restored by then, and the loop has not yet switched off gradient reduction.

    `trainer`: the GRPOTrainer; `rollout`: its micro-batches and how many tokens they count.
    """

    def __init__(self, trainer) -> None:
        self.trainer = trainer
        self.rollout: tuple[list[dict[str, Any]], Tensor] | None = None

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        assert self.rollout is not None
        (batches, items), self.rollout = self.rollout, None
        trainer, model = self.trainer, self.trainer.model_wrapped
        gradients, wanted = trainer.accelerator.gradient_state, trainer.accelerator.sync_gradients
        for _ in range(args.num_iterations - 1):
            for batch in batches:
                gradients._set_sync_gradients(batch is batches[-1])
                trainer.passes(model, batch, items)
            if args.max_grad_norm > 0:
                trainer.accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
            trainer.optimizer.step()
            model.zero_grad()
        gradients._set_sync_gradients(wanted)
