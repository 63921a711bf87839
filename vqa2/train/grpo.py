"""GRPO for video quality (VQAThinker, arXiv:2508.06051) on transformers.Trainer, with trl.GRPOConfig as its arguments.

An optimizer step: fetch all its micro-batches of prompts, sample G completions of each prompt (`_grpo_collect`), gather
the texts of all processes, compute rewards and advantages over the whole step, perhaps replace groups without signal,
then one forward and backward per micro-batch; with `num_iterations` n all of them n times, each time with an update.

Departs from trl.GRPOTrainer: video and motion tensors are passed on whole; a clip is encoded once per prompt, not once
per completion; a group never leaves its process; rewards see the completions of all processes and run once; options
that this trainer does not implement are refused (grpo_config.py), not ignored. Departs from VQAThinker's release: see
vqa2/rewards and docs/grpo.md.

Shapes: P prompts of a micro-batch, G completions per prompt, S = P·G, L prompt tokens, C completion tokens, R rewards.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn
from transformers import Trainer, TrainerCallback
from trl import GRPOConfig
from trl.models import prepare_deepspeed, unwrap_model_for_generation

from vqa2.core.errors import DataError
from vqa2.core.records import Instruction
from vqa2.core.run import say
from vqa2.model.motion import MotionTower
from vqa2.model.tune import only_lora, without_lora
from vqa2.rewards.ranking import Ranking
from vqa2.rewards.temporal import Temporal
from vqa2.train._grpo_alarms import Watch
from vqa2.train._grpo_collect import MicroBatch, Roller
from vqa2.train._grpo_inputs import Collate, Pairs, check_rows, distinct
from vqa2.train._grpo_log import correlations, step_metrics
from vqa2.train._grpo_loss import Tokens, policy_loss
from vqa2.train._grpo_memory import RankingMemory
from vqa2.train._grpo_show import RunFiles, write_table
from vqa2.train._grpo_step import Judged, Steps
from vqa2.train._grpo_tally import Clock, Tally
from vqa2.train._grpo_updates import UpdatesAhead
from vqa2.train._packed import Packing, check_attention, forward_through, kernels, packs_of
from vqa2.train.grpo_config import Control, check, loss_settings, sampling_of
from vqa2.train.grpo_rewards import Judge, Reward


class GRPOTrainer(Trainer):
    """Trains `model` (with `embed`, see vqa2/model/modeling.py) on `rows` whose MOS is known.

    `per_device_train_batch_size` counts completions, as in TRL: a multiple of `num_generations`.
    `optimizer_groups(model)` gives AdamW's parameter groups. ConfigError for options that do not fit, DataError for
    rows without MOS.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model,
        args: GRPOConfig,
        rows: Sequence[Instruction],
        collate: Collate,
        rewards: dict[str, Reward],
        tokenizer,
        packing: Packing,
        control: Control,
        eval_rows: Sequence[Instruction] | None = None,
        optimizer_groups: Callable[[nn.Module], list[dict]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        check(args, rewards, tokenizer)
        check_rows([*rows, *(eval_rows or ())])
        self.packing, self.options, self.optimizer_groups = packing, control, optimizer_groups
        self.sampling, self.loss_settings = sampling_of(args, tokenizer), loss_settings(args)
        self.files, self.watch = RunFiles(Path(args.output_dir), control.show), Watch(control.alarms)
        self.ahead = UpdatesAhead(self)
        memory = RankingMemory(max((r.memory for r in rewards.values() if isinstance(r, Ranking)), default=0))
        temporal = next((r for r in rewards.values() if isinstance(r, Temporal)), None)
        super().__init__(
            model=model,
            args=args,
            data_collator=Pairs(collate, temporal, args.seed),
            train_dataset=distinct(rows),
            eval_dataset=None if eval_rows is None else list(eval_rows),
            callbacks=[self.files, memory, self.ahead, *(callbacks or ())],
        )
        check_attention(self.model, packing, args.device)
        self.clock = Clock()
        self.steps = Steps(
            accelerator=self.accelerator,
            roll=Roller(tokenizer, args.mask_truncated_completions, self._prepare_inputs, packing.rollout_tokens),
            judge=Judge(rewards, control.reward_timeout_s, self.accelerator.is_main_process),
            pairs=self.data_collator,
            rows=self.train_dataset,
            weights=torch.tensor([r.weight for r in rewards.values()], dtype=torch.float32),
            scale=args.scale_rewards,
            aggregation=args.multi_objective_aggregation,
            resample_rounds=control.resample_rounds,
            shuffle_rewards=control.shuffle_rewards,
            memory=memory,
            clock=self.clock,
        )
        # With LoRA alone the adapter is switched off instead.
        self.reference = self._frozen_copy() if args.beta and not only_lora(self.model) else None
        self.has_signal = False
        self._metrics: dict[str, list[float]] = defaultdict(list)
        self._tally = Tally(self.args.device)

    # -- what transformers.Trainer asks for ---------------------------------------------------------------------------

    def get_train_dataloader(self):
        """Batches of prompts: a micro-batch of completions divided by G."""
        return self._get_dataloader(
            dataset=self.train_dataset,
            description="Training",
            batch_size=self.args.per_device_train_batch_size // self.sampling.num,
            sampler_fn=self._get_train_sampler,
            is_training=True,
        )

    def create_optimizer(self, model=None):
        """AdamW on `optimizer_groups`; the library's choice without them."""
        if self.optimizer_groups is None:
            return super().create_optimizer()
        if self.optimizer is None:
            args, groups = self.args, self.optimizer_groups(self.model)
            self.optimizer = torch.optim.AdamW(groups, betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_epsilon)
        return self.optimizer

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device):
        """The micro-batches of one optimizer step with their completions and advantages, and the step's token count per
        process (the normalizer of `dapo`)."""
        key = (self.args.seed, self.state.global_step + 1)
        self.clock.start()
        with self.clock("data_s"):
            pairs = list(islice(epoch_iterator, num_batches))
        with self._generating() as model:
            micro, judged, replaced = self.steps.train(model, pairs, key, self.sampling)
            spares = [None if m.pieces else self.steps.spare(model, key, self.sampling) for m in micro]
        self._record(key[1], micro, judged, replaced)
        counted = sum(record.counted for record in judged.everyone) / self.accelerator.num_processes
        advantages, batches = iter(judged.scored.advantages[judged.mine].to(device)), []
        for m, spare in zip(micro, spares, strict=True):
            given = [p.batch | {"advantages": torch.stack([next(advantages) for _ in p.records])} for p in m.pieces]
            # A micro-batch without clips does its passes on the spare, with weight zero.
            blank = [] if spare is None else [spare | {"advantages": torch.zeros(self.sampling.num, device=device)}]
            batches.append({"pieces": given + blank, "weight": float(spare is None), "old": {}})
        items = torch.tensor(counted, dtype=torch.float32, device=device)
        self.ahead.rollout = (batches, items)
        return batches, items

    def _record(self, step: int, micro: list[MicroBatch], judged: Judged, replaced: int) -> None:
        """Metrics, files and alarms of a step."""
        verdict = judged.verdict
        made = {
            "resampled_groups": float(replaced),
            "broken_clips": float(len(judged.broken)),
            "dropped_key_frames": float(sum(gather_object([m.dropped for m in micro]))),
        }
        if judged.everyone:
            made |= step_metrics(judged.everyone, verdict.parts, judged.scored) | verdict.metrics
        for name, value in made.items():
            self._metrics[name].append(value)
        pictures = gather_object([m.thumbnails for m in micro]) if self.options.show.wants(step) else []
        if self.accelerator.is_main_process:
            for broken in judged.broken:
                say(f"step {step}: {broken.path}: {broken.reason}; prompt {broken.prompt_id} loses its group")
            self.files.add(step, judged, pictures, "wandb" in self.args.report_to)
        if judged.everyone:
            self.watch.see(step, made)

    def floating_point_ops(self, inputs) -> int:
        """Of the prompts of a micro-batch in all updates on it, as transformers.Trainer counts them."""
        once = sum(super(GRPOTrainer, self).floating_point_ops(piece) for piece in inputs["pieces"])
        return once * self.args.num_iterations

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Forward and backward of a micro-batch; after the last one of a step its numbers are logged."""
        total = self.passes(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            made = self._tally.means(self.accelerator, with_kl=self.args.beta > 0) | self.clock.seconds
            for name, value in made.items():
                self._metrics[name].append(value)
        return total

    def passes(self, model, inputs, num_items: torch.Tensor) -> torch.Tensor:
        """The loss of a micro-batch, with its gradient, pack by pack; gradients are reduced at its last one."""
        model.train()
        with self.clock("update_s"):
            pieces = [self._prepare_inputs(piece) for piece in inputs["pieces"]]
            packs = [pack for piece in pieces for pack in packs_of(piece, self.packing.max_tokens)]
            shared = {"whole": tuple(sum(n) for n in zip(*map(self._sizes, pieces))), "old": inputs["old"]}
            # ZeRO communicates in every pass: all processes do as many, the missing ones with weight zero.
            count = max(gather_object([len(packs)]))
            total = torch.zeros((), device=self.args.device)
            with kernels(self.accelerator.unwrap_model(model), self.packing.attention):
                for k in range(count):
                    number, weight = min(k, len(packs) - 1), inputs["weight"] * (k < len(packs))
                    pack = packs[number] | shared | {"number": number, "weight": weight}
                    with self._reducing(model, last=k == count - 1):
                        loss = self.compute_loss(model, pack, num_items_in_batch=num_items)
                        self.accelerator.backward(loss, **self._backward_options())
                    total += loss.detach()
            if total.is_cuda:
                torch.cuda.synchronize(total.device)
        return total

    def _backward_options(self) -> dict[str, bool]:
        """DeepSpeed would divide by the accumulation steps; the loss already is."""
        return {"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}

    @contextmanager
    def _reducing(self, model, last: bool) -> Iterator[None]:
        """Between processes nothing is reduced and DeepSpeed does not step before the last pack."""
        state, wanted = self.accelerator.gradient_state, self.accelerator.sync_gradients
        state._set_sync_gradients(wanted and last)
        try:
            with nullcontext() if wanted and last else self.accelerator.no_sync(model):
                yield
        finally:
            state._set_sync_gradients(wanted)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """A pack's share of the step's loss. At the first update on a rollout the policy is the one that sampled it;
        its log-probabilities stay in `inputs["old"]`, pack by pack, for the updates that follow."""
        assert not return_outputs
        assert num_items_in_batch is not None
        self.has_signal |= bool(inputs["advantages"].any())
        mask, weight = inputs["completion_mask"], inputs["weight"]
        with self.accelerator.autocast():
            reference = self._reference_logps(model, inputs) if self.args.beta else None
            logps, entropy = self._logps(model, self.model, inputs)
        old = inputs["old"].setdefault(inputs["number"], logps.detach())
        tokens = Tokens(logps=logps, old_logps=old, ref_logps=reference, mask=mask, advantages=inputs["advantages"])
        # The losses that are means over a micro-batch divide by the pack's own size: scaled to the whole one's.
        own, whole = self._sizes(inputs), inputs["whole"]
        share = whole[self.loss_settings.loss_type == "bnpo"] / max(1, own[self.loss_settings.loss_type == "bnpo"])
        micro_batches = self.current_gradient_accumulation_steps * share
        terms = policy_loss(tokens, self.loss_settings, num_items_in_batch, micro_batches)
        self._tally.add(terms, entropy, mask, weight)
        return terms.loss * weight

    @staticmethod
    def _sizes(batch: dict[str, Any]) -> tuple[int, int]:
        """Completions and counted tokens."""
        return len(batch["completion_mask"]), int(batch["completion_mask"].sum())

    def _logps(self, wrapper, bare, inputs):
        return forward_through(wrapper, bare, inputs, self.args.temperature, self.packing.attention)

    @torch.no_grad()
    def _reference_logps(self, model, inputs) -> torch.Tensor:
        """Log-probabilities before training: of the frozen copy, or of the model without its adapter."""
        if self.reference is None:
            with without_lora(self.model):
                return self._logps(model, self.model, inputs)[0]
        bare = self.accelerator.unwrap_model(self.reference)
        with kernels(bare, self.packing.attention):
            return self._logps(self.reference, bare, inputs)[0]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of the steps since the last row to rows of the training loss. A number that was nowhere
        defined (a reward that applied to nothing) is left out."""
        if "loss" in logs:
            for name, values in self._metrics.items():
                known = [v for v in values if not math.isnan(v)]
                if known:
                    logs[name] = sum(known) / len(known)
            self._metrics.clear()
        super().log(logs, start_time)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """`evaluate_rewards` on the held-out rows with the run's seed, logged as `eval_*`."""
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        metrics = {f"{metric_key_prefix}_{k}": v for k, v in self.evaluate_rewards(rows, self.args.seed).items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # -- rollouts and rewards -----------------------------------------------------------------------------------------

    def evaluate_rewards(self, rows: Sequence[Instruction], seed: int, table: Path | None = None) -> dict[str, float]:
        """Mean reward, its parts, parse rate, and SRCC and PLCC of ratings, from sampled completions on `rows`, all
        compared with each other; `table`: a file for the completions, in the form of `completions.jsonl`.

        The same seed gives the same random numbers: values before and after training differ by the weights alone.
        """
        check_rows(rows)
        rows = distinct(rows)
        sampling = replace(self.sampling, num=self.args.num_generations_eval or self.sampling.num)
        size = max(1, self.args.per_device_train_batch_size // sampling.num)
        with self._generating() as model:
            judged = self.steps.evaluate(model, rows, seed, sampling, size)
        for broken in judged.broken:
            say(f"evaluation: {broken.path}: {broken.reason}; prompt {broken.prompt_id} is left out")
        if not judged.everyone:
            raise DataError(f"evaluation: none of the {len(rows)} clips can be read")
        if table is not None and self.accelerator.is_main_process:
            write_table(table, self.state.global_step, judged)
        metrics = step_metrics(judged.everyone, judged.verdict.parts, judged.scored) | judged.verdict.metrics
        known = {k: v for k, v in metrics.items() if not math.isnan(v)}
        counts = {"prompts": len(rows), "broken_clips": len(judged.broken)}
        return counts | known | correlations(judged.everyone)

    @contextmanager
    def _generating(self) -> Iterator[nn.Module]:
        """The bare model in eval mode (dropout off), with ZeRO-3's shards gathered, under the run's precision, its
        language model on an attention that takes a mask per place."""
        training, kwargs = self.model.training, self.args.gradient_checkpointing_kwargs
        if self.model_wrapped is self.model:
            # Not prepared for training yet: DeepSpeed would move it only then.
            self.model.to(self.args.device)
        unwrapped = unwrap_model_for_generation(
            self.model_wrapped, self.accelerator, gradient_checkpointing_kwargs=kwargs
        )
        with unwrapped as model, self.accelerator.autocast(), kernels(model, "sdpa"):
            model.eval()
            yield model
            model.train(training)

    def _frozen_copy(self) -> nn.Module:
        """The model as it is before training: the reference of the KL term."""
        # Weights that do not train are those of the model itself; DeepSpeed partitions a model's own.
        frozen = {} if self.is_deepspeed_enabled else {id(p): p for p in self.model.parameters() if not p.requires_grad}
        copied = copy.deepcopy(self.model, frozen).eval().requires_grad_(False)
        for tower in (m for m in copied.modules() if isinstance(m, MotionTower)):
            tower.in_step = True
        if self.is_deepspeed_enabled:
            return prepare_deepspeed(copied, self.accelerator)
        return self.accelerator.prepare_model(copied, evaluation_mode=True)
