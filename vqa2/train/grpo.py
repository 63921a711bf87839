"""GRPO for video quality (VQAThinker, arXiv:2508.06051) on transformers.Trainer, with trl.GRPOConfig as its arguments.

An optimizer step: fetch all its micro-batches of prompts, sample G completions of each prompt (`_rollout`), gather the
texts of all processes, compute rewards and advantages over the whole step, then one forward and backward per
micro-batch.

Departs from trl.GRPOTrainer: video and motion tensors are passed on whole; a clip is encoded once per prompt, not once
per completion; a group never leaves its process; rewards see the completions of all processes; options that this
trainer does not implement are refused (grpo_config.py), not ignored. Departs from VQAThinker's release: see
vqa2/rewards and docs/grpo.md.

Shapes: P prompts of a micro-batch, G completions per prompt, S = P·G, L prompt tokens, C completion tokens, R rewards.
"""

import copy
import math
import time
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
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import GRPOConfig
from trl.models import prepare_deepspeed, unwrap_model_for_generation

from vqa2.core.errors import ConfigError
from vqa2.core.records import Instruction
from vqa2.core.scale import mos_to_acr
from vqa2.model.tune import only_lora, without_lora
from vqa2.rewards.temporal import Temporal
from vqa2.train._grpo_inputs import Collate, Pairs, check_rows, prompt_batch
from vqa2.train._grpo_log import CompletionTable, Record, Rewind, step_metrics
from vqa2.train._grpo_loss import Tokens, policy_loss, score
from vqa2.train._packed import Packing, check_attention, forward_through, kernels, packs_of
from vqa2.train._rollout import Sampling, sample, uniforms, words
from vqa2.train.grpo_config import check, loss_settings, sampling_of
from vqa2.train.grpo_rewards import Reward, reward_parts


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
        eval_rows: Sequence[Instruction] | None = None,
        optimizer_groups: Callable[[nn.Module], list[dict]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        check(args, rewards, tokenizer)
        check_rows([*rows, *(eval_rows or ())])
        self.packing = packing
        self.rewards, self.tokenizer, self.optimizer_groups = rewards, tokenizer, optimizer_groups
        self.weights = torch.tensor([r.weight for r in rewards.values()], dtype=torch.float32)
        self.sampling, self.loss_settings = sampling_of(args, tokenizer), loss_settings(args)
        self.table = CompletionTable(Path(args.output_dir))
        temporal = next((r for r in rewards.values() if isinstance(r, Temporal)), None)
        super().__init__(
            model=model,
            args=args,
            data_collator=Pairs(collate, temporal, args.seed),
            train_dataset=list(rows),
            eval_dataset=None if eval_rows is None else list(eval_rows),
            callbacks=[Rewind(self.table), *(callbacks or ())],
        )
        check_attention(self.model, packing)
        # With LoRA alone the adapter is switched off instead.
        self.reference = self._frozen_copy() if args.beta and not only_lora(self.model) else None
        self.has_signal = False
        self._metrics: dict[str, list[float]] = defaultdict(list)
        self._reset_sums()

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
        started, step = time.perf_counter(), self.state.global_step + 1
        pairs = list(islice(epoch_iterator, num_batches))
        with self._generating() as model:
            rolled = [self._roll(model, pair, (self.args.seed, step), self.sampling) for pair in pairs]
        everyone, mine = self._gather([record for _, records in rolled for record in records])
        parts, scored = self._score(everyone, self.sampling.num)
        advantages = scored.advantages[mine].to(device).split([len(records) for _, records in rolled])
        metrics = step_metrics(everyone, parts, scored) | {"generation_s": time.perf_counter() - started}
        for name, value in metrics.items():
            self._metrics[name].append(value)
        if self.accelerator.is_main_process:
            self.table.add(step, everyone, parts, scored)
        counted = sum(record.counted for record in everyone) / self.accelerator.num_processes
        batches = [batch | {"advantages": share} for (batch, _), share in zip(rolled, advantages, strict=True)]
        return batches, torch.tensor(counted, dtype=torch.float32, device=device)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Forward and backward of a micro-batch, pack by pack; gradients are reduced at its last one."""
        started = time.perf_counter()
        model.train()
        packs = packs_of(self._prepare_inputs(inputs), self.packing.max_tokens)
        sizes = self._sizes(inputs)
        # ZeRO communicates in every pass: all processes do as many, the missing ones with weight zero.
        count = max(gather_object([len(packs)]))
        total = torch.zeros((), device=self.args.device)
        with kernels(self.accelerator.unwrap_model(model), self.packing):
            for k in range(count):
                pack = packs[min(k, len(packs) - 1)] | {"whole": sizes, "weight": float(k < len(packs))}
                with self._reducing(model, last=k == count - 1):
                    loss = self.compute_loss(model, pack, num_items_in_batch=num_items_in_batch)
                    self.accelerator.backward(loss, **self._backward_options())
                total += loss.detach()
        if total.is_cuda:
            torch.cuda.synchronize(total.device)
        self._update_s += time.perf_counter() - started
        if self.accelerator.sync_gradients:
            self._flush_sums()
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
            with nullcontext() if last else self.accelerator.no_sync(model):
                yield
        finally:
            state._set_sync_gradients(wanted)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """A pack's share of the step's loss. With one update per rollout the sampling policy is the current one, so its
        log-probabilities are the detached ones."""
        assert not return_outputs
        assert num_items_in_batch is not None
        self.has_signal |= bool(inputs["advantages"].any())
        mask, weight = inputs["completion_mask"], inputs["weight"]
        with self.accelerator.autocast():
            reference = self._reference_logps(model, inputs) if self.args.beta else None
            logps, entropy = self._logps(model, self.model, inputs)
        tokens = Tokens(
            logps=logps, old_logps=logps.detach(), ref_logps=reference, mask=mask, advantages=inputs["advantages"]
        )
        # The losses that are means over a micro-batch divide by the pack's own size: scaled to the whole one's.
        own, whole = self._sizes(inputs), inputs["whole"]
        share = whole[self.loss_settings.loss_type == "bnpo"] / max(1, own[self.loss_settings.loss_type == "bnpo"])
        micro_batches = self.current_gradient_accumulation_steps * share
        loss, kl = policy_loss(tokens, self.loss_settings, num_items_in_batch, micro_batches)
        self._sums["count"] += weight * mask.sum()
        self._sums["entropy"] += weight * (entropy * mask).sum()
        if kl is not None:
            self._sums["kl"] += weight * (kl * mask).sum()
        return loss * weight

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
        with kernels(bare, self.packing):
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

    def evaluate_rewards(self, rows: Sequence[Instruction], seed: int) -> dict[str, float]:
        """Mean reward, its parts and parse rate of sampled completions on `rows`, all compared with each other.

        The same seed gives the same random numbers: values before and after training differ by the weights alone.
        """
        check_rows(rows)
        sampling = replace(self.sampling, num=self.args.num_generations_eval or self.sampling.num)
        mine = list(rows)[self.accelerator.process_index :: self.accelerator.num_processes]
        size = max(1, self.args.per_device_train_batch_size // sampling.num)
        chunks = [mine[k : k + size] for k in range(0, len(mine), size)]
        with self._generating() as model:
            rolled = [self._roll(model, self.data_collator(chunk), (seed, 0), sampling) for chunk in chunks]
        everyone, _ = self._gather([record for _, records in rolled for record in records])
        parts, scored = self._score(everyone, sampling.num)
        metrics = step_metrics(everyone, parts, scored)
        return {"prompts": len(rows)} | {k: v for k, v in metrics.items() if not math.isnan(v)}

    @contextmanager
    def _generating(self) -> Iterator[nn.Module]:
        """The bare model in eval mode (dropout off), with ZeRO-3's shards gathered, under the run's precision."""
        training, kwargs = self.model.training, self.args.gradient_checkpointing_kwargs
        unwrapped = unwrap_model_for_generation(
            self.model_wrapped, self.accelerator, gradient_checkpointing_kwargs=kwargs
        )
        with unwrapped as model, self.accelerator.autocast():
            model.eval()
            yield model
            model.train(training)

    def _roll(self, model, pair: dict[str, Any], key: tuple[int, ...], sampling: Sampling) -> tuple[dict, list[Record]]:
        """One micro-batch: its tensors with completions, and a record per completion."""
        batch = self._prepare_inputs(prompt_batch(pair["clean"]))
        rows: list[Instruction] = batch.pop("rows")
        encoded = model.encode(batch["media"])
        numbers = uniforms((*key, 0), [r.id for r in rows], sampling)
        rollout = sample(model, batch | {"media": encoded}, sampling, numbers)
        perturbed: dict[str, list[str]] = {}
        if pair["disturbed"] is not None:
            other = self._prepare_inputs(prompt_batch(pair["disturbed"]))
            ids = [row.id for row in other.pop("rows")]
            other["media"] = model.encode(other["media"], encoded)
            texts = words(sample(model, other, sampling, uniforms((*key, 1), ids, sampling)), self.tokenizer)
            perturbed = {i: texts[n * sampling.num : (n + 1) * sampling.num] for n, i in enumerate(ids)}
        mask = rollout.mask
        if self.args.mask_truncated_completions:
            mask = mask * ~rollout.clipped.unsqueeze(1)
        records = [
            Record(
                prompt_id=row.id,
                prompt=row.turns[-1].user,
                kind=row.kind,
                target=mos_to_acr(row.mos),
                text=text,
                tokens=tuple(ids),
                clipped=clipped,
                counted=counted,
                perturbed=perturbed[row.id][k % sampling.num] if row.id in perturbed else None,
            )
            for k, (row, text, ids, clipped, counted) in enumerate(
                zip(
                    (row for row in rows for _ in range(sampling.num)),
                    words(rollout, self.tokenizer),
                    rollout.lists(),
                    rollout.clipped.tolist(),
                    mask.sum(1).tolist(),
                    strict=True,
                )
            )
        ]
        made = {
            "completion_ids": rollout.ids,
            "completion_mask": mask,
            "owner": torch.arange(len(rows), device=mask.device).repeat_interleave(sampling.num),
        }
        return batch | made | {"media": model.constants(batch["media"], encoded)}, records

    def _gather(self, records: list[Record]) -> tuple[list[Record], slice]:
        """The records of all processes in order of rank, and where this process's lie."""
        counts = gather_object([len(records)])
        start = sum(counts[: self.accelerator.process_index])
        return gather_object(records), slice(start, start + len(records))

    def _score(self, records: list[Record], group: int):
        """Every process computes all rewards of the step: they are cheap, and ranking needs all of them."""
        parts = reward_parts(self.rewards, records)
        table = torch.tensor(list(parts.values()), dtype=torch.float32).T
        return parts, score(table, self.weights, group, self.args.scale_rewards, self.args.multi_objective_aggregation)

    def _frozen_copy(self) -> nn.Module:
        """The model as it is before training: the reference of the KL term."""
        if is_deepspeed_zero3_enabled():
            raise ConfigError("beta: a reference model under ZeRO-3 is not supported; set beta to 0 or use ZeRO-2")
        copied = copy.deepcopy(self.model).eval().requires_grad_(False)
        if self.is_deepspeed_enabled:
            return prepare_deepspeed(copied, self.accelerator)
        return self.accelerator.prepare_model(copied, evaluation_mode=True)

    def _reset_sums(self) -> None:
        self._sums = {name: torch.zeros((), device=self.args.device) for name in ("count", "entropy", "kl")}
        self._update_s = 0.0

    def _flush_sums(self) -> None:
        """Token means of the optimizer step over all processes."""
        count, entropy, kl = self.accelerator.reduce(torch.stack(list(self._sums.values())), reduction="sum").tolist()
        self._metrics["entropy"].append(entropy / max(count, 1.0))
        if self.args.beta:
            self._metrics["kl"].append(kl / max(count, 1.0))
        self._metrics["update_s"].append(self._update_s)
        self._reset_sums()
