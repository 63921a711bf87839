"""Predictor `router`: Q-Router's tiers over a pool of experts (vqa2/agents/router.py)."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from vqa2.agents._spec import RouterSpec
from vqa2.agents.world import Means
from vqa2.core.config import register
from vqa2.core.llm import open_llm
from vqa2.core.records import Kind
from vqa2.core.run import fingerprint
from vqa2.experts.base import Media, files_hash
from vqa2.experts.localization.localize import LocalizeSpec
from vqa2.experts.pool import PoolSpec
from vqa2.predictors._decider import DeciderSpec
from vqa2.predictors._programs import ProgramPredictor
from vqa2.predictors._voice import VoiceSpec


@register("predictor", "router")
class Router:
    """`llm` decides (`rules`: no model does), unless `decider` names a learned gate, and answers questions, as `voice`
    does where there is no `llm`; `traces`: folder of one JSON per item. `localize` is opened for tier 2 alone."""

    experts: PoolSpec
    decider: DeciderSpec
    llm: dict[str, Any]
    llm_cache: str
    router: RouterSpec
    voice: VoiceSpec
    localize: LocalizeSpec
    traces: str

    def open(self) -> ProgramPredictor:
        llm = open_llm(self.llm, Path(self.llm_cache), "predictor.llm")
        found = RouterLocalizer(self.localize) if self.router.tier == 2 else None
        pool = self.experts.open()
        gate = self.decider.open(pool)
        means = Means(pool=pool, llm=llm, voice=self.voice.open(), localizer=found, gate=gate)
        return ProgramPredictor("router", self.router, means, Path(self.traces))


class RouterLocalizer:
    """The Localizer protocol of vqa2/agents/world.py; its name tells settings and detector file."""

    def __init__(self, made: LocalizeSpec) -> None:
        self._locate = made.open()
        values = {**asdict(made), "detector": files_hash([Path(made.detector)])}
        self.name = f"localizer {fingerprint(values)}"

    def __call__(self, path: Path, kind: Kind) -> dict[str, Any]:
        told = self._locate(Media(path=path, kind=kind))
        findings = sorted((asdict(f) for f in told.findings), key=lambda f: -f["severity"])
        return {"types": list(dict.fromkeys(f["kind"] for f in findings)), "findings": findings}
