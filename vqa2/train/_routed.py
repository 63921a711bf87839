"""Trains the learned router: the gate alone on hidden states that were computed before, or gate and LoRA backbone
together, on transformers.Trainer and the engines of every other stage.

Shapes: B clips, D hidden width, E experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Trainer

from vqa2.data.dataset import ClipCache
from vqa2.data.video import VideoSpec
from vqa2.experts.base import Media
from vqa2.model.gate import Gate, balance, loss, places, share
from vqa2.model.predict import prompt_of
from vqa2.model.processing import VQA2Processor
from vqa2.model.tune import Tune, parameter_groups
from vqa2.train._router import GateFit, Material
from vqa2.train.callbacks import AuditFirstSteps


class RoutedModel(nn.Module):
    """The gate, with the backbone it looks through where that trains (`backbone` is None where it is frozen: its
    features come with the batch)."""

    accepts_loss_kwargs = True
    # Not used here, and in some models the same tensor as the embeddings, which a checkpoint cannot hold twice.
    _keys_to_ignore_on_save = ("backbone.lm_head.weight",)

    def __init__(self, gate: Gate, backbone: nn.Module | None, made: GateFit) -> None:
        super().__init__()
        self.gate, self.backbone, self.made = gate, backbone, made

    def forward(
        self,
        scores: Tensor,
        labels: Tensor,
        types: Tensor,
        top_k: int | None = None,
        features: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **prompt: Tensor,
    ) -> dict[str, Tensor]:
        """`scores [B,E]`, `labels [B]` (MOS), `types [B]`, and `features [B,D]` or the scoring prompts of the clips ->
        `loss`, `features`.

        Every term is a sum over clips divided by `num_items_in_batch`, the clips of the whole optimizer step, so that
        no split of a batch over processes changes it. The experts' use, which load balancing needs, is counted over the
        micro-batches of all processes.
        """
        seen = self.backbone.seen(**prompt) if features is None else features
        routed = self.gate(seen)
        everyone = torch.ones(scores.shape[1], dtype=torch.bool, device=scores.device)
        weights = share(routed.experts, self.gate.shape.top_k if top_k is None else top_k, everyone)
        value, likelihood = loss(routed, weights, scores, labels, self.made.beta)
        total = (
            value
            + self.made.balance * balance(routed.experts, _used(weights))
            + self.made.types * functional.cross_entropy(routed.types, types, reduction="sum")
            + self.made.uncertainty * likelihood
        )
        return {"loss": total / (num_items_in_batch or len(labels)), "features": seen.detach()}

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Called by the Trainer."""
        self.backbone.activation_checkpointing_enable(**options)

    def tie_weights(self) -> None:
        """Called by the Trainer, when it has loaded a checkpoint."""
        if self.backbone is not None:
            self.backbone.tie_weights()


def _used(weights: Tensor) -> Tensor:
    """The share `[E]` that each expert takes of the clips of all processes; a constant."""
    counted = torch.cat((places(weights.detach()), weights.new_tensor([len(weights)])))
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(counted)
    return counted[:-1] / counted[-1]


@dataclass(frozen=True)
class Prompts:
    """The scoring prompts of clips as one padded batch: what `ModelPredictor.hidden` sees of each, one by one."""

    processor: VQA2Processor
    media: Sequence[Media]
    video: VideoSpec
    clips: ClipCache

    def __call__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        key, motion = ((size, size) for size in (self.processor.image_size, self.processor.motion_size))
        chosen = [self.media[i] for i in rows]
        read = [self.clips.read(m.path, m.kind, key, motion, self.video) for m in chosen]
        asked = self.processor.score_question
        laid = [prompt_of(self.processor, asked, v, m.key) for v, m in zip(read, chosen, strict=True)]
        length, pad = max(len(ids) for ids, _ in laid), self.processor.tokenizer.pad_token_id
        return {
            "input_ids": torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in laid]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in laid]),
            **self.processor.media([video for _, video in laid]),
        }


@dataclass(frozen=True)
class RoutedCollator:
    """Row numbers -> a batch of `RoutedModel`. `prompts` is None where the features are kept."""

    material: Material
    prompts: Prompts | None

    def __call__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        part = self.material.take(rows)
        batch = {"scores": part.scores, "labels": part.mos, "types": part.types}
        return batch | ({"features": part.features} if self.prompts is None else self.prompts(rows))


class RouterTrainer(Trainer):
    """Trainer with the learning rates of gate and parts, and all experts in the first epochs."""

    def __init__(self, *args, tune: Tune, made: GateFit, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.tune, self.made = tune, made

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            args, gate = self.args, list(self.model.gate.parameters())
            groups = [
                {"params": [p for p in gate if p.ndim > 1], "lr": self.made.lr, "weight_decay": args.weight_decay},
                {"params": [p for p in gate if p.ndim == 1], "lr": self.made.lr, "weight_decay": 0.0},
            ]
            if self.model.backbone is not None:
                groups += parameter_groups(self.model.backbone, self.tune, args.weight_decay)
            self.optimizer = torch.optim.AdamW(groups, betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_epsilon)
        return self.optimizer

    def training_step(self, model, inputs, num_items_in_batch=None):
        dense = (self.state.epoch or 0.0) < self.made.dense_epochs
        inputs["top_k"] = inputs["scores"].shape[1] if dense else self.made.top_k
        return super().training_step(model, inputs, num_items_in_batch)

    def _save(self, output_dir=None, state_dict=None):
        state = self.model.state_dict() if state_dict is None else state_dict
        kept = {k: v for k, v in state.items() if k not in RoutedModel._keys_to_ignore_on_save}
        super()._save(output_dir, kept)


class BackboneAudit(AuditFirstSteps):
    """The first-step audit, of the backbone inside the routed model."""

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:
        super().on_train_begin(args, state, control, model=model.backbone, **kwargs)

    def on_step_end(self, args, state, control, model=None, **kwargs) -> None:
        super().on_step_end(args, state, control, model=model.backbone, **kwargs)
