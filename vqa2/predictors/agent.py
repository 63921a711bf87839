"""Predictor `agent`: AgenticIQA's planner, executor and summarizer (vqa2/agents/agent.py)."""

from pathlib import Path
from typing import Any

from vqa2.agents._spec import AgentSpec
from vqa2.agents.world import Means
from vqa2.core.config import register
from vqa2.core.llm import open_llm
from vqa2.experts.pool import PoolSpec
from vqa2.predictors._programs import ProgramPredictor
from vqa2.predictors._voice import VoiceSpec


@register("predictor", "agent")
class Agent:
    """`llm`: the chat model of all roles (`rules`: none); `voice`: models of ours; `traces`: folder of one JSON per
    item."""

    experts: PoolSpec
    llm: dict[str, Any]
    llm_cache: str
    agent: AgentSpec
    voice: VoiceSpec
    traces: str

    def open(self) -> ProgramPredictor:
        llm = open_llm(self.llm, Path(self.llm_cache), "predictor.llm")
        means = Means(pool=self.experts.open(), llm=llm, voice=self.voice.open(), localizer=None)
        return ProgramPredictor("agent", self.agent, means, Path(self.traces))
