"""Sampling completions with a shared prompt: the clip is encoded and the prompt prefilled once, for all G completions.

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
from transformers import Cache, LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper


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


@torch.no_grad()
def sample(model, batch: dict[str, Any], sampling: Sampling, numbers: Tensor) -> Rollout:
    """G completions of each prompt of `batch` (see `prompt_batch`), with the random `numbers` of `uniforms`. The model
    is in eval mode."""
    warp, table = sampling.warper(), model.get_input_embeddings()
    numbers = numbers.to(batch["input_ids"].device)
    ends = torch.tensor(sampling.ends, device=numbers.device)
    cache, logits, mask = prefill(model, batch, sampling.num)
    done = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    ids, alive = [], []
    for step in range(sampling.max_tokens):
        token = pick(warp(None, logits.float()), numbers[:, step]).masked_fill(done, sampling.pad)
        ids.append(token)
        alive.append(~done)
        done = done | torch.isin(token, ends)
        if done.all() or step == sampling.max_tokens - 1:
            break
        mask = torch.cat((mask, mask.new_ones(len(mask), 1)), 1)
        # Completions are looked up, never spliced: a sampled placeholder id is a word like any other.
        out = model(
            inputs_embeds=table(token.unsqueeze(1)),
            attention_mask=mask,
            position_ids=positions(mask)[:, -1:],
            past_key_values=cache,
            use_cache=True,
        )
        logits = out.logits[:, -1]
    return Rollout(torch.stack(ids, 1), torch.stack(alive, 1).long(), ~done)


def prefill(model, batch: dict[str, Any], num: int) -> tuple[Cache, Tensor, Tensor]:
    """Encodes and reads every prompt once: cache, next-token logits `[S,V]` and mask `[S,L]`, each `num` times."""
    mask = batch["attention_mask"]
    out = model(
        inputs_embeds=model.embed(batch["input_ids"], **batch["media"]),
        attention_mask=mask,
        position_ids=positions(mask),
        use_cache=True,
        logits_to_keep=1,
    )
    out.past_key_values.batch_repeat_interleave(num)
    return out.past_key_values, out.logits[:, -1].repeat_interleave(num, 0), mask.repeat_interleave(num, 0)


def pick(scores: Tensor, numbers: Tensor) -> Tensor:
    """Tokens `[S]` from filtered scores `[S,V]`: the first whose cumulative probability exceeds the number."""
    cumulative = scores.softmax(-1).double().cumsum(-1)
    return torch.searchsorted(cumulative, numbers.unsqueeze(1) * cumulative[:, -1:], right=True).squeeze(1)


def positions(mask: Tensor) -> Tensor:
    """Position ids of left-padded sequences: padding does not count."""
    return (mask.cumsum(1) - 1).clamp(min=0)
