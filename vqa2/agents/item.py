"""What a router or an agent is asked about one item, and what is known of each expert for it before any runs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from vqa2.agents import _names
from vqa2.agents._media import Box
from vqa2.agents.trace import Plain
from vqa2.core.records import Kind
from vqa2.experts.base import Media, applicable
from vqa2.experts.pool import Pool


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One item. `want`: what the caller is sure to want; `reference`: its undistorted original; `prompt`: the text it
    was generated from; `regions`: boxes of named regions, where they are known."""

    id: str
    path: Path
    kind: Kind
    question: str | None = None
    want: Literal["score", "answer", "auto"] = "auto"
    reference: Path | None = None
    prompt: str | None = None
    regions: Mapping[str, Box] = field(default_factory=dict)

    def plain(self) -> Plain:
        values = {**asdict(self), "path": str(self.path), "reference": self.reference and str(self.reference)}
        return {**values, "regions": {name: list(box) for name, box in self.regions.items()}}


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of an expert before it runs. `reference`, `prompt`: it needs one; `why_not`: why it cannot be
    used here, or empty; `rmse` is its calibration's, in MOS points; `calibration` its provenance."""

    name: str
    cost_s: float
    strengths: tuple[str, ...]
    license: str
    weights: str
    trained_on: tuple[str, ...]
    calibration: str
    rmse: float | None
    reference: bool
    prompt: bool
    why_not: str

    @classmethod
    def from_plain(cls, values: Plain) -> "Card":
        lists = {key: tuple(values[key]) for key in ("strengths", "trained_on")}
        return cls(**{**values, **lists})


def cards(pool: Pool, asked: Asked) -> dict[str, Card]:
    """The pool's experts as they are for one item, those that it left out too. Uncalibrated ones are not usable:
    nothing is fused that is not on one scale."""
    media = Media(path=asked.path, kind=asked.kind, id=asked.id)
    reference = None if asked.reference is None else Media(path=asked.reference, kind=asked.kind)
    made = {}
    for name in pool.experts:
        info, curve = pool.info(name), pool.calibration_of(name)
        why_not = applicable(info, media, reference, asked.prompt)
        fitted = None if isinstance(curve, str) else curve
        made[name] = Card(
            name=name,
            cost_s=info.cost_s,
            strengths=tuple(_names.strengths(info.strengths)),
            license=info.license,
            weights=info.weights,
            trained_on=info.trained_on,
            calibration="" if fitted is None else f"{fitted.form} fitted on {fitted.dataset} (n {fitted.n})",
            rmse=None if fitted is None else fitted.rmse,
            reference=info.reference,
            prompt=info.prompt,
            why_not=why_not or (curve if isinstance(curve, str) else ""),
        )
    return made
