"""The learned router's gate as the agents know it (`Gate` of vqa2/agents/world.py)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from vqa2.core.config import spec
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.records import Kind, Query
from vqa2.core.run import fingerprint
from vqa2.data.video import VideoSpec
from vqa2.experts.pool import Pool
from vqa2.model.gate import Gate, GateCard, load, share
from vqa2.model.predict import Inference, ModelPredictor


@spec
class DeciderSpec:
    """`gate`: a folder that stage=router saved, null for no gate; the others are for the model it looks through."""

    gate: str | None
    device: Literal["cpu", "cuda"]
    video: VideoSpec

    def open(self, pool: Pool) -> "LearnedGate | None":
        """None where no folder is named. ConfigError where experts, calibrations or model are no longer those that the
        gate was trained with."""
        if self.gate is None:
            return None
        gate, card = load(Path(self.gate))
        check_experts(Path(self.gate), card, pool)
        made = Inference(video=self.video, device=self.device, max_new_tokens=1, workers=0)
        eyes = ModelPredictor.load(Path(card.backbone), made)
        if eyes.provenance["checkpoint"] != card.checkpoint:
            raise ConfigError(f"{self.gate}: {card.backbone} has changed since; train stage=router again")
        return LearnedGate(gate, card, eyes)


def check_experts(folder: Path, card: GateCard, pool: Pool) -> None:
    """ConfigError for an expert of the gate that is here with other values or another calibration. One that is not in
    the pool, or left out, is merely not chosen."""
    for name in (n for n in card.shape.experts if n in pool.experts):
        if pool.bound(name) != card.curves[name]:
            raise ConfigError(f"{folder}: expert {name} or its calibration has changed; train stage=router again")


class LearnedGate:
    """`eyes` is the frozen model that gives the hidden states."""

    def __init__(self, gate: Gate, card: GateCard, eyes: ModelPredictor) -> None:
        self._gate, self._card, self._eyes = gate, card, eyes
        weights = {name: value.tolist() for name, value in gate.state_dict().items()}
        self.name = f"gate {fingerprint([weights, card.checkpoint, card.better, card.best, eyes.fingerprint])}"

    @property
    def stands_back(self) -> bool:
        """Whether one expert was better in validation."""
        return not self._card.better

    def insisting(self) -> "LearnedGate":
        """The same gate, which decides all the same."""
        return LearnedGate(self._gate, replace(self._card, better=True), self._eyes)

    @torch.inference_mode()
    def __call__(self, path: Path, kind: Kind, experts: Sequence[str]) -> dict[str, Any]:
        """See the protocol. A gate that was not better than one expert leaves all weight to that expert and names
        no error, which would be its own."""
        shape, card = self._card.shape, self._card
        allowed = torch.tensor([name in experts for name in shape.experts])
        if not allowed.any():
            raise DataError(f"it was trained with {', '.join(shape.experts)}, none of which can rate this {kind}")
        routed = self._gate(self._eyes.hidden(Query(id=str(path), path=path, kind=kind))[None])
        said = {"content_type": shape.types[routed.types[0].argmax()], "uncertainty": routed.uncertainty.item()}
        if not card.better:
            if card.best not in experts:
                raise DataError(f"it was not better than {card.best}, which cannot rate this {kind}")
            note = f"the learned gate was not better than {card.best} on its validation clips: {card.best} alone rates"
            return {**said, "uncertainty": None, "weights": {card.best: 1.0}, "note": note}
        weights = share(routed.experts[0], shape.top_k, allowed).tolist()
        return {**said, "weights": {n: w for n, w in zip(shape.experts, weights) if w > 0}, "note": ""}
