"""LoRA adapters as files: `adapter_model.safetensors` and `adapter_config.json` in the form that peft loads.

Parts that the policy trains in full lie beside them in `full.safetensors`, under the model's names. An adapter folder
names the model it was trained on; training continues from it with `stage.init_from=<run>/model/adapter`.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vqa2.core.errors import ConfigError

ADAPTER = "adapter"
"""Folder of the adapter inside the folder of the model that it is merged into."""
CONFIG, WEIGHTS, FULL = "adapter_config.json", "adapter_model.safetensors", "full.safetensors"
_PEFT = "base_model.model."


def base_of(folder: Path) -> Path:
    """The model folder to load: `folder` itself, or the one that an adapter in it was trained on. ConfigError where an
    adapter names none."""
    if not (folder / CONFIG).is_file():
        return folder
    base = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]
    if not base:
        raise ConfigError(f"{folder}: its base model was not saved; continue from {folder.parent}")
    return Path(base)


def save_adapter(model: nn.Module, state: dict[str, torch.Tensor], folder: Path, base: str) -> None:
    """Writes the adapter of a model that `apply_policy` has given one; `state` is its whole state dict (gathered from
    all processes), `base` the folder or hub id under it, empty where the model was new."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    if model.model.motion_tower.train_batchnorm:
        trained |= {name for name, _ in model.named_buffers() if name in state}
    lora = {f"{_PEFT}{k.replace('.default.', '.')}": v.contiguous() for k, v in state.items() if ".lora_" in k}
    save_file(lora, folder / WEIGHTS, metadata={"format": "pt"})
    full = {k: v.contiguous() for k, v in state.items() if k in trained and ".lora_" not in k}
    if full:
        save_file(full, folder / FULL, metadata={"format": "pt"})
    config = model.peft_config["default"]
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(folder)


def load_adapter(model: nn.Module, folder: Path) -> None:
    """Loads an adapter folder into a model whose policy has made room for it. ConfigError where rank or layers
    differ."""
    found = load_file(folder / WEIGHTS)
    lora = {k.removeprefix(_PEFT).replace(".weight", ".default.weight"): v for k, v in found.items()}
    own = {k: v for k, v in model.state_dict().items() if ".lora_" in k}
    wrong = sorted(lora.keys() ^ own.keys()) or sorted(k for k in own if own[k].shape != lora[k].shape)
    if wrong:
        raise ConfigError(
            f"{folder}: adapter and stage.tune do not fit at {wrong[0]}; give parts and lora.rank of the run that made "
            f"it, or continue from {folder.parent}, where it is merged"
        )
    full = load_file(folder / FULL) if (folder / FULL).is_file() else {}
    _, unexpected = model.load_state_dict(lora | full, strict=False)
    if unexpected:
        raise ConfigError(f"{folder / FULL}: {unexpected[0]} is no weight of this model under stage.tune")
