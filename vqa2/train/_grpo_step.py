"""An optimizer step of GRPO before its update: completions of all micro-batches, rewards and advantages over all
processes, dynamic sampling, and what happens to clips that cannot be read.

Every method is called by all processes together, and decides from numbers that are the same on all of them.

Shapes: G completions per prompt, S completions of the step over all processes, R rewards.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from vqa2.core.errors import DataError
from vqa2.core.records import Instruction
from vqa2.rewards._scoring import EMPTY, Field, field_of
from vqa2.train._grpo_collect import Encoded, MicroBatch, Piece, Roller, dead_prompts, substitutes, without
from vqa2.train._grpo_inputs import Broken, Pairs
from vqa2.train._grpo_log import Record
from vqa2.train._grpo_loss import Aggregation, Scale, Scored, score
from vqa2.train._grpo_memory import RankingMemory
from vqa2.train._grpo_tally import Clock
from vqa2.train._rollout import Sampling
from vqa2.train.grpo_rewards import Judge, Verdict

SPARE_TRIES = 32
Key = tuple[int, int]
"""(seed, step): what random numbers of a step depend on."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The completions of all processes, in order of rank, with rewards and advantages; `mine`: where this process's
    lie; `broken`: prompts of all processes without a readable clip."""

    everyone: list[Record]
    mine: slice
    broken: list[Broken]
    verdict: Verdict
    scored: Scored


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Makes steps. `rows` are those that substitutes are drawn from; `weights [R]`."""

    accelerator: Accelerator
    roll: Roller
    judge: Judge
    pairs: Pairs
    rows: Sequence[Instruction]
    weights: torch.Tensor
    scale: Scale
    aggregation: Aggregation
    resample_rounds: int
    shuffle_rewards: bool
    memory: RankingMemory
    clock: Clock

    def train(self, model, pairs: list[dict[str, Any]], key: Key, sampling: Sampling):
        """Collated micro-batches -> micro-batches with completions, the step as judged, and how many groups were
        replaced. A step in which no process has a readable clip is empty."""
        known: Encoded = {}
        roll = partial(self._rolled, model, key=key, sampling=sampling, known=known)
        micro = roll(pairs)
        judged, replaced = self._judged(micro, sampling.num, key, self.memory.past), 0
        for attempt in range(1, self.resample_rounds + 1):
            if not judged.everyone:
                break
            dead = dead_prompts(judged.everyone, judged.scored.advantages, sampling.num)
            fresh = substitutes(dead, judged.everyone, self.rows, [*key, attempt])
            if not fresh:
                break
            replaced += len(fresh)
            micro = self._refilled(roll, micro, fresh)
            judged = self._judged(micro, sampling.num, key, self.memory.past)
        everyone = judged.everyone
        own = field_of([r.prompt_id for r in everyone], [_rating(r) for r in everyone], [r.target for r in everyone])
        self.memory.remember(own)
        return micro, judged, replaced

    def _rolled(self, *given, **named) -> list[MicroBatch]:
        with self.clock("generation_s"):
            return self.roll(*given, **named)

    def evaluate(self, model, rows: Sequence[Instruction], seed: int, sampling: Sampling, size: int) -> Judged:
        """Completions of `rows`, `size` prompts at a time on this process, compared with each other; no memory, no
        replacing, no shuffling."""
        mine = list(rows)[self.accelerator.process_index :: self.accelerator.num_processes]
        micro: list[MicroBatch] = []
        for k in range(0, len(mine), size):
            made = self.roll(model, [self.pairs(mine[k : k + size])], (seed, 0), sampling, {})
            # Only what was written is kept: the clips of all chunks would not fit the device.
            micro += [replace(m, pieces=[Piece({}, m.records)], thumbnails={}) for m in made]
        return self._judged(micro, sampling.num, None, EMPTY)

    def _judged(self, micro: Sequence[MicroBatch], group: int, shuffle: Key | None, past: Field) -> Judged:
        """The rewards of a step; `shuffle`: the key of the shuffled-reward control, where that is asked for."""
        records = [record for m in micro for record in m.records]
        with self.clock("reward_s"):
            counts = gather_object([len(records)])
            start = sum(counts[: self.accelerator.process_index])
            everyone, broken = gather_object(records), gather_object([b for m in micro for b in m.broken])
            if everyone:
                verdict = self.judge(everyone, past)
                if self.shuffle_rewards and shuffle is not None:
                    verdict = verdict.shuffled(group, shuffle)
                table = torch.tensor(list(verdict.parts.values()), dtype=torch.float32).T
                scored = score(table, self.weights, group, self.scale, self.aggregation)
            else:
                verdict, scored = Verdict({}), Scored(*torch.zeros(3, 0))
        mine = slice(start, start + len(records))
        return Judged(everyone=everyone, mine=mine, broken=broken, verdict=verdict, scored=scored)

    def _refilled(
        self,
        roll: Callable[[list[dict[str, Any]]], list[MicroBatch]],
        micro: Sequence[MicroBatch],
        fresh: dict[str, Instruction],
    ) -> list[MicroBatch]:
        """The micro-batches with other prompts in place of those in `fresh`."""
        ours = [[i for i in dict.fromkeys(r.prompt_id for r in m.records) if i in fresh] for m in micro]
        with self.clock("data_s"):
            pairs = [self.pairs([fresh[i] for i in some]) for some in ours if some]
        more = iter(roll(pairs))
        return [_merged(without(m, set(some)), next(more)) if some else m for m, some in zip(micro, ours)]

    def spare(self, model, key: Key, sampling: Sampling) -> dict[str, Any]:
        """A piece's tensors for a micro-batch without any clip: processes must do as many passes as each other, and
        this one counts for nothing. DataError where no clip of the data can be read."""
        rng = np.random.default_rng([*key, self.accelerator.process_index])
        tries = rng.permutation(len(self.rows))[:SPARE_TRIES].tolist()
        for k in tries:
            [micro] = self._rolled(model, [self.pairs([self.rows[k]])], key, sampling, {})
            if micro.pieces:
                return micro.pieces[0].batch
        raise DataError(f"{self.rows[k].media}: {len(tries)} clips in a row cannot be read; is the data still there?")


def _merged(micro: MicroBatch, more: MicroBatch) -> MicroBatch:
    return MicroBatch(
        pieces=micro.pieces + more.pieces,
        broken=micro.broken + more.broken,
        thumbnails=micro.thumbnails | more.thumbnails,
        dropped=micro.dropped + more.dropped,
    )


def _rating(record: Record) -> float | None:
    answer = record.answer
    return answer if isinstance(answer, float) else None
