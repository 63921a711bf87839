"""Names and sizes of the released VQA² checkpoints (`llava_qwen` with a SlowFast-R50), and how they map to ours.

Source: the state dict of the official code (facts: 1,430 entries at 7B) and its config.json, which has no field for the
motion path: its presence is implied by the tensors. Departs from the official code: the slow path and its lateral links
(342 entries) are dead weight, because only the fast path's output is used; they are dropped on the way in and written
with neutral values on the way out, so that the official loader finds every name.
"""

import re
from collections.abc import Iterator, Mapping

import torch

from vqa2.core.errors import ConfigError
from vqa2.model.modeling import VQA2Config
from vqa2.model.motion import MotionConfig

VISION = "model.vision_tower.vision_tower.vision_model."
SLOWFAST = "model.slowfast."

# Official prefix -> our prefix, first match wins.
_PREFIXES = (
    ("lm_head.", "lm_head."),
    ("model.embed_tokens.", "model.language_model.embed_tokens."),
    ("model.layers.", "model.language_model.layers."),
    ("model.norm.", "model.language_model.norm."),
    ("model.image_newline", "model.image_newline"),
    (VISION, "model.vision_tower."),
    ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
    (SLOWFAST, "model.motion_tower."),
    ("model.slowfast_projector.", "model.motion_projector."),
)

_SCORE_TEXTS = {
    "score_question": "The key frames of this video are:\n<video>. And the motion feature of the video is\n<motion>. "
    "How would you rate the quality of this video?",
    "score_prefix": "The quality of the video is",
}
"""How the released UGC scorer was asked for the paper's figures (VQA_main/model_score_UGC.py)."""

_SLOW = re.compile(r"multipathway_(blocks\.0|fusion)\.")
_HEADS = {1152: 16}
"""Attention heads of the SigLIP towers in use, by width: the only size that the tensors do not tell."""


def dead_reason(name: str) -> str | None:
    """Why an official entry has no effect on the model's output; None where it has one."""
    if _SLOW.search(name):
        return "slow path or lateral link: only the fast path's output is used"
    if name.startswith(f"{VISION}head."):
        return "SigLIP pooling head: the released code replaces it by the identity"
    return None


def to_ours(name: str) -> str | None:
    """Our name of a live official entry, or None where there is none."""
    for theirs, ours in _PREFIXES:
        if name.startswith(theirs):
            return ours + name[len(theirs) :]
    return None


def to_theirs(name: str) -> str | None:
    """The official name of one of our entries, or None where there is none."""
    for theirs, ours in _PREFIXES:
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    return None


def kinetics_to_ours(name: str) -> str | None:
    """Our name of a pytorchvideo SlowFast-R50 entry of the fast path (`blocks.0` to `blocks.4`), else None."""
    found = re.match(r"(?:blocks|feature_extraction)\.([0-4])\.multipathway_blocks\.1\.(.+)", name)
    return f"model.motion_tower.feature_extraction.{found[1]}.multipathway_blocks.1.{found[2]}" if found else None


def dead_entries(motion: MotionConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(official name, shape) of every slow-path and lateral entry beside a fast path of these sizes.

    SlowFast-R50's geometry: slow channels are 8 times the fast ones, a lateral link doubles its fast channels, and the
    slow path looks along time (3 frames) in its last two stages only.
    """
    fast = motion.stem_channels
    slow = 8 * fast
    yield from _conv("0.multipathway_blocks.0.conv", (slow, 3, 1, 7, 7))
    yield from _norm("0.multipathway_blocks.0.norm", slow)
    for stage, depth in enumerate(motion.depths, start=1):
        yield from _conv(f"{stage - 1}.multipathway_fusion.conv_fast_to_slow", (2 * fast, fast, 7, 1, 1))
        yield from _norm(f"{stage - 1}.multipathway_fusion.norm", 2 * fast)
        inner = 8 * motion.stem_channels * 2 ** (stage - 1)
        frames = 3 if stage > len(motion.depths) - 2 else 1
        c_in = slow + 2 * fast
        for block in range(depth):
            head = f"{stage}.multipathway_blocks.0.res_blocks.{block}"
            if block == 0:
                yield from _conv(f"{head}.branch1_conv", (4 * inner, c_in, 1, 1, 1))
                yield from _norm(f"{head}.branch1_norm", 4 * inner)
            yield from _conv(f"{head}.branch2.conv_a", (inner, c_in, frames, 1, 1))
            yield from _norm(f"{head}.branch2.norm_a", inner)
            yield from _conv(f"{head}.branch2.conv_b", (inner, inner, 1, 3, 3))
            yield from _norm(f"{head}.branch2.norm_b", inner)
            yield from _conv(f"{head}.branch2.conv_c", (4 * inner, inner, 1, 1, 1))
            yield from _norm(f"{head}.branch2.norm_c", 4 * inner)
            c_in = 4 * inner
        slow, fast = 4 * inner, inner // 2


def _conv(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{SLOWFAST}feature_extraction.{name}.weight", shape


def _norm(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{SLOWFAST}feature_extraction.{name}.{part}", (channels,)
    yield f"{SLOWFAST}feature_extraction.{name}.num_batches_tracked", ()


def dead_tensor(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A neutral value for a dead entry: zero convolutions and identity norms, so that the slow path stays finite."""
    if not shape:
        return torch.zeros((), dtype=torch.long)
    one = name.endswith(("running_var", "norm.weight")) or re.search(r"norm(_[abc])?\.weight$", name)
    return torch.ones(shape, dtype=dtype) if one else torch.zeros(shape, dtype=dtype)


def config_from(official: Mapping, shapes: Mapping[str, tuple[int, ...]], ids: tuple[int, int, int]) -> VQA2Config:
    """Our config of an official config.json. `shapes`: official tensor name -> shape (the tower's sizes are read from
    them, because the official code hard-codes them). `ids`: image, video and motion placeholder."""
    return VQA2Config(
        vision_config=_vision(official, shapes),
        text_config=_text(official),
        tie_word_embeddings=bool(official.get("tie_word_embeddings", False)),
        image_token_index=ids[0],
        video_token_index=ids[1],
        motion_token_index=ids[2],
        layout="official",
        motion=_motion(official, shapes),
    )


def score_texts(official: Mapping) -> dict[str, str]:
    """How a checkpoint is asked for a score: what our own export wrote, else the released scorer's texts."""
    return {key: official.get(key, text) for key, text in _SCORE_TEXTS.items()}


_TEXT = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "hidden_act",
)


def _text(official: Mapping) -> dict:
    missing = [k for k in (*_TEXT, "rope_theta") if k not in official]
    if missing:
        raise ConfigError(f"config.json: {', '.join(missing)} missing; is it the released llava_qwen config?")
    rope = {"rope_type": "default", "rope_theta": float(official["rope_theta"])}
    tied = bool(official.get("tie_word_embeddings", False))
    return {
        "model_type": "qwen2",
        **{k: official[k] for k in _TEXT},
        "rope_parameters": rope,
        "tie_word_embeddings": tied,
    }


def _vision(official: Mapping, shapes: Mapping[str, tuple[int, ...]]) -> dict:
    patch = shapes[f"{VISION}embeddings.patch_embedding.weight"]
    width, side = patch[0], patch[-1]
    positions = shapes[f"{VISION}embeddings.position_embedding.weight"][0]
    named = re.search(r"patch(\d+)-(\d+)$", str(official.get("mm_vision_tower", "")))
    pixels = int(named[2]) if named and int(named[1]) == side else round(positions**0.5) * side
    heads = official.get("mm_vision_num_attention_heads", _HEADS.get(width))
    if heads is None:
        raise ConfigError(f"config.json: mm_vision_num_attention_heads is needed for a vision tower {width} wide")
    layers = {int(m[1]) for n in shapes if (m := re.match(re.escape(VISION) + r"encoder\.layers\.(\d+)\.", n))}
    return {
        "model_type": "siglip_vision_model",
        "vision_use_head": False,
        "hidden_size": width,
        "intermediate_size": shapes[f"{VISION}encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": max(layers) + 1,
        "num_attention_heads": heads,
        "image_size": pixels,
        "patch_size": side,
    }


def _motion(official: Mapping, shapes: Mapping[str, tuple[int, ...]]) -> dict:
    stem = shapes[f"{SLOWFAST}feature_extraction.0.multipathway_blocks.1.conv.weight"][0]
    blocks: dict[int, int] = {}
    pattern = re.escape(SLOWFAST) + r"feature_extraction\.(\d+)\.multipathway_blocks\.1\.res_blocks\.(\d+)\."
    for name in shapes:
        if found := re.match(pattern, name):
            stage = int(found[1])
            blocks[stage] = max(blocks.get(stage, 0), int(found[2]) + 1)
    return {
        "image_size": official.get("mm_motion_image_size", 384),
        "stem_channels": stem,
        "depths": [blocks[i] for i in sorted(blocks)],
        "max_positions": shapes[f"{SLOWFAST}position_embedding.weight"][0],
        "chunk_frames": 256,
    }


def official_config(config: VQA2Config, texts: Mapping[str, str]) -> dict:
    """The official config.json of one of our models, with the released values of fields that have no place in ours.

    Ours are `texts` (see `score_texts`) and `mm_vision_num_attention_heads` and `mm_motion_image_size`, which the
    official code hard-codes.
    """
    text, vision, motion = config.text_config, config.vision_config, config.motion_config
    return {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava_qwen",
        **{k: getattr(text, k) for k in _TEXT},
        "rope_theta": text.rope_parameters["rope_theta"],
        "tie_word_embeddings": text.tie_word_embeddings,
        "image_aspect_ratio": "anyres_max_9",
        "mm_hidden_size": vision.hidden_size,
        "mm_vision_tower": f"google/siglip-so400m-patch{vision.patch_size}-{vision.image_size}",
        "mm_vision_num_attention_heads": vision.num_attention_heads,
        "mm_motion_image_size": motion.image_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_newline_position": "one_token",
        "mm_spatial_pool_mode": "bilinear",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_token_index": config.image_token_index,
        "tokenizer_model_max_length": text.max_position_embeddings,
        "tokenizer_padding_side": "right",
        "use_cache": True,
        **texts,
    }
