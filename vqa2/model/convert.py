"""Checkpoint conversion: released VQA² (`llava_qwen`) <-> ours, and stock LLaVA-OneVision + Kinetics SlowFast -> ours.

Every tensor of both sides gets a line in the report: loaded, new, dropped as dead weight with the reason, missing,
unexpected or of another shape. One of the last three stops the conversion before a byte is written.
"""

from pathlib import Path
from typing import get_args

from vqa2.core.config import suggest
from vqa2.core.errors import ConfigError
from vqa2.data.layout import Layout
from vqa2.model import _official
from vqa2.model._checkpoint import (
    Report,
    Source,
    expected_shapes,
    placeholders,
    plan_moves,
    read_config,
    read_tokenizer,
    save_model_parts,
    write,
    write_json,
)
from vqa2.model._stock import from_stock
from vqa2.model.hub import checkpoint_folder
from vqa2.model.modeling import VQA2Config
from vqa2.model.processing import VQA2Processor


def convert(source: str, target: Path, slowfast: Path | None, tokenizer: Path | None, layout: Layout) -> Report:
    """Converts by what `source` (a folder or hub id) is: a released VQA² -> ours, ours -> the released form, a stock
    LLaVA-OneVision with `slowfast` weights -> ours in `layout`. ConfigError otherwise."""
    if target.exists() and any(target.iterdir()):
        raise ConfigError(f"{target}: is not empty; name a new folder")
    if layout not in get_args(Layout):
        raise ConfigError(f"--layout: no such layout {layout!r}{suggest(layout, get_args(Layout))}")
    folder = checkpoint_folder(source, "source", weights=True)
    kind = read_config(folder).get("model_type")
    if kind == "llava_onevision":
        if slowfast is None:
            raise ConfigError(f"{source}: a stock LLaVA-OneVision has no motion path; name its weights with --slowfast")
        report = from_stock(folder, slowfast, target, layout)
    elif slowfast is not None:
        raise ConfigError(f"--slowfast: {source} is {kind!r} and brings its own motion path")
    elif kind == "llava_qwen":
        report = from_official(folder, target, tokenizer)
    elif kind == "vqa2":
        report = to_official(folder, target)
    else:
        raise ConfigError(f"{source}: model_type {kind!r} is not one of llava_qwen, llava_onevision, vqa2")
    report.save(target / "conversion.json")
    return report


def from_official(source: Path, target: Path, tokenizer: Path | None = None) -> Report:
    """A released VQA² folder (config.json, tokenizer, safetensors) -> ours, in layout `official`."""
    checkpoint = Source.open(source)
    _require_sizes(checkpoint)
    words = read_tokenizer(tokenizer or source)
    stored = read_config(source)
    config = _official.config_from(stored, checkpoint.shapes, placeholders(words))
    report, plan = plan_moves(checkpoint, expected_shapes(config), _official.to_ours, _official.dead_reason)
    report.check(source)
    write(plan, target)
    save_model_parts(config, words, target, **_official.score_texts(stored))
    return report


def to_official(source: Path, target: Path) -> Report:
    """One of our model folders -> the released form, dead entries with neutral values. Only layout `official`: the
    official code reads no other order."""
    config = VQA2Config.from_pretrained(source)
    if config.layout != "official":
        raise ConfigError(
            f"{source}: trained in layout {config.layout!r}, which the official code cannot feed; "
            "train with model.layout=official"
        )
    checkpoint = Source.open(source)
    expected = {t: s for o, s in expected_shapes(config).items() if (t := _official.to_theirs(o))}
    report, plan = plan_moves(checkpoint, expected, _official.to_theirs, lambda _: None)
    report.check(source)
    dead = dict(_official.dead_entries(config.motion_config))
    for name in dead:
        report.add(name, "new", "dead weight, a neutral value")
    dtype = checkpoint.dtype()
    write(plan, target, {n: _official.dead_tensor(n, s, dtype) for n, s in dead.items()})
    asked = VQA2Processor.from_pretrained(source)
    texts = {"score_question": asked.score_question, "score_prefix": asked.score_prefix}
    write_json(target / "config.json", _official.official_config(config, texts))
    read_tokenizer(source).save_pretrained(target)
    return report


def _require_sizes(source: Source) -> None:
    """The official config.json says nothing of the motion path; its presence and sizes are read from the tensors."""
    if not any(k.startswith(_official.SLOWFAST) for k in source.shapes):
        raise ConfigError(
            f"{source.folder}: no model.slowfast.* tensors, so this is LLaVA-OneVision without a motion path; "
            "convert its transformers form with --slowfast instead"
        )
    for need in (
        f"{_official.VISION}embeddings.patch_embedding.weight",
        f"{_official.VISION}embeddings.position_embedding.weight",
        f"{_official.VISION}encoder.layers.0.mlp.fc1.weight",
        f"{_official.SLOWFAST}position_embedding.weight",
        f"{_official.SLOWFAST}feature_extraction.0.multipathway_blocks.1.conv.weight",
    ):
        if need not in source.shapes:
            raise ConfigError(f"{source.folder}: {need} missing; sizes are read from it")
