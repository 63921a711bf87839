"""What the learned router's gate is trained on, and what it is worth (the training itself is _routed.py).

Shapes: n clips, D hidden width, E experts, Y content types.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from vqa2.core.config import spec
from vqa2.core.scale import paired_difference, quality_metric
from vqa2.model.gate import Gate, fuse, share


@spec
class GateFit:
    """`top_k` experts a clip, after `dense_epochs` in which all of them take part (an expert that is never chosen would
    not learn). `lr`: the gate's learning rate. `beta`: MOS points from which the error counts linearly. Weights of the
    other terms beside that of the score: `balance` of the experts' use, `types` (cross-entropy), `uncertainty` (Laplace
    likelihood)."""

    hidden: Annotated[int, Ge(1)]
    top_k: Annotated[int, Ge(1)]
    dense_epochs: Annotated[int, Ge(0)]
    lr: Annotated[float, Gt(0)]
    beta: Annotated[float, Gt(0)]
    balance: Annotated[float, Ge(0)]
    types: Annotated[float, Ge(0)]
    uncertainty: Annotated[float, Ge(0)]


Share = Annotated[float, Gt(0), Lt(1)]


@dataclass(frozen=True, kw_only=True)
class Material:
    """`features [n,D]`, `scores [n,E]` (nan where an expert gave none), `mos [n]` on 0-100, `types [n]` (indices)."""

    features: Tensor
    scores: Tensor
    mos: Tensor
    types: Tensor

    def take(self, rows: Sequence[int]) -> "Material":
        """Some of the clips."""
        index = torch.tensor(list(rows), dtype=torch.long)
        return Material(
            features=self.features[index], scores=self.scores[index], mos=self.mos[index], types=self.types[index]
        )


def split(contents: Sequence[str], held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Rows to train on and to validate on: whole contents, drawn until `held_out` of all clips is reached. One content
    at least is trained on."""
    names = sorted(set(contents))
    drawn = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    held: set[str] = set()
    for name in drawn[:-1]:
        if sum(c in held for c in contents) >= held_out * len(contents):
            break
        held.add(name)
    rows = range(len(contents))
    return [i for i in rows if contents[i] not in held], [i for i in rows if contents[i] in held]


@torch.no_grad()
def judge(gate: Gate, held: Material, bootstrap: int, seed: int) -> tuple[str, bool, dict[str, Any]]:
    """The best single expert on the held-out clips, whether the gate's SRCC is above it, and the numbers. An expert
    that is silent on clips where others speak is no candidate: it could not stand in."""
    routed = gate(held.features)
    names = gate.shape.experts
    weights = share(routed.experts, gate.shape.top_k, torch.ones(len(names), dtype=torch.bool))
    fused, scored = fuse(weights, held.scores)
    mos, scores = held.mos.numpy(), held.scores.numpy()
    singles = {name: _srcc(scores[:, i], mos) for i, name in enumerate(names)}
    given = (~held.scores.isnan()).sum(0).tolist()
    able = [name for name, count in zip(names, given) if count == max(given)]
    best = max(able, key=lambda name: singles[name])
    column = scores[:, names.index(best)]
    both = scored.numpy() & ~np.isnan(column)
    made = fused.numpy()
    over = paired_difference("SRCC", made[both], column[both], mos[both], bootstrap=bootstrap, seed=seed)
    error = (fused - held.mos).abs()
    values = {
        "clips": len(mos),
        "without_score": int((~scored).sum()),
        "srcc": _srcc(np.where(scored.numpy(), made, np.nan), mos),
        "srcc_mean_of_all": _srcc(np.nanmean(scores, 1), mos),
        "srcc_best": singles[best],
        "srcc_over_best": {"value": over.value, "lo": over.lo, "hi": over.hi, "n": over.n, "note": over.note},
        "mean_error": error[scored].mean().item(),
        "mean_error_best": float(np.nanmean(np.abs(column - mos))),
        "mean_uncertainty": routed.uncertainty[scored].mean().item(),
        "srcc_uncertainty_error": _srcc(routed.uncertainty[scored].numpy(), error[scored].numpy()),
        "type_accuracy": (routed.types.argmax(-1) == held.types).float().mean().item(),
        "weights": {name: weights[:, i].mean().item() for i, name in enumerate(names)},
        "singles": singles,
    }
    return best, over.value is not None and over.value > 0, values


def _srcc(scores: np.ndarray, mos: np.ndarray) -> float:
    """Over the clips with a score; -2 where it is not defined, below every correlation."""
    there = ~np.isnan(scores)
    value = quality_metric("SRCC", scores[there], mos[there], bootstrap=0, seed=0).value
    return -2.0 if value is None else value
