"""The completions of an optimizer step: micro-batches of prompts -> pieces with completions and records.

A micro-batch is a list of pieces: the prompts it was given, and later those that replace groups without signal (DAPO's
dynamic sampling, arXiv:2503.14476, which TRL lacks). A prompt whose clip cannot be read is in no piece: it costs its
group, is listed, and the rest goes on.

Departs from DAPO: dead groups are replaced for a fixed number of rounds, and those that then remain stay in the batch
with advantage 0 (DAPO samples until the batch is full); replacements are drawn from all training rows by the seed,
the step and the round, so that a resumed run, and another number of processes, draw the same.

Shapes: P prompts, G completions per prompt, S = P·G.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from vqa2.core.records import Instruction
from vqa2.core.scale import mos_to_acr
from vqa2.train._grpo_inputs import Broken, choice_of, prompt_batch, take_clips
from vqa2.train._grpo_log import Record
from vqa2.train._rollout import Rollout, Sampling, sample_all, uniforms, words


@dataclass(frozen=True)
class Piece:
    """Prompts with their completions as tensors (see `packs_of`, advantages excepted), and a record per completion."""

    batch: dict[str, Any]
    records: list[Record]


@dataclass(frozen=True)
class MicroBatch:
    """What one backward pass of the loop covers; `broken`: prompts without a readable clip; `thumbnails`: prompt id ->
    JPEG; `dropped`: key frames that too long rows lost."""

    pieces: list[Piece]
    broken: list[Broken]
    thumbnails: dict[str, bytes]
    dropped: int

    @property
    def records(self) -> list[Record]:
        return [record for piece in self.pieces for record in piece.records]


Encode = Callable[[dict[str, Any]], dict[str, Any]]
Encoded = dict[tuple, dict[str, torch.Tensor]]
"""Clip -> what the towers make of it (see VQA2Model.encode)."""


def encode_once(model, media: dict[str, Any], names: Sequence[tuple], known: Encoded) -> dict[str, Any]:
    """`media` as the towers see them, one clip per prompt; a clip that several prompts ask about is encoded once.
    `names [P]` tell the clips apart."""
    new = [k for k, name in enumerate(names) if name not in known and name not in names[:k]]
    if new:
        made = model.encode(take_clips(media, new))
        known.update((names[k], take_clips(made, [row])) for row, k in enumerate(new))
        if len(new) == len(names):
            return made
    parts = [known[name] for name in names]
    return {field: torch.cat([part[field] for part in parts]) for field in parts[0]}


@dataclass(frozen=True)
class Asked:
    """Prompts to sample: their rows, collated batch, media as the towers see them, and key frames lost."""

    rows: list[Instruction]
    batch: dict[str, Any]
    encoded: dict[str, Any]
    dropped: int


@dataclass(frozen=True)
class Roller:
    """Samples the completions of collated micro-batches. `prepare` moves tensors to the device; `drop_clipped`:
    completions that ran into the length limit do not enter the loss; `budget`: places of a decoding loop's cache."""

    tokenizer: Any
    drop_clipped: bool
    prepare: Callable[[dict[str, Any]], dict[str, Any]]
    budget: int

    def __call__(
        self, model, pairs: Sequence[dict[str, Any]], key: tuple[int, ...], sampling: Sampling, known: Encoded
    ) -> list[MicroBatch]:
        """A micro-batch for each of `pairs` (what `Pairs` collates), clean and perturbed prompts of all of them decoded
        together; random numbers depend on `key` and the prompt. `known`: clips that the towers have seen in this step;
        it grows."""
        clean = [self._asked(p["clean"], partial(encode_once, model, names=p["names"], known=known)) for p in pairs]
        disturbed = [
            self._asked(p["disturbed"], partial(model.encode, clean=c and c.encoded)) for p, c in zip(pairs, clean)
        ]
        asked = {(branch, k): a for branch, some in enumerate((clean, disturbed)) for k, a in enumerate(some) if a}
        prompts = [a.batch | {"media": a.encoded} for a in asked.values()]
        numbers = [uniforms((*key, branch), [r.id for r in a.rows], sampling) for (branch, _), a in asked.items()]
        rollouts = dict(zip(asked, sample_all(model, prompts, numbers, sampling, self.budget), strict=True))
        made = []
        for k, (pair, own) in enumerate(zip(pairs, clean)):
            pieces = []
            if own is not None:
                other = disturbed[k]
                texts = {} if other is None else self._texts(other, rollouts[1, k], sampling.num)
                pieces.append(self._piece(model, own, rollouts[0, k], texts, pair["modes"]))
            made.append(MicroBatch(pieces, pair["broken"], pair["thumbnails"], own.dropped if own else 0))
        return made

    def _texts(self, asked: Asked, rollout: Rollout, group: int) -> dict[str, list[str]]:
        """Row id -> its completions."""
        texts = words(rollout, self.tokenizer)
        return {row.id: texts[n * group : (n + 1) * group] for n, row in enumerate(asked.rows)}

    def _asked(self, collated: dict[str, Any] | None, encode: Encode) -> Asked | None:
        if collated is None:
            return None
        batch = self.prepare(prompt_batch(collated))
        rows, dropped = batch.pop("rows"), batch.pop("dropped_key_frames")
        return Asked(rows, batch, encode(batch["media"]), dropped)

    def _piece(
        self, model, asked: Asked, rollout: Rollout, perturbed: dict[str, list[str]], modes: dict[str, str]
    ) -> Piece:
        mask, group = rollout.mask, len(rollout.ids) // len(asked.rows)
        if self.drop_clipped:
            mask = mask * ~rollout.clipped.unsqueeze(1)
        made = {
            "completion_ids": rollout.ids,
            "completion_mask": mask,
            "owner": torch.arange(len(asked.rows), device=mask.device).repeat_interleave(group),
            "media": model.constants(asked.batch["media"], asked.encoded),
        }
        written = zip(
            words(rollout, self.tokenizer), rollout.lists(), rollout.clipped.tolist(), mask.sum(1).tolist(), strict=True
        )
        return Piece(asked.batch | made, list(_records(asked.rows, perturbed, modes, group, written)))


def _records(
    rows: Sequence[Instruction],
    perturbed: dict[str, list[str]],
    modes: dict[str, str],
    group: int,
    written: Iterator[tuple],
) -> Iterator[Record]:
    """Records of the completions, which come prompt by prompt as (text, tokens, clipped, counted)."""
    for k, (text, tokens, clipped, counted) in enumerate(written):
        row = rows[k // group]
        choice = choice_of(row)
        yield Record(
            prompt_id=row.id,
            clip_id=row.clip_id,
            prompt=row.turns[-1].user,
            kind=row.kind,
            target=None if choice is not None or row.mos is None else mos_to_acr(row.mos),
            choice=choice,
            text=text,
            tokens=tuple(tokens),
            clipped=clipped,
            counted=counted,
            perturbed=perturbed[row.id][k % group] if row.id in perturbed else None,
            perturbation=modes.get(row.id),
        )


def without(micro: MicroBatch, dead: set[str]) -> MicroBatch:
    """The micro-batch without the groups of some prompts."""
    pieces = []
    for piece in micro.pieces:
        groups = len(piece.batch["input_ids"])
        size = len(piece.records) // groups
        kept = [p for p in range(groups) if piece.records[p * size].prompt_id not in dead]
        if kept:
            pieces.append(_taken(piece, kept, size))
    return replace(micro, pieces=pieces)


def _taken(piece: Piece, kept: list[int], size: int) -> Piece:
    """Some of a piece's groups of `size` completions."""
    batch, rows = piece.batch, [p * size + k for p in kept for k in range(size)]
    made = {
        "input_ids": batch["input_ids"][kept],
        "attention_mask": batch["attention_mask"][kept],
        "media": take_clips(batch["media"], kept),
        "owner": torch.arange(len(kept), device=batch["owner"].device).repeat_interleave(size),
        "completion_ids": batch["completion_ids"][rows],
        "completion_mask": batch["completion_mask"][rows],
    }
    return Piece(made, [piece.records[k] for k in rows])


def dead_prompts(records: Sequence[Record], advantages: torch.Tensor, group: int) -> list[str]:
    """Prompts, sorted, whose completions all have the same advantage: nothing to learn from."""
    spread = advantages.view(-1, group)
    same = (spread.amax(1) - spread.amin(1) < 1e-6).tolist()
    return sorted({records[k * group].prompt_id for k, dead in enumerate(same) if dead})


def substitutes(
    dead: Sequence[str], records: Sequence[Record], rows: Sequence[Instruction], seed: Sequence[int]
) -> dict[str, Instruction]:
    """Dead prompt id -> another row, none of which is in the step already; fewer where the rows run out."""
    present = {r.prompt_id for r in records}
    order = np.random.default_rng(seed).permutation(len(rows))
    fresh = (rows[k] for k in order.tolist() if rows[k].id not in present)
    return dict(zip(dead, fresh))
