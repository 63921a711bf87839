"""Log-probabilities of a group in one pass over `[prefix, c1 .. cG]`, and the packs that a micro-batch is cut into.

A row holds a prompt once and its completions one after the other. Position ids restart after the prefix for each of
them, and a token sees the prefix, the earlier tokens of its own completion and itself, so that the numbers are those of
G separate sequences; the gradient of the prefix is the sum over its completions. The first token of every completion is
predicted at the last place of the prefix; only the places that predict a completion token are projected to the
vocabulary.

A pack is what one forward and backward pass holds: completions in consecutive rows of the micro-batch, at most
`max_tokens` places with padding. A group is cut only where it does not fit into a pack alone (its prefix is then
repeated).

Shapes: P prompts, G completions per prompt, S completions, L prompt tokens (padded on the left), C completion tokens
(padded on the right), R packed rows, Q places of a row (padded on the right), D LM width, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask
from torch.nn.utils.rnn import pad_sequence

from vqa2.core.config import spec
from vqa2.core.errors import ConfigError
from vqa2.train._grpo_inputs import take_clips
from vqa2.train._grpo_loss import token_logps

PREFIX, PADDING = 0, -1


@spec
class Packing:
    """`max_tokens`: places of a pack, padding included. `rollout_tokens`: places of the key-value cache of one decoding
    loop (see `sample_all`). `attention` of the update: `sdpa` with a dense mask, or `flex` with a block mask (compiled
    kernels, CUDA)."""

    max_tokens: Annotated[int, Ge(1)]
    rollout_tokens: Annotated[int, Ge(1)]
    attention: Literal["sdpa", "flex"]


# -- cutting a micro-batch into packs ---------------------------------------------------------------------------------


def plan(prompts: Sequence[int], completions: Sequence[int], budget: int) -> list[range]:
    """Completions `[S]` as consecutive packs. `prompts [P]` and `completions [S]` are lengths in tokens.

    Groups are added to a pack while rows x longest row stays within the budget. A group beyond the budget is cut in
    the smallest number of runs of completions; one completion alone may exceed the budget, it cannot be cut.
    """
    group = len(completions) // len(prompts)
    packs: list[range] = []
    rows, longest = 0, 0
    for p, prefix in enumerate(prompts):
        own = range(p * group, (p + 1) * group)
        length = prefix + sum(completions[own.start : own.stop])
        if packs and rows and (rows + 1) * max(longest, length) <= budget:
            packs[-1] = range(packs[-1].start, own.stop)
            rows, longest = rows + 1, max(longest, length)
        elif length <= budget:
            packs.append(own)
            rows, longest = 1, length
        else:
            packs += _cut(own, prefix, completions, budget)
            rows = 0
    return packs


def _cut(own: range, prefix: int, completions: Sequence[int], budget: int) -> list[range]:
    cut, start, length = [], own.start, prefix
    for s in own:
        if s > start and length + completions[s] > budget:
            cut.append(range(start, s))
            start, length = s, prefix
        length += completions[s]
    return [*cut, range(start, own.stop)]


def packs_of(batch: dict[str, Any], budget: int) -> list[dict[str, Any]]:
    """A micro-batch as batches of the same form, each with the prompts and clips of its own completions only."""
    owner, mask = batch["owner"], batch["completion_mask"]
    runs = plan(batch["attention_mask"].sum(1).tolist(), mask.sum(1).tolist(), budget)
    if len(runs) == 1:
        return [batch]
    made = []
    for run in runs:
        first, last = int(owner[run.start]), int(owner[run.stop - 1])
        prompts, these = slice(first, last + 1), slice(run.start, run.stop)
        made.append(
            {
                "input_ids": batch["input_ids"][prompts],
                "attention_mask": batch["attention_mask"][prompts],
                "media": take_clips(batch["media"], range(first, last + 1)),
                "owner": owner[these] - first,
                **{k: batch[k][these] for k in ("completion_ids", "completion_mask", "advantages")},
            }
        )
    return made


# -- one pack ---------------------------------------------------------------------------------------------------------


def completion_logps(
    model: nn.Module, batch: dict[str, Any], temperature: float, attention: str
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies `[S,C]` of `batch["completion_ids"]`, with gradient where it is on; 0 where
    `completion_mask` is. `batch["owner"] [S]`: the row of a completion's prompt, in order."""
    ids, counts = batch["completion_ids"], batch["completion_mask"].sum(1)
    prompts = model.embed(batch["input_ids"], **batch["media"])
    prefix = batch["attention_mask"].sum(1)
    words = model.get_input_embeddings()(ids).to(prompts.dtype)
    embeds, segments, places = _rows(prompts, words, prefix.tolist(), counts.tolist(), batch["owner"].tolist())
    # Left padding is dropped, so a prompt token's place is its position.
    hidden = model.get_decoder()(
        inputs_embeds=embeds,
        attention_mask=group_mask(segments, attention),
        position_ids=_positions(segments),
        use_cache=False,
    ).last_hidden_state
    filled = batch["completion_mask"].bool()
    rows, columns = _predictors(places, batch["owner"], prefix, filled)
    logits = model.get_output_embeddings()(hidden[rows, columns])
    logps, entropy = token_logps(logits.unsqueeze(0), ids[filled].unsqueeze(0), temperature)
    blank = torch.zeros(ids.shape, device=ids.device, dtype=logps.dtype)
    return blank.masked_scatter(filled, logps), blank.masked_scatter(filled, entropy)


def _rows(
    prompts: Tensor, words: Tensor, prefix: list[int], counts: list[int], owner: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings `[R,Q,D]`, segments `[R,Q]` (PREFIX, 1 .. G per row, PADDING) and the place of each completion's first
    token in its row `[S]`."""
    embeds, segments, places = [], [], []
    for row, length in enumerate(prefix):
        own = [s for s, p in enumerate(owner) if p == row]
        at = length
        for s in own:
            places.append(at)
            at += counts[s]
        embeds.append(torch.cat([prompts[row, prompts.shape[1] - length :], *(words[s, : counts[s]] for s in own)]))
        kinds = torch.arange(len(own) + 1).repeat_interleave(torch.tensor([length, *(counts[s] for s in own)]))
        segments.append(kinds)
    return (
        pad_sequence(embeds, batch_first=True),
        pad_sequence(segments, batch_first=True, padding_value=PADDING).to(prompts.device),
        torch.tensor(places, device=prompts.device),
    )


def _positions(segments: Tensor) -> Tensor:
    """Position ids `[R,Q]`: completions count on from their prefix, each from the same number."""
    place = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    length = (segments == PREFIX).sum(1, keepdim=True)
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    start = torch.where(starts, place, 0).cummax(1).values
    return torch.where(segments == PREFIX, place, length + place - start)


def _predictors(places: Tensor, owner: Tensor, prefix: Tensor, filled: Tensor) -> tuple[Tensor, Tensor]:
    """Row and place that predict each counted token, in the order of `filled [S,C]`."""
    offset = torch.arange(filled.shape[1], device=filled.device).expand_as(filled)
    before = places.unsqueeze(1) + offset - 1
    columns = torch.where(offset == 0, prefix[owner].unsqueeze(1) - 1, before)
    return owner.unsqueeze(1).expand_as(filled)[filled], columns[filled]


def group_mask(segments: Tensor, attention: str):
    """Who sees whom: the prefix and one's own completion, never later places. Boolean `[R,1,Q,Q]`, or a BlockMask.

    Padding sees the prefix (a row of the mask without any place would give NaN) and is seen by no one.
    """
    if attention == "flex":

        def seen(row, _, query, key):
            of = segments[row, key]
            return (key <= query) & ((of == PREFIX) | (of == segments[row, query]))

        rows, length = segments.shape
        return create_block_mask(seen, rows, None, length, length, device=segments.device)
    place = torch.arange(segments.shape[1], device=segments.device)
    shared = (segments == PREFIX).unsqueeze(1) | (segments.unsqueeze(1) == segments.unsqueeze(2))
    return (shared & (place <= place.unsqueeze(1))).unsqueeze(1)


# -- how the model runs it --------------------------------------------------------------------------------------------

KERNELS = {"sdpa": "sdpa", "flex": "flex_attention"}


def check_attention(model: nn.Module, packing: Packing, device: torch.device) -> None:
    """ConfigError where the model, or the `device` that it will train on, cannot run packed rows (DeepSpeed moves it
    there only later)."""
    given = model.config.get_text_config()._attn_implementation
    if packing.attention == "sdpa" and given != "sdpa":
        raise ConfigError(f"model.attention: packed rows need a mask per place, which {given} lacks; set sdpa")
    if packing.attention == "flex" and device.type != "cuda":
        raise ConfigError("stage.packing.attention: flex needs CUDA (backward); set sdpa")


@contextmanager
def kernels(model: nn.Module, attention: str) -> Iterator[None]:
    """The language model on `sdpa` or `flex`: around forward and backward, since checkpointing reads the
    setting again."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = KERNELS[attention]
    try:
        yield
    finally:
        config._attn_implementation = before


def forward_through(
    wrapper: nn.Module, bare: nn.Module, batch: dict[str, Any], temperature: float, attention: str
) -> tuple[Tensor, Tensor]:
    """`completion_logps` of the model inside `wrapper` (DistributedDataParallel, DeepSpeed), run by the wrapper's
    forward: gradient reduction and sharding are set up there, and would not notice a call of `embed` on the bare
    model."""
    if wrapper is bare:
        return completion_logps(bare, batch, temperature, attention)
    own = vars(bare).get("forward")

    def once(inner: dict[str, Any]) -> tuple[Tensor, Tensor]:
        restore()
        return completion_logps(bare, inner, temperature, attention)

    def restore() -> None:
        if own is None:
            del bare.forward
        else:
            bare.forward = own

    bare.forward = once
    return wrapper(batch)
