"""Streaming between checkpoint folders: what becomes of every tensor is decided from the headers, before a byte is
written; then shard after shard is copied, so that peak memory stays near one shard.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import AutoTokenizer

from vqa2.core.errors import ConfigError
from vqa2.model.modeling import VQA2Config, VQA2ForConditionalGeneration
from vqa2.model.processing import VQA2Processor, level_ids

INDEX = "model.safetensors.index.json"
BAD = ("missing", "unexpected", "shape mismatch")
Shape = tuple[int, ...]


@dataclass
class Report:
    """`entries`: (name, outcome, note) of every tensor. Outcomes: loaded, new, dropped, and those of `BAD`."""

    entries: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, name: str, outcome: str, note: str = "") -> None:
        self.entries.append((name, outcome, note))

    def counts(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for _, outcome, _ in self.entries:
            found[outcome] = found.get(outcome, 0) + 1
        return found

    def save(self, path: Path) -> None:
        """All entries as JSON."""
        write_json(path, {"counts": self.counts(), "tensors": [list(e) for e in self.entries]})

    def check(self, where: Path) -> None:
        """ConfigError naming count and first tensor of what does not fit."""
        bad = [e for e in self.entries if e[1] in BAD]
        if bad:
            counts = ", ".join(f"{n} {k}" for k, n in self.counts().items() if k in BAD)
            name, outcome, note = bad[0]
            raise ConfigError(f"{where}: {counts}; first {outcome}: {name}{f' ({note})' if note else ''}")


@dataclass(frozen=True)
class Source:
    """A checkpoint folder: shard file -> its tensor names, tensor name -> shape."""

    folder: Path
    shards: dict[Path, list[str]]
    shapes: dict[str, Shape]

    @classmethod
    def open(cls, folder: Path) -> "Source":
        shards: dict[Path, list[str]] = {}
        shapes: dict[str, Shape] = {}
        for path in _shard_files(folder):
            try:
                with safe_open(path, "pt") as handle:
                    shards[path] = list(handle.keys())
                    shapes.update({k: tuple(handle.get_slice(k).get_shape()) for k in shards[path]})
            except SafetensorError as problem:
                raise ConfigError(f"{path}: not a complete safetensors file ({problem}); fetch it again") from problem
        return cls(folder, shards, shapes)

    def dtype(self) -> torch.dtype:
        """The type of the largest tensor."""
        name = max(self.shapes, key=lambda k: torch.Size(self.shapes[k]).numel())
        path = next(p for p, names in self.shards.items() if name in names)
        with safe_open(path, "pt") as handle:
            return handle.get_slice(name)[:1].dtype


def expected_shapes(config: VQA2Config) -> dict[str, Shape]:
    """Name -> shape of every tensor a model of ours with this config saves (tied heads are saved once)."""
    with torch.device("meta"):
        model = VQA2ForConditionalGeneration(config)
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    if config.text_config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    return shapes


def plan_moves(
    source: Source, expected: dict[str, Shape], rename: Callable[[str], str | None], dead: Callable[[str], str | None]
) -> tuple[Report, dict[Path, dict[str, str]]]:
    """What happens to every tensor: the report, and shard -> {source name: target name}."""
    report, plan, seen = Report(), {}, set()
    for path, names in source.shards.items():
        plan[path] = {}
        for name in names:
            reason, new = dead(name), rename(name)
            if reason:
                report.add(name, "dropped", reason)
            elif new is None or new not in expected:
                report.add(name, "unexpected")
            elif source.shapes[name] != expected[new]:
                report.add(name, "shape mismatch", f"is {list(source.shapes[name])}, config says {list(expected[new])}")
                seen.add(new)
            else:
                report.add(name, "loaded", new)
                plan[path][name] = new
                seen.add(new)
    for name in sorted(expected.keys() - seen):
        if name.endswith("num_batches_tracked"):
            report.add(name, "new", "counter of BatchNorm, unused with a fixed momentum")
        else:
            report.add(name, "missing")
    return report, plan


def write(plan: dict[Path, dict[str, str]], target: Path, more: dict[str, torch.Tensor] | None = None) -> None:
    """One output shard per input shard, then `more`; index last, so that a cut conversion is not taken for whole."""
    target.mkdir(parents=True, exist_ok=True)
    shards = [(path, names) for path, names in plan.items() if names]
    total = len(shards) + bool(more)
    weight_map: dict[str, str] = {}
    size = 0

    def save(tensors: dict[str, torch.Tensor]) -> None:
        nonlocal size
        number = len(set(weight_map.values())) + 1
        name = f"model-{number:05d}-of-{total:05d}.safetensors"
        save_file(tensors, target / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, name))
        size += sum(t.numel() * t.element_size() for t in tensors.values())

    for path, names in shards:
        with safe_open(path, "pt") as handle:
            save({new: handle.get_tensor(old) for old, new in names.items()})
    if more:
        save(more)
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    write_json(target / INDEX, index)


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def _shard_files(folder: Path) -> list[Path]:
    index, single = folder / INDEX, folder / "model.safetensors"
    if index.is_file():
        names = sorted(set(_json(index)["weight_map"].values()))
        lost = [n for n in names if not (folder / n).is_file()]
        if lost:
            raise ConfigError(f"{folder}: {len(lost)} of {len(names)} shards missing, first {lost[0]}; fetch it again")
        return [folder / n for n in names]
    if single.is_file():
        return [single]
    raise ConfigError(f"{folder}: no {INDEX} and no {single.name}; only safetensors checkpoints are read")


def read_config(folder: Path) -> dict:
    """The folder's config.json."""
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigError(f"{path}: not found; a checkpoint folder is needed")
    return _json(path)


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as problem:
        raise ConfigError(f"{path}: not readable as JSON ({problem}); fetch it again") from problem


def read_tokenizer(folder: Path):
    """The folder's tokenizer with our placeholder tokens; its level words are checked."""
    if not any((folder / n).is_file() for n in ("tokenizer.json", "vocab.json", "tokenizer_config.json")):
        raise ConfigError(f"{folder}: no tokenizer files; name a folder that has them with --tokenizer")
    words = AutoTokenizer.from_pretrained(folder)
    words.add_special_tokens({"additional_special_tokens": ["<image>", "<video>", "<motion>"]})
    level_ids(words)
    return words


def placeholders(words) -> tuple[int, int, int]:
    """Ids of `<image>`, `<video>` and `<motion>`."""
    image, video, motion = words.convert_tokens_to_ids(["<image>", "<video>", "<motion>"])
    return image, video, motion


def save_model_parts(config: VQA2Config, words, target: Path, **texts: str) -> None:
    """Config, tokenizer and processor beside the weights; `texts`: of the processor."""
    config.architectures = ["VQA2ForConditionalGeneration"]
    config.save_pretrained(target)
    VQA2Processor(
        words,
        image_size=config.vision_config.image_size,
        motion_size=config.motion_config.image_size,
        tokens_per_frame=config.tokens_per_frame,
        layout=config.layout,
        **texts,
    ).save_pretrained(target)
