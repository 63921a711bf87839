"""The learned router's gate: from what our model sees of a clip to a content type, expert weights and an uncertainty.

Input is the mean of the language model's last hidden states over the interleaved visual and motion tokens of the
scoring prompt (`ModelPredictor.hidden`). The k heaviest experts share a weight of 1; the score is the weighted mean of
their calibrated scores. Q-Router (arXiv 2510.08789) has no learned gate: this one is ours, with the load-balancing term
of Switch Transformer (arXiv 2101.03961, eq. 4).

Shapes: B clips, D hidden width of the backbone, E experts, Y content types.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from vqa2.core.errors import ConfigError

WEIGHTS, CARD = "gate.safetensors", "gate.json"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Everything a gate is built from: names in the order of its outputs."""

    width: int
    hidden: int
    top_k: int
    experts: tuple[str, ...]
    types: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class GateCard:
    """What is stored beside the weights. `curves`: the experts' identity with their calibration, which the gate is
    bound to, as it is to the backbone's `checkpoint`. `better`: whether it beat `best`, the best single expert on the
    validation contents; where it did not, that expert is used. `validation`: the numbers behind it."""

    shape: Shape
    curves: dict[str, str]
    backbone: str
    checkpoint: str
    better: bool
    best: str
    validation: dict[str, Any]


class Routed(NamedTuple):
    """`experts` logits `[B,E]`, `types` logits `[B,Y]`, `uncertainty` `[B]`: expected absolute error in MOS points."""

    experts: Tensor
    types: Tensor
    uncertainty: Tensor


class Gate(nn.Module):
    """Standardizes its input with statistics of the training clips, which are saved with the weights."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("mean", torch.zeros(shape.width))
        self.register_buffer("std", torch.ones(shape.width))
        self.trunk = nn.Sequential(nn.Linear(shape.width, shape.hidden), nn.GELU())
        self.experts = nn.Linear(shape.hidden, len(shape.experts))
        self.types = nn.Linear(shape.hidden, len(shape.types))
        self.spread = nn.Linear(shape.hidden, 1)

    def standardize(self, features: Tensor) -> None:
        """Takes mean and spread of the training features `[B,D]`."""
        self.mean.copy_(features.mean(0))
        self.std.copy_(features.std(0, correction=0).clamp(min=1e-6))

    def forward(self, features: Tensor) -> Routed:
        """Features `[B,D]` -> Routed. Logits and statistics stay in float32 where an engine halves the weights."""
        standard = (features.float() - self.mean.float()) / self.std.float()
        seen = self.trunk(standard.to(self.spread.weight.dtype))
        # Of the order of ten MOS points at the start; the exponential keeps it positive.
        uncertainty = 10 * self.spread(seen).float().squeeze(-1).exp()
        return Routed(self.experts(seen).float(), self.types(seen).float(), uncertainty)


def share(logits: Tensor, top_k: int, allowed: Tensor) -> Tensor:
    """Weights `[B,E]` of sum 1: softmax over the `top_k` largest logits among the `allowed` (bool `[E]` or `[B,E]`, at
    least one a row); all others are exactly 0."""
    possible = logits.masked_fill(~allowed, -torch.inf)
    best = possible.topk(min(top_k, logits.shape[-1]), dim=-1).indices
    chosen = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, best, True)
    return possible.masked_fill(~chosen, -torch.inf).softmax(-1)


def fuse(weights: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted means `[B]` of the scores `[B,E]`, nan where an expert gave none: its weight goes to the others. The
    second value says which clips have a score at all (their mean is else 0)."""
    there = ~scores.isnan()
    held = weights * there
    total = held.sum(-1)
    return (held * scores.nan_to_num()).sum(-1) / total.clamp(min=1e-9), total > 0


def places(weights: Tensor) -> Tensor:
    """`[E]`: how many of the B clips each expert takes; a clip counts evenly for the experts chosen for it."""
    chosen = (weights > 0).float()
    return (chosen / chosen.sum(-1, keepdim=True)).sum(0)


def balance(logits: Tensor, used: Tensor) -> Tensor:
    """Load balancing, summed over the clips: E times the share `used [E]` that each expert takes of all clips times its
    probability on a clip. On average 1 where all experts are used alike, E where one takes all. The gradient runs
    through the probabilities."""
    return logits.shape[-1] * (used * logits.softmax(-1)).sum()


def loss(routed: Routed, weights: Tensor, scores: Tensor, mos: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Both summed over the clips with a score: smooth L1 of the fused score against MOS in units of `beta` MOS points,
    and the Laplace likelihood of the errors under the uncertainty (the fused score is a constant there)."""
    fused, scored = fuse(weights, scores)
    off = (fused - mos)[scored] / beta
    expected = routed.uncertainty[scored]
    error = (off * beta).detach().abs()
    value = functional.smooth_l1_loss(off, torch.zeros_like(off), reduction="sum")
    return value, (error / expected + expected.log()).sum()


def save(gate: Gate, card: GateCard, folder: Path) -> None:
    """Writes weights and card over what a killed run left; a kill leaves no half gate."""
    part = folder.with_name(folder.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in gate.state_dict().items()}, part / WEIGHTS)
    (part / CARD).write_text(json.dumps(asdict(card), indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)


def load(folder: Path) -> tuple[Gate, GateCard]:
    """A saved gate. ConfigError where there is none, or its card is not readable."""
    if not (folder / CARD).is_file() or not (folder / WEIGHTS).is_file():
        raise ConfigError(f"{folder}: no learned router here; run `python train.py stage=router` first")
    try:
        card = TypeAdapter(GateCard).validate_json((folder / CARD).read_bytes())
    except ValidationError as err:
        first = err.errors()[0]
        raise ConfigError(f"{folder / CARD}: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None
    gate = Gate(card.shape)
    gate.load_state_dict(load_file(folder / WEIGHTS))
    return gate.eval(), card
