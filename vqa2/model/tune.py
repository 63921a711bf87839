"""What trains: a policy over named parts, LoRA where asked, learning rates per part, and the audit that proves it.

The parts are closed: every parameter of the model belongs to exactly one.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from peft import LoraConfig
from peft.tuners.lora import LoraLayer, LoraModel
from torch import nn

from vqa2.core.config import spec
from vqa2.core.errors import ConfigError

Part = Literal["vision", "projector", "motion", "position", "motion_projector", "lm"]
PARTS: dict[str, tuple[str, ...]] = {
    "vision": ("model.vision_tower.",),
    "projector": ("model.multi_modal_projector.", "model.image_newline"),
    "motion": ("model.motion_tower.feature_extraction.",),
    "position": ("model.motion_tower.position_embedding.",),
    "motion_projector": ("model.motion_projector.",),
    "lm": ("model.language_model.", "lm_head."),
}


@spec
class Lora:
    """LoRA on every linear layer of the parts whose policy is `lora`."""

    rank: Annotated[int, Ge(1)]
    alpha: Annotated[float, Gt(0)]
    dropout: Annotated[float, Ge(0)]


@spec
class Tune:
    """`parts`: frozen, full or lora for each part. `lr`: learning rate of each trained part. `learn_from`: the kinds
    of rows (`image`, `video`) that the visual and the motion side learn from; empty means all. `motion_batchnorm`:
    `stored` statistics or `train` (batch statistics, running ones updated)."""

    parts: dict[Part, Literal["frozen", "full", "lora"]]
    lr: dict[Part, Annotated[float, Gt(0)]]
    learn_from: dict[Literal["vision", "motion"], tuple[Literal["image", "video"], ...]]
    motion_batchnorm: Literal["stored", "train"]
    lora: Lora

    def __post_init__(self) -> None:
        absent = [p for p in PARTS if p not in self.parts]
        if absent:
            raise ConfigError(f"stage.tune.parts.{absent[0]}: required and missing")
        for part, policy in self.parts.items():
            if policy != "frozen" and part not in self.lr:
                raise ConfigError(f"stage.tune.lr.{part}: required, because stage.tune.parts.{part} is {policy}")

    @property
    def frozen(self) -> bool:
        """Whether no part trains."""
        return all(policy == "frozen" for policy in self.parts.values())


def part_of(name: str) -> str:
    """The part a parameter belongs to, LoRA weights included."""
    for part, prefixes in PARTS.items():
        if name.startswith(prefixes):
            return part
    raise AssertionError(f"parameter {name} belongs to no part")


def apply_policy(model: nn.Module, tune: Tune) -> None:
    """Sets `requires_grad` by the policy and injects LoRA in place; see `merged_state` for the way back. ConfigError
    where nothing would train."""
    if tune.frozen:
        raise ConfigError("stage.tune.parts: every part is frozen, nothing would train")
    lora_parts = [part for part, policy in tune.parts.items() if policy == "lora"]
    if lora_parts:
        targets = [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and not name.startswith("lm_head") and part_of(f"{name}.") in lora_parts
        ]
        for part in lora_parts:
            if not any(part_of(f"{name}.") == part for name in targets):
                raise ConfigError(f"stage.tune.parts.{part}: lora adapts linear layers and {part} has none; use full")
        config = LoraConfig(
            r=tune.lora.rank, lora_alpha=tune.lora.alpha, lora_dropout=tune.lora.dropout, target_modules=targets
        )
        LoraModel(model, config, "default")
    for name, parameter in model.named_parameters():
        policy = tune.parts[part_of(name)]
        parameter.requires_grad_(policy == "full" or (policy == "lora" and "lora_" in name))
    model.model.motion_tower.train_batchnorm = tune.motion_batchnorm == "train"


def merged_state(
    model: nn.Module, state: dict[str, torch.Tensor], base: dict[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """`state` of a model with LoRA under the plain model's names, the adapters folded into the weights they adapt.

    Works on the state dict and not in the model, whose own weights may be partitioned over processes (ZeRO-3). `base`:
    the weights before training, where the model's own are quantized; what trained in full is taken from `state`.
    """
    merged = {k.replace(".base_layer.", "."): v for k, v in state.items() if ".lora_" not in k}
    if base is not None:
        merged = base | {k: v for k, v in merged.items() if k in base and v.shape == base[k].shape}
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            down, up = (state[f"{name}.lora_{side}.default.weight"].float() for side in "AB")
            weight = merged[f"{name}.weight"]
            merged[f"{name}.weight"] = (weight.float() + layer.scaling["default"] * up @ down).to(weight.dtype)
    return merged


def has_lora(model: nn.Module) -> bool:
    """Whether any layer carries an adapter."""
    return any(isinstance(m, LoraLayer) for m in model.modules())


def only_lora(model: nn.Module) -> bool:
    """Whether LoRA is all that trains: then the model without it is the model before training."""
    return all("lora_" in name for name, p in model.named_parameters() if p.requires_grad)


@contextmanager
def without_lora(model: nn.Module) -> Iterator[None]:
    """The model with its LoRA layers switched off."""
    layers = [m for m in model.modules() if isinstance(m, LoraLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def parameter_groups(model: nn.Module, tune: Tune, weight_decay: float) -> list[dict]:
    """Optimizer groups: one per trained part, biases and norms (1-d tensors) without weight decay."""
    groups: dict[tuple[str, bool], list] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((part_of(name), parameter.ndim > 1), []).append(parameter)
    return [
        {"params": params, "lr": tune.lr[part], "weight_decay": weight_decay if decay else 0.0, "part": part}
        for (part, decay), params in groups.items()
    ]


def count_parameters(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Part -> (trainable, all) parameters."""
    counts = dict.fromkeys(PARTS, (0, 0))
    for name, parameter in model.named_parameters():
        train, total = counts[part_of(name)]
        size = parameter.numel()
        counts[part_of(name)] = (train + size * parameter.requires_grad, total + size)
    return counts


class Audit:
    """Did the parts that should move move, and did the others stay? Compares strided samples of every tensor.

    Under ZeRO-3 each rank looks at its own partition of every tensor.
    """

    SAMPLES = 4096

    def __init__(self, tune: Tune) -> None:
        self.tune = tune
        self.before: dict[str, torch.Tensor] = {}

    def start(self, model: nn.Module) -> None:
        """Remembers the weights; to be called when the engine has placed them."""
        self.before = dict(self._samples(model.named_parameters()))

    def _samples(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> Iterable[tuple[str, torch.Tensor]]:
        for name, parameter in parameters:
            # DeepSpeed's own mark of a partitioned parameter, whose whole value is empty between uses.
            flat = (parameter.ds_tensor if hasattr(parameter, "ds_id") else parameter).detach().reshape(-1)
            yield name, flat[:: max(1, flat.numel() // self.SAMPLES)].clone()

    def moved(self, model: nn.Module) -> dict[str, bool]:
        """Part -> whether any sampled value of it has changed."""
        result = dict.fromkeys(PARTS, False)
        for name, now in self._samples(model.named_parameters()):
            result[part_of(name)] |= not torch.equal(now, self.before[name])
        return result

    def check(self, model: nn.Module, used: set[str]) -> dict[str, bool]:
        """Raises where a frozen part moved or a trained part that the data used (`used`) stayed."""
        moved = self.moved(model)
        for part, policy in self.tune.parts.items():
            if policy == "frozen" and moved[part]:
                raise RuntimeError(f"audit: part {part} is frozen but moved in the first optimizer step")
            if policy != "frozen" and part in used and not moved[part]:
                raise RuntimeError(f"audit: part {part} is {policy} but did not move in the first optimizer step")
        return moved
