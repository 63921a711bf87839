"""The ranking reward's memory: prompts of earlier steps with the answers they then got, as further opponents.

Not in VQAThinker. With few prompts a step, a completion meets few opponents and its ranking reward is noisy (the
released script has one opponent); the price is that remembered answers come from earlier weights.
"""

from dataclasses import asdict

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from vqa2.rewards._scoring import EMPTY, Field, joined


class RankingMemory(TrainerCallback, ExportableState):
    """The last `size` prompts, newest first. Saved in the checkpoint's trainer_state.json, so that a resumed run ranks
    against the same opponents; the same on every process."""

    def __init__(self, size: int) -> None:
        self.size, self.past = size, EMPTY

    def remember(self, step: Field) -> None:
        """Puts a step's prompts first, in place of older answers to the same prompts, and forgets the oldest."""
        self.past = Field(**{name: column[: self.size] for name, column in asdict(joined(step, self.past)).items()})

    def state(self) -> dict:
        """What transformers.Trainer saves."""
        return {"args": {"size": self.size}, "attributes": {"past": asdict(self.past)}}

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        saved = state.stateful_callbacks.get(type(self).__name__) if state.global_step else None
        columns = saved["attributes"]["past"] if saved else asdict(EMPTY)
        self.past = Field(**{name: tuple(column)[: self.size] for name, column in columns.items()})
