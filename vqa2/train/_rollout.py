"""Sampling completions with a shared prompt: the clip is encoded, the prompt read and its keys and values kept once,
for all G completions.

Randomness is one uniform number per token and completion, drawn from a generator of (seed, step, branch, prompt), and a
token is the inverse of the cumulative distribution at that number. So a prompt's completions depend on the weights, the
step and the prompt alone: not on its neighbors in the batch, the number of processes, or whether the run was resumed.

Shapes: P prompts, G completions per prompt, S = P·G (a prompt's completions in consecutive rows), L prompt tokens
(padded on the left), C completion tokens (padded on the right), D LM width, V vocabulary.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad as pad_left
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from vqa2.train._grpo_inputs import take_clips
from vqa2.train._packed import PADDING, PREFIX, plan


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """`num`: G. `top_k` 0 and `top_p` 1 are off. `ends`: ids that end a completion and belong to it."""

    num: int
    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    ends: tuple[int, ...]
    pad: int

    def warper(self) -> LogitsProcessorList:
        """The library's own filters, in its own order."""
        made = LogitsProcessorList()
        if self.temperature != 1.0:
            made.append(TemperatureLogitsWarper(self.temperature))
        if self.top_k:
            made.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1.0:
            made.append(TopPLogitsWarper(self.top_p))
        return made


@dataclass(frozen=True)
class Rollout:
    """`ids [S,C]`, `mask [S,C]` (1 up to and including the end token), `clipped [S]`: ran into the length limit."""

    ids: Tensor
    mask: Tensor
    clipped: Tensor

    def lists(self) -> list[list[int]]:
        """Token ids of each completion, without padding."""
        lengths = self.mask.sum(1).tolist()
        return [ids[:n] for ids, n in zip(self.ids.tolist(), lengths)]


def words(rollout: Rollout, tokenizer) -> list[str]:
    """The completions as texts, without special tokens."""
    return tokenizer.batch_decode(rollout.lists(), skip_special_tokens=True)


def uniforms(key: Sequence[int], prompts: Sequence[str], sampling: Sampling) -> Tensor:
    """`[S, max_tokens]` in [0, 1). A prompt that occurs twice in `prompts` gets different numbers each time."""
    seen: dict[str, int] = {}
    drawn = []
    for prompt in prompts:
        seen[prompt] = seen.get(prompt, 0) + 1
        rng = np.random.default_rng([*key, zlib.crc32(prompt.encode()), seen[prompt]])
        drawn.append(rng.random((sampling.num, sampling.max_tokens)))
    return torch.from_numpy(np.concatenate(drawn))


def joined(batches: Sequence[dict[str, Any]], pad: int) -> dict[str, Any]:
    """Prompts of several batches (see `prompt_batch`) as one, padded on the left to the longest."""
    length = max(batch["input_ids"].shape[1] for batch in batches)

    def wide(name: str, value: int) -> Tensor:
        return torch.cat([pad_left(batch[name], (length - batch[name].shape[1], 0), value=value) for batch in batches])

    media = {name: torch.cat([batch["media"][name] for batch in batches]) for name in batches[0]["media"]}
    return {"input_ids": wide("input_ids", pad), "attention_mask": wide("attention_mask", 0), "media": media}


def sample_all(
    model, batches: Sequence[dict[str, Any]], numbers: Sequence[Tensor], sampling: Sampling, budget: int
) -> list[Rollout]:
    """`sample` of several batches in as few decoding loops as `budget` allows: the places of a loop's cache, prompts x
    (longest prompt + G x `max_tokens`). One prompt alone may exceed it."""
    if not batches:
        return []
    whole, drawn = joined(batches, sampling.pad), torch.cat(list(numbers))
    group, lengths = sampling.num, whole["attention_mask"].sum(1)
    rows = (lengths + group * sampling.max_tokens).tolist()
    made = []
    for run in plan(rows, [0] * len(rows), budget):
        these, longest = slice(run.start, run.stop), int(lengths[run.start : run.stop].max())
        some = {name: whole[name][these, -longest:] for name in ("input_ids", "attention_mask")}
        some["media"] = take_clips(whole["media"], run)
        made.append(sample(model, some, sampling, drawn[run.start * group : run.stop * group]))
    sizes = [len(batch["input_ids"]) * group for batch in batches]
    columns = ([getattr(m, name) for m in made] for name in ("ids", "mask", "clipped"))
    return [Rollout(*parts) for parts in zip(*(torch.cat(column).split(sizes) for column in columns))]


@torch.no_grad()
def sample(model, batch: dict[str, Any], sampling: Sampling, numbers: Tensor) -> Rollout:
    """G completions of each prompt of `batch` (see `prompt_batch`), with the random `numbers` of `uniforms`. The model
    is in eval mode, its language model on an attention that takes a mask per place."""
    warp, device = sampling.warper(), batch["input_ids"].device
    numbers, ends = numbers.to(device), torch.tensor(sampling.ends, device=device)
    rows = Rows(model, batch, sampling)
    ids = torch.full(numbers.shape, sampling.pad, device=device)
    mask = torch.zeros_like(ids)
    logits, live = rows.first.repeat_interleave(sampling.num, 0), torch.arange(len(ids), device=device)
    for step in range(sampling.max_tokens):
        token = pick(warp(None, logits.float()), numbers[live, step])
        ids[live, step], mask[live, step] = token, 1
        goes_on = ~torch.isin(token, ends)
        live, token = live[goes_on], token[goes_on]
        if not len(live) or step == sampling.max_tokens - 1:
            break
        logits = rows.grow(live, token)
    clipped = torch.zeros(len(ids), dtype=torch.bool, device=device)
    clipped[live] = True
    return Rollout(ids, mask, clipped)


class Rows:
    """The key-value cache as one row per prompt: `[prefix, tokens of its completions in the order they were written]`,
    the packed row of `_packed` growing. The prefix lies there once for all completions; a token sees the prefix and the
    places of its own completion. A completion that has ended costs nothing more; a row without others leaves the cache.

    `first [P,V]`: logits after the prompts.
    """

    def __init__(self, model, batch: dict[str, Any], sampling: Sampling) -> None:
        mask = batch["attention_mask"]
        out = model(
            inputs_embeds=model.embed(batch["input_ids"], **batch["media"]),
            attention_mask=mask,
            position_ids=positions(mask),
            use_cache=True,
            logits_to_keep=1,
        )
        self.model, self.sampling, self.cache, self.first = model, sampling, out.past_key_values, out.logits[:, -1]
        self.segments = torch.where(mask.bool(), PREFIX, PADDING)
        self.prompts, self.places = torch.arange(len(mask), device=mask.device), mask.sum(1)

    def grow(self, live: Tensor, token: Tensor) -> Tensor:
        """Writes the next `token` of every completion in `live`, which are ascending and all equally long; logits after
        them `[live,V]`."""
        prompts, row, count = (live // self.sampling.num).unique_consecutive(return_inverse=True, return_counts=True)
        if len(prompts) < len(self.prompts):
            kept = torch.searchsorted(self.prompts, prompts)
            self.cache.batch_select_indices(kept)
            self.prompts, self.segments, self.places = prompts, self.segments[kept], self.places[kept]
        column = torch.arange(len(live), device=live.device) - (count.cumsum(0) - count)[row]
        words = torch.full((len(prompts), int(count.max())), self.sampling.pad, device=live.device)
        segments = torch.full_like(words, PADDING)
        words[row, column], segments[row, column] = token, 1 + live % self.sampling.num
        self.segments = torch.cat((self.segments, segments), 1)
        keys, queries = self.segments.unsqueeze(1), segments.unsqueeze(2)
        # Completions are looked up, never spliced: a sampled placeholder id is a word like any other.
        out = self.model(
            inputs_embeds=self.model.get_input_embeddings()(words),
            attention_mask=((keys == PREFIX) | (keys == queries)).unsqueeze(1),
            position_ids=self.places.unsqueeze(1).expand_as(words),
            past_key_values=self.cache,
            use_cache=True,
        )
        self.places = self.places + 1
        return out.logits[row, column]


def pick(scores: Tensor, numbers: Tensor) -> Tensor:
    """Tokens `[S]` from filtered scores `[S,V]`: the first whose cumulative probability exceeds the number."""
    cumulative = scores.softmax(-1).double().cumsum(-1)
    return torch.searchsorted(cumulative, numbers.unsqueeze(1) * cumulative[:, -1:], right=True).squeeze(1)


def positions(mask: Tensor) -> Tensor:
    """Position ids of left-padded sequences: padding does not count."""
    return (mask.cumsum(1) - 1).clamp(min=0)
