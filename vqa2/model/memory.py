"""Memory of a training step, found without running one: the model lives on the meta device, and what autograd would
keep for the backward pass is counted tensor by tensor. No formula of layers to keep true.

Shapes: B rows, K key frames, T motion frames, L tokens, A answer tokens of a row.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AttentionInterface

from vqa2.model.modeling import VQA2Config, VQA2ForConditionalGeneration


def _fused(module, query, key, value, attention_mask, **kwargs):
    """Attention as the fused kernels do it, which keep no L x L weights; on the meta device the library would choose
    the one that does."""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, 1) if groups > 1 else x for x in (key, value))
    made = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, module.is_causal)[0]
    return made.transpose(1, 2).contiguous(), None


AttentionInterface.register("vqa2_fused_meta", _fused)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The longest batch: B rows of K key frames, T motion frames and L tokens, A of them answers."""

    rows: int
    keys: int
    motion: int
    tokens: int
    answer: int


def blank(config: VQA2Config, dtype: torch.dtype) -> VQA2ForConditionalGeneration:
    """The model without memory: shapes only."""
    with torch.device("meta"):
        return VQA2ForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation="vqa2_fused_meta")


@contextmanager
def kept_bytes(model: nn.Module) -> Iterator[list[int]]:
    """Adds up what autograd keeps inside the block, every storage once, the model's own weights left out. The list
    holds one number when the block ends."""
    own = {p.untyped_storage()._cdata for p in [*model.parameters(), *model.buffers()]}
    seen: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            seen[storage._cdata] = storage
        return tensor

    total: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total
    total.append(sum(s.nbytes() for s in seen.values()))


def activation_bytes(model: VQA2ForConditionalGeneration, shape: Shape) -> int:
    """Bytes that a step on `shape` keeps for its backward pass; `model` is `blank`, with its freeze policy set.

    With gradient checkpointing on, what the backward pass makes again is not counted.
    """
    inner, config = model.model, model.config
    frames = {"device": "meta", "dtype": inner.image_newline.dtype}
    side, small = config.vision_config.image_size, config.motion_config.image_size
    model.train()
    with kept_bytes(model) as total:
        # Token embeddings stand in front; what is kept of them and of the splice is less than a layer keeps.
        embeds = inner.get_input_embeddings()(torch.zeros(shape.rows, shape.tokens, dtype=torch.long, device="meta"))
        if shape.keys:
            visual = inner.visual_tokens(torch.empty(shape.rows * shape.keys, 3, side, side, **frames))
            clips = torch.empty(shape.rows * shape.motion, 3, small, small, **frames)
            motion = inner.motion_tokens(clips, [shape.motion] * shape.rows)
            embeds = embeds + visual.sum() + motion.sum()
        # The mask that is not there is named: the library would look into the (missing) values to find it out.
        masks = {"full_attention": None, "sliding_attention": None}
        hidden = inner.language_model(inputs_embeds=embeds, attention_mask=masks, use_cache=False).last_hidden_state
        targets = torch.zeros(shape.rows * shape.answer, dtype=torch.long, device="meta")
        loss = model.lm_head(hidden[:, -shape.answer :].flatten(0, 1), targets)
    assert loss.requires_grad
    return total[0]
