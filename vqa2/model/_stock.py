"""A new model of ours from stock weights: LLaVA-OneVision in transformers' form and a Kinetics SlowFast-R50."""

import pickle
import re
from pathlib import Path

import torch

from vqa2.core.errors import ConfigError
from vqa2.data.layout import Layout
from vqa2.model import _official
from vqa2.model._checkpoint import (
    Report,
    Shape,
    Source,
    expected_shapes,
    placeholders,
    plan_moves,
    read_config,
    read_tokenizer,
    save_model_parts,
    write,
)
from vqa2.model.build import HUB_KEYS
from vqa2.model.modeling import VQA2Config, VQA2ForConditionalGeneration
from vqa2.model.motion import MotionConfig

_SEED = 0


def from_stock(folder: Path, slowfast: Path, target: Path, layout: Layout) -> Report:
    """LLaVA-OneVision's folder with a pytorchvideo SlowFast-R50 state dict -> ours. Positions and motion projector have
    no stock weights; they are drawn anew."""
    stock = read_config(folder)
    words = read_tokenizer(folder)
    image, video, place = placeholders(words)
    kept = {k: v for k, v in stock.items() if k not in ("model_type", "architectures")}
    kept |= {"image_token_index": image, "video_token_index": video, "motion_token_index": place}
    motion = {k: v for k, v in MotionConfig().to_dict().items() if k in _MOTION_SIZES}
    config = VQA2Config(**kept, motion=motion, layout=layout)
    checkpoint = Source.open(folder)
    expected = expected_shapes(config)
    side = {k: expected.pop(k) for k in list(expected) if _is_motion(k)}
    tied = config.text_config.tie_word_embeddings
    report, plan = plan_moves(checkpoint, expected, _stock_name, lambda name: _tied_reason(name) if tied else None)
    fresh = _new_motion(config, _read_slowfast(slowfast), side, report, checkpoint.dtype())
    report.check(folder)
    write(plan, target, fresh)
    save_model_parts(config, words, target)
    return report


_MOTION_SIZES = ("image_size", "stem_channels", "depths", "max_positions", "chunk_frames", "positions")


def _is_motion(name: str) -> bool:
    return name.startswith(("model.motion_tower.", "model.motion_projector."))


def _stock_name(name: str) -> str:
    for pattern, ours in HUB_KEYS.items():
        if re.match(pattern, name):
            return re.sub(pattern, ours, name).replace("vision_tower.vision_model.", "vision_tower.")
    return name


def _tied_reason(name: str) -> str | None:
    return "the same tensor as the embeddings" if _stock_name(name) == "lm_head.weight" else None


def _read_slowfast(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of a pytorchvideo SlowFast-R50 file (`.pyth` of torch.hub or a plain state dict)."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        raise ConfigError(
            f"{path}: holds pickled Python objects, which can run code when read. Where you trust it, save its plain "
            "weights once: torch.save(module.state_dict(), 'slowfast_state.pth')"
        ) from problem
    except OSError as problem:
        raise ConfigError(
            f"{path}: cannot be read ({problem.strerror}); the SLOWFAST_8x8_R50.pyth of torch.hub is meant"
        ) from problem
    except (RuntimeError, EOFError) as problem:
        raise ConfigError(f"{path}: not a complete file of torch.save; fetch it again") from problem
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: holds a {type(found).__name__}, a state dict is needed")
    return found.get("model_state", found)


def _new_motion(
    config: VQA2Config, state: dict, expected: dict[str, Shape], report: Report, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Motion tower from `state`, its positions and projector drawn anew; adds to `report`."""
    made = _known_motion(state, expected, report, dtype)
    for name, value in _drawn_motion(config).items():
        fresh = "position_embedding" in name or name.startswith("model.motion_projector.")
        if name in made:
            continue
        if fresh or name.endswith("num_batches_tracked"):
            made[name] = value if value.dtype == torch.long else value.to(dtype)
            report.add(name, "new", f"drawn with seed {_SEED}" if fresh else "counter of BatchNorm")
        else:
            report.add(name, "missing")
    assert all(tuple(made[k].shape) == expected[k] for k in made)
    return made


def _known_motion(
    state: dict, expected: dict[str, Shape], report: Report, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    made: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        ours = _official.kinetics_to_ours(name)
        if ours is None:
            report.add(name, "dropped", "slow path, lateral link or action head: not part of the motion path")
        elif ours not in expected:
            report.add(name, "unexpected")
        elif tuple(value.shape) != expected[ours]:
            report.add(name, "shape mismatch", f"is {list(value.shape)}, config says {list(expected[ours])}")
        else:
            report.add(name, "loaded", ours)
            made[ours] = value if value.dtype == torch.long else value.to(dtype)
    return made


def _drawn_motion(config: VQA2Config) -> dict[str, torch.Tensor]:
    """Random motion tower and projector of these sizes, float32."""
    small = VQA2Config(
        vision_config=_TOY_VISION,
        text_config={**_TOY_TEXT, "hidden_size": config.text_config.hidden_size},
        motion=config.motion,
    )
    torch.manual_seed(_SEED)
    drawn = VQA2ForConditionalGeneration._from_config(small, dtype=torch.float32).state_dict()
    return {k: v for k, v in drawn.items() if _is_motion(k)}


# The motion side is drawn inside the smallest model of the right width, so that no 7B model is made for it.
_TOY_VISION = {"model_type": "siglip_vision_model", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
               "num_attention_heads": 1, "image_size": 16, "patch_size": 8, "vision_use_head": False}  # fmt: skip
_TOY_TEXT = {"model_type": "qwen2", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
             "num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": 16}  # fmt: skip
