"""Predictor `router`: Q-Router's tiers over a pool of experts (vqa2/agents/router.py)."""

from pathlib import Path
from typing import Any

from vqa2.agents._spec import RouterSpec
from vqa2.agents.world import Means
from vqa2.core.config import register
from vqa2.core.llm import open_llm
from vqa2.experts.pool import PoolSpec
from vqa2.predictors._programs import ProgramPredictor
from vqa2.predictors._voice import VoiceSpec


@register("predictor", "router")
class Router:
    """`llm` decides (`rules`: no model does) and answers questions, as `voice` does where there is no `llm`; `traces`:
    folder of one JSON per item."""

    experts: PoolSpec
    llm: dict[str, Any]
    llm_cache: str
    router: RouterSpec
    voice: VoiceSpec
    traces: str

    def open(self) -> ProgramPredictor:
        llm = open_llm(self.llm, Path(self.llm_cache), "predictor.llm")
        means = Means(pool=self.experts.open(), llm=llm, voice=self.voice.open(), localizer=None)
        return ProgramPredictor("router", self.router, means, Path(self.traces))
