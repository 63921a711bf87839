"""Stage `grpo`: reinforcement learning of reasoned ratings with VQAThinker's rewards (AAAI 2026). The trainer is
vqa2/train/grpo.py; this file only assembles it from the configuration."""

import json
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Interval
from transformers import PrinterCallback, set_seed
from trl import GRPOConfig

from vqa2.core.config import build, register, spec
from vqa2.core.errors import DataError
from vqa2.core.records import Instruction
from vqa2.core.run import rank, say
from vqa2.data.dataset import QUARANTINE, Collator
from vqa2.model.tune import Audit, Tune, parameter_groups
from vqa2.train._evaluate import callbacks, save_final
from vqa2.train._grpo_loss import Aggregation, Level, LossType, Scale
from vqa2.train._packed import Packing
from vqa2.train.callbacks import (
    AuditFirstSteps,
    EngineStarted,
    JsonlLog,
    RichProgress,
    complete_checkpoints,
    last_checkpoint,
    remove_checkpoints,
)
from vqa2.train.common import Optim, report_parts, starting_model, training_arguments, usable_rows
from vqa2.train.grpo import GRPOTrainer
from vqa2.train.grpo_config import Control, check_length, check_rewards
from vqa2.train.grpo_rewards import Reward
from vqa2.train.plan import Context


@spec
class Policy:
    """trl.GRPOConfig's options by TRL's names (docs/grpo.md); `optim.batch_size` counts prompts per device, TRL's
    per_device_train_batch_size is that times `num_generations`; a step of `optim` (`max_steps`, schedule, `save_every`)
    is a rollout with its `num_iterations` updates."""

    num_generations: Annotated[int, Ge(2)]
    num_generations_eval: Annotated[int, Ge(1)] | None
    max_completion_length: Annotated[int, Ge(1)]
    temperature: Annotated[float, Gt(0)]
    top_k: Annotated[int, Ge(0)]
    top_p: Annotated[float, Interval(gt=0, le=1)]
    beta: Annotated[float, Ge(0)]
    use_bias_correction_kl: bool
    num_iterations: Annotated[int, Ge(1)]
    epsilon: Annotated[float, Gt(0)]
    epsilon_high: Annotated[float, Gt(0)] | None
    loss_type: LossType
    scale_rewards: Scale
    importance_sampling_level: Level
    multi_objective_aggregation: Aggregation
    mask_truncated_completions: bool

    def options(self) -> dict[str, Any]:
        """As trl.GRPOConfig takes them."""
        return {name: getattr(self, name) for name in type(self).__dataclass_fields__}


@register("stage", "grpo")
class Grpo:
    """`rewards`: name -> component of kind reward; `eval_prompts` held-out prompts (of the sets' test splits; 0: none)
    are sampled before and after training with the same seed."""

    after: str | None
    init_from: str
    sets: dict[str, float]
    tune: Tune
    optim: Optim
    policy: Policy
    packing: Packing
    control: Control
    rewards: dict[str, dict[str, Any]]
    eval_prompts: Annotated[int, Ge(0)]

    def __post_init__(self) -> None:
        # Before an earlier stage is trained for this one.
        check_rewards(self._rewards(), "stage.rewards")
        check_length(self._rewards(), self.policy.max_completion_length, None, "stage.policy.")

    def _rewards(self) -> dict[str, Reward]:
        return {name: build("reward", values, f"stage.rewards.{name}") for name, values in self.rewards.items()}

    def run(self, context: Context) -> dict[str, Any]:
        """Trains, saves `model/` and returns key numbers, held-out rewards before and after among them."""
        started = time.monotonic()
        set_seed(context.spec.seed)
        known_bad = _quarantine(context)
        rows, quarantined = usable_rows(context, self.sets, "train", known_bad)
        held_out = self.held_out(context, known_bad)
        model, processor = starting_model(context, self.tune)
        parts = report_parts(model)
        trainer = self._trainer(context, model, processor, rows)
        resumed, done = last_checkpoint(context.run.dir), {}

        def measured(when: str) -> dict[str, float]:
            return trainer.evaluate_rewards(held_out, context.spec.seed, context.run.dir / f"held_out_{when}.jsonl")

        if held_out:
            done["held_out_before"] = _kept(context, resumed, partial(measured, "before"))
            say(f"held-out reward before: {done['held_out_before']['reward']:.3f} on {len(held_out)} prompts")
        result = trainer.train(resume_from_checkpoint=resumed)
        if held_out:
            done["held_out_after"] = measured("after")
            say(f"held-out reward after: {done['held_out_after']['reward']:.3f}")
        save_final(trainer, processor, context)
        remove_checkpoints(context.run.dir)
        return {
            "steps": result.global_step,
            "seconds": time.monotonic() - started,
            "prompts": len(rows),
            "quarantined": quarantined,
            "parameters": parts,
            **done,
        }

    def held_out(self, context: Context, quarantine: Path | None) -> list[Instruction]:
        """The prompts that are measured and not trained on. DataError where the data has none."""
        if not self.eval_prompts:
            return []
        for name in self.sets:
            path = Path(context.spec.data.root) / f"{name}.test.jsonl"
            if not path.is_file():
                raise DataError(f"{path}: no such file; held-out prompts come from it, or set stage.eval_prompts=0")
        rows, _ = usable_rows(context, self.sets, "test", quarantine)
        # A set's weight says how often to train on a row; it is measured once.
        return list({row.id: row for row in rows}.values())[: self.eval_prompts]

    def _trainer(self, context: Context, model, processor, rows) -> GRPOTrainer:
        data, made = context.spec.data, self.policy
        collator = Collator(processor, Path(data.root), context.spec.model.video, side="left", clips=context.clips)
        arguments = GRPOConfig(
            per_device_train_batch_size=self.optim.batch_size * made.num_generations,
            **training_arguments(self.optim, context),
            **made.options(),
        )
        trainer = GRPOTrainer(
            model,
            arguments,
            rows,
            collator,
            self._rewards(),
            processor.tokenizer,
            self.packing,
            self.control,
            optimizer_groups=lambda m: parameter_groups(m, self.tune, self.optim.weight_decay),
        )
        trainer.remove_callback(PrinterCallback)
        used = {part for part, policy in self.tune.parts.items() if policy != "frozen"}
        for callback in (
            EngineStarted(trainer, context.spec.engine.deepspeed is not None),
            RichProgress(context.run.dir.name),
            JsonlLog(context.run.dir),
            AuditFirstSteps(Audit(self.tune), used, say, lambda: trainer.has_signal),
            *callbacks(trainer, processor, context),
        ):
            trainer.add_callback(callback)
        return trainer


def _quarantine(context: Context) -> Path:
    """The list of unreadable clips as it was when the run began. A resumed run takes the rows that it began with, those
    included whose clip broke meanwhile, or it would shuffle, and measure, other rows."""
    now, then = Path(context.spec.data.root) / QUARANTINE, context.run.dir / QUARANTINE
    if complete_checkpoints(context.run.dir):
        return then
    if rank() == 0:
        then.write_text(now.read_text(encoding="utf-8") if now.is_file() else "", encoding="utf-8")
    return now


def _kept(context: Context, resumed: str | None, measure) -> dict[str, float]:
    """The numbers before training, kept on disk: a resumed run starts from trained weights."""
    path = context.run.dir / "held_out_before.json"
    if resumed and path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    made = measure()
    if rank() == 0:
        path.write_text(json.dumps(made), encoding="utf-8")
    return made
