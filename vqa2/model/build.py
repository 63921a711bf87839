"""From a model's YAML to a model and its processor: from a hub checkpoint, or from random weights at any size."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt
from transformers import AutoConfig, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available, is_flash_attn_2_available

from vqa2.core.config import spec
from vqa2.core.errors import ConfigError
from vqa2.data.layout import Layout
from vqa2.data.video import VideoSpec
from vqa2.model.hub import checkpoint_folder
from vqa2.model.modeling import VQA2Config, VQA2ForConditionalGeneration
from vqa2.model.processing import VQA2Processor, level_ids, train_tokenizer

WHOLE = (
    "lm_head",
    "model.vision_tower",
    "model.multi_modal_projector",
    "model.motion_tower",
    "model.motion_projector",
)
"""Modules that are never quantized: all but the language model."""


@spec
class MotionSpec:
    """Fast path of SlowFast: frame side in px, channels of the stem, blocks per stage, learned positions, chunk;
    `positions`: what a clip of more frames than `max_positions` is."""

    image_size: Annotated[int, Ge(16)]
    stem_channels: Annotated[int, Ge(1)]
    depths: tuple[Annotated[int, Ge(1)], ...]
    max_positions: Annotated[int, Ge(4)]
    chunk_frames: Annotated[int, Ge(4)]
    positions: Literal["error", "interpolate"]


@spec
class ModelSpec:
    """`weights`: a hub id or folder of LLaVA-OneVision in transformers' form, or null for random weights of
    `vision`/`text` (keyword arguments of SiglipVisionConfig and Qwen2Config), the patch embedding then starting from a
    whitened DCT of gain `patch_gain` and the motion stem from a temporal DCT; beside `weights`, `vision`/`text` serve a
    dry run that cannot have the weights' own sizes. `tokenizer`: hub id or folder, or null to train one of `vocab_size`
    on the set texts. `max_length`: tokens of a row; a longer one loses key frames. `dtype` is the type of the weights;
    `quantize`: the language model's frozen weights in 4 bits under its adapters (QLoRA), or null."""

    weights: str | None
    tokenizer: str | None
    vocab_size: Annotated[int, Gt(262)] | None
    vision: dict[str, Any]
    text: dict[str, Any]
    patch_gain: Annotated[float, Gt(0)]
    motion: MotionSpec
    layout: Layout
    use_motion: bool
    system: str
    max_length: Annotated[int, Ge(64)]
    dtype: Literal["float32", "bfloat16"]
    quantize: Literal["nf4"] | None
    attention: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"]
    video: VideoSpec


def kernels_of(attention: str) -> str | dict[str, str]:
    """`attn_implementation` of the library. ConfigError where an attention kernel is asked for that this machine does
    not have. Flex attention runs in the language model alone: the vision tower's heads (72 wide) do not suit it."""
    if attention == "flash_attention_2" and not is_flash_attn_2_available():
        raise ConfigError("model.attention: flash_attention_2 needs a GPU and the flash-attn package; use sdpa")
    if attention != "flex_attention":
        return attention
    if not torch.cuda.is_available():
        raise ConfigError("model.attention: flex_attention trains on a GPU only (no backward on the CPU); use sdpa")
    return flex_in_language_model()


def flex_in_language_model() -> dict[str, str]:
    """Flex attention's place in the model, as the library wants it said."""
    return {"": "sdpa", "vision_config": "sdpa", "text_config": "flex_attention"}


def quantization(model: ModelSpec) -> BitsAndBytesConfig | None:
    """How `from_pretrained` quantizes the language model. ConfigError where this machine cannot."""
    if model.quantize is None:
        return None
    if not is_bitsandbytes_available():
        raise ConfigError(
            f"model.quantize: {model.quantize} needs the bitsandbytes package (the extra `gpu`); use null"
        )
    return four_bits(getattr(torch, model.dtype))


def four_bits(dtype: torch.dtype) -> BitsAndBytesConfig:
    """QLoRA's recipe (arXiv:2305.14314): NF4, double quantization, computation in `dtype`; the language model only."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(WHOLE),
    )


def build(model: ModelSpec, texts: Iterable[str]) -> tuple[VQA2ForConditionalGeneration, VQA2Processor]:
    """A new model. With `weights`, only the motion side may be new: any other missing tensor is an error."""
    kernels = kernels_of(model.attention)
    config, processor = blueprint(model, texts)
    dtype = getattr(torch, model.dtype)
    if model.weights is None:
        network = VQA2ForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation=kernels)
        whitened_dct_(network.model.vision_tower.embeddings.patch_embedding.weight.data, model.patch_gain)
        temporal_dct_(network.model.motion_tower.feature_extraction[0].multipathway_blocks["1"].conv.weight.data)
    else:
        folder = checkpoint_folder(model.weights, "model.weights", weights=True)
        network = load_stock(folder, config, dtype, kernels)
    network.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    network.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return network, processor


def blueprint(model: ModelSpec, texts: Iterable[str]) -> tuple[VQA2Config, VQA2Processor]:
    """The configuration and the processor of a new model, without its weights."""
    tokenizer = _tokenizer(model, texts)
    level_ids(tokenizer)
    config = _config(model, tokenizer)
    processor = VQA2Processor(
        tokenizer,
        image_size=config.vision_config.image_size,
        motion_size=model.motion.image_size,
        tokens_per_frame=config.tokens_per_frame,
        layout=model.layout,
        use_motion=model.use_motion,
        system=model.system,
        max_length=model.max_length,
    )
    return config, processor


def _tokenizer(model: ModelSpec, texts: Iterable[str]):
    if model.tokenizer is not None:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint_folder(model.tokenizer, "model.tokenizer", weights=False))
        tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", "<video>", "<motion>"]})
        return tokenizer
    if model.vocab_size is None:
        raise ConfigError("model.vocab_size: required where model.tokenizer is null")
    return train_tokenizer(texts, model.vocab_size)


def _config(model: ModelSpec, tokenizer) -> VQA2Config:
    image, video, motion = tokenizer.convert_tokens_to_ids(["<image>", "<video>", "<motion>"])
    shared: dict[str, Any] = {
        "image_token_index": image,
        "video_token_index": video,
        "motion_token_index": motion,
        "layout": model.layout,
        "motion": {
            "image_size": model.motion.image_size,
            "stem_channels": model.motion.stem_channels,
            "depths": list(model.motion.depths),
            "max_positions": model.motion.max_positions,
            "chunk_frames": model.motion.chunk_frames,
            "positions": model.motion.positions,
        },
    }
    if model.weights is None:
        text = {"model_type": "qwen2", **model.text}
        text.setdefault("vocab_size", len(tokenizer))
        vision = {"model_type": "siglip_vision_model", "vision_use_head": False, **model.vision}
        return VQA2Config(vision_config=vision, text_config=text, **shared)
    stock = AutoConfig.from_pretrained(checkpoint_folder(model.weights, "model.weights", weights=False))
    if stock.model_type != "llava_onevision":
        raise ConfigError(
            f"model.weights: {model.weights} is a {stock.model_type} checkpoint, llava_onevision is needed"
        )
    kept = {k: v for k, v in stock.to_dict().items() if k not in {*shared, "model_type", "architectures"}}
    return VQA2Config(**kept, **shared)


HUB_KEYS = {
    r"^language_model\.lm_head": "lm_head",
    r"^language_model\.model": "model.language_model",
    r"^vision_tower": "model.vision_tower",
    r"^multi_modal_projector": "model.multi_modal_projector",
    r"^image_newline": "model.image_newline",
}
"""Key names of llava-hf's published files -> ours."""


def load_stock(
    folder: Path, config: VQA2Config, dtype: torch.dtype, attention: str | dict[str, str]
) -> VQA2ForConditionalGeneration:
    """Loads a stock LLaVA-OneVision. Without the key mapping the library would leave our language model random and only
    print so; anything missing beyond the motion side is a ConfigError."""
    network, info = VQA2ForConditionalGeneration.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        attn_implementation=attention,
        key_mapping=HUB_KEYS,
        output_loading_info=True,
    )
    # The library would write checkpoints under the old names again, which its Trainer cannot resume from.
    network._weight_conversions = None
    missing = [k for k in info["missing_keys"] if not k.startswith(("model.motion_tower.", "model.motion_projector."))]
    if missing or info["mismatched_keys"]:
        raise ConfigError(f"model.weights: {folder} lacks {len(missing)} tensors, first {missing[:1]}")
    return network


def whitened_dct_(weight: torch.Tensor, gain: float) -> None:
    """Fills a random tower's patch embedding `[D,3,p,p]` with DCT patterns over luma and two color differences.

    They are spread over all frequencies and scaled by 1 + f, the inverse of a natural picture's spectrum: with plain
    random filters the mean brightness of a patch drowns the fine structure that quality shows in, and a small tower
    does not find it in minutes (measured: docs/training.md).
    """
    width, _, side, _ = weight.shape
    k = torch.arange(side, dtype=torch.float32)
    basis = torch.cos(math.pi * (k[None] + 0.5) * k[:, None] / side) * math.sqrt(2 / side)
    basis[0] /= math.sqrt(2)
    axes = torch.nn.functional.normalize(torch.tensor([[0.299, 0.587, 0.114], [1, 0, -1], [0.5, -1, 0.5]]), dim=1)
    # Color differences rank 2.5 times as costly as luma, so that most patterns see luma.
    ranked = sorted(
        (cost * (1 + math.hypot(i, j)), axis, i, j)
        for axis, cost in ((0, 1.0), (1, 2.5), (2, 2.5))
        for i in range(side)
        for j in range(side)
    )
    for row in range(width):
        _, axis, i, j = ranked[row * (len(ranked) - 1) // max(1, width - 1)]
        pattern = torch.outer(basis[i], basis[j]) * gain * (1 + math.hypot(i, j))
        weight[row] = axes[axis][:, None, None] * pattern


def temporal_dct_(weight: torch.Tensor) -> None:
    """Fills a random motion stem `[c,3,t,h,w]` with luma patterns that vary in time: DCT frequencies 1 to t - 1 in
    turn, each over ever finer space.

    A still picture is nearly all that a random filter sees of a clip. Held frames and shake show in differences between
    frames, and this stem sees nothing else (measured: docs/training.md).
    """
    channels, _, frames, height, width = weight.shape
    luma = torch.nn.functional.normalize(torch.tensor([0.299, 0.587, 0.114]), dim=0)
    for row in range(channels):
        fine, k = divmod(row, frames - 1)
        time = _cosine(frames, k + 1)
        space = torch.outer(_cosine(height, fine % height), _cosine(width, fine % width))
        weight[row] = torch.einsum("c,t,hw->cthw", luma, time, space)


def _cosine(length: int, frequency: int) -> torch.Tensor:
    """One DCT-II pattern of unit norm, `[length]`."""
    pattern = torch.cos(math.pi * (torch.arange(length) + 0.5) * frequency / length)
    return torch.nn.functional.normalize(pattern, dim=0)
