"""Supervised stages (VQA² stages 1-3, and the tiny model's language base): transformers.Trainer on instruction rows.

The stages differ in YAML alone: sets, freeze policy, learning rates. Loss: sum of the cross-entropy over answer tokens
divided by the label count of the whole optimizer step (over all ranks), so 1x4 equals 4x1.
"""

import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from vqa2.core.config import register
from vqa2.core.prompts import SCORE_PREFIX, SCORE_QUESTION
from vqa2.core.records import Instruction
from vqa2.core.run import rank, say, world_size
from vqa2.data.dataset import Collator, as_dataset
from vqa2.data.stream import InOrder, Stream
from vqa2.model.tune import Audit, Tune, parameter_groups
from vqa2.train._evaluate import callbacks, save_final
from vqa2.train._lengths import RowOrder, lengths
from vqa2.train.callbacks import (
    AuditFirstSteps,
    EngineStarted,
    JsonlLog,
    RichProgress,
    last_checkpoint,
    logged_sum,
    remove_checkpoints,
)
from vqa2.train.common import (
    Optim,
    kinds,
    report_parts,
    starting_model,
    training_arguments,
    usable_rows,
    usable_stream,
)
from vqa2.train.plan import Context


class SftTrainer(Trainer):
    """Trainer with learning rates per part. `used`: the parts that the rows of the current optimizer step use, for the
    audit. `order`: the rows in another order than the library's."""

    def __init__(self, *args, tune: Tune, order: RowOrder | InOrder | None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.tune, self.order = tune, order
        if order is not None:
            self.add_callback(EpochOfOrder(order))
        self.used: set[str] = {"lm"}
        self.used_at = -1
        self.dropped_key_frames = 0

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            args = self.args
            groups = parameter_groups(self.model, self.tune, args.weight_decay)
            self.optimizer = torch.optim.AdamW(groups, betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_epsilon)
        return self.optimizer

    def _get_train_sampler(self, train_dataset=None):
        return super()._get_train_sampler(train_dataset) if self.order is None else self.order

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.dropped_key_frames += inputs.pop("dropped_key_frames")
        if self.state.global_step != self.used_at:
            self.used_at = self.state.global_step
            self.used.intersection_update({"lm"})
        if "clip_sizes" in inputs:
            clips = torch.ones(len(inputs["clip_sizes"]), dtype=torch.bool)
            if inputs.get("vision_grad", clips).any():
                self.used |= {"vision", "projector"}
            if inputs.get("motion_grad", clips).any() and self.use_motion:
                self.used |= {"motion", "position", "motion_projector"}
        return super().training_step(model, inputs, num_items_in_batch)

    def log(self, logs, start_time=None):
        """Log rows carry the key frames dropped since the last one, over all processes."""
        dropped = torch.tensor(self.dropped_key_frames, device=self.args.device)
        logs["dropped_key_frames"] = int(self.accelerator.reduce(dropped, reduction="sum"))
        self.dropped_key_frames = 0
        super().log(logs, start_time)


class EpochOfOrder(TrainerCallback):
    """Tells an order its epoch. The library does so too, but not with several processes that resume after the first
    epoch."""

    def __init__(self, order: RowOrder | InOrder) -> None:
        self.order = order

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.order.set_epoch(int(state.epoch or 0))


@register("stage", "sft")
class Sft:
    """`after`: the stage it continues from (null: the model's YAML); `init_from`: `auto` (that stage's model) or a
    model folder; `sets`: instruction set -> how often its rows enter the mixture (a fraction takes a sample);
    `group_by_length`: rows of similar length share a batch (less padding)."""

    after: str | None
    init_from: str
    sets: dict[str, float]
    group_by_length: bool
    tune: Tune
    optim: Optim

    def run(self, context: Context) -> dict[str, Any]:
        """Trains, saves `model/` in the run folder and returns key numbers."""
        started = time.monotonic()
        set_seed(context.spec.seed)
        if context.spec.data.streaming:
            rows = usable_stream(context, self.sets, "train")
            counted, quarantined = dict(rows.kinds), rows.left_out
        else:
            rows, quarantined = usable_rows(context, self.sets, "train")
            counted = kinds(rows)
        model, processor = starting_model(context, self.tune)
        if "scoring_ugc" in self.sets:
            # It learns the question of that set, whatever a converted checkpoint was asked before.
            processor.score_question, processor.score_prefix = SCORE_QUESTION, SCORE_PREFIX
        parts = report_parts(model)
        say(f"rows: {counted}, {quarantined} left out by the quarantine list")
        trainer = self._trainer(context, model, processor, rows)
        result = trainer.train(resume_from_checkpoint=last_checkpoint(context.run.dir))
        dropped = logged_sum(context.run.dir, "dropped_key_frames")
        if dropped:
            say(f"{dropped} key frames dropped from rows longer than {processor.max_length} tokens")
        save_final(trainer, processor, context)
        remove_checkpoints(context.run.dir)
        return {
            "steps": result.global_step,
            "train_loss": result.training_loss,
            "seconds": time.monotonic() - started,
            "rows": len(rows),
            "quarantined": quarantined,
            "dropped_key_frames": dropped,
            "parameters": parts,
        }

    def _trainer(self, context: Context, model, processor, rows: list[Instruction] | Stream) -> SftTrainer:
        data = context.spec.data
        streamed = isinstance(rows, Stream)
        collator = Collator(processor, Path(data.root), context.spec.model.video, side="right", clips=context.clips)
        collator.learn_from = dict(self.tune.learn_from)
        arguments = TrainingArguments(
            per_device_train_batch_size=self.optim.batch_size, **training_arguments(self.optim, context)
        )
        trainer = SftTrainer(
            model=model,
            args=arguments,
            train_dataset=rows if streamed else as_dataset(rows),
            data_collator=collator,
            tune=self.tune,
            order=InOrder(rows) if streamed else self._order(context, processor, rows),
        )
        trainer.use_motion = processor.use_motion
        trainer.remove_callback(PrinterCallback)
        audit = AuditFirstSteps(Audit(self.tune), trainer.used, say)
        engine = EngineStarted(trainer, context.spec.engine.deepspeed is not None)
        asked = callbacks(trainer, processor, context)
        for callback in (engine, RichProgress(context.run.dir.name), JsonlLog(context.run.dir), audit, *asked):
            trainer.add_callback(callback)
        return trainer

    def _order(self, context: Context, processor, rows) -> RowOrder | None:
        """None where neither the engine nor the stage asks for an order by length."""
        first = context.spec.engine.longest_first
        if not first and not self.group_by_length:
            return None
        multiple = context.spec.model.video.frame_multiple
        console = Console(stderr=True, quiet=rank() != 0)
        found = lengths(rows, Path(context.spec.data.root), processor, multiple, console)
        batch = self.optim.batch_size * world_size()
        say(f"longest rows first: {max(found).tokens} tokens" if first else "rows of similar length share a batch")
        return RowOrder(found, batch, context.spec.seed, self.group_by_length)
