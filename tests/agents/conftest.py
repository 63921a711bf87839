"""Real pools, chat clients and programs around experts whose scores the test names."""

import json
from functools import cache

import numpy as np
import pytest
from agent_test_parts import Made
from media import numbered, write_clip
from PIL import Image

from vqa2.agents._spec import AgentSpec, RouterSpec
from vqa2.agents.world import Means
from vqa2.core.config import decode
from vqa2.core.llm import open_llm
from vqa2.experts import calibration
from vqa2.experts.calibration import Material, fit
from vqa2.experts.pool import Pool, PoolSpec
from vqa2.launch import composed


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mkv"
    write_clip(path, numbered(8), fps=8)
    return path


@pytest.fixture
def still(tmp_path):
    path = tmp_path / "still.png"
    Image.fromarray(np.full((24, 32, 3), 90, np.uint8)).save(path)
    return path


@pytest.fixture
def pool_of(tmp_path):
    """`pool_of(blur=told(...))`: a pool whose raw scores are MOS, but for names in `uncalibrated`."""

    def make(uncalibrated=(), **tools) -> Pool:
        values = {"tools": tools, "commercial_only": False, "isolation": "none", "timeout_s": 30.0,
                  "calibration": str(tmp_path / "calibration")}  # fmt: skip
        pool = decode(PoolSpec, values, "experts").open()
        grid = tuple(float(x) for x in range(0, 101, 10))
        material = Material(dataset="grid", ids=tuple(map(str, grid)), raw=grid, mos=grid)
        for name in set(tools) - set(uncalibrated):
            calibration.save(fit(pool.subject(name), "linear", material), tmp_path / "calibration")
        return pool

    return make


@pytest.fixture
def llm_of(tmp_path):
    """`llm_of({regex: reply})`: the scripted chat client; a dict reply is sent as JSON. `values`: another component."""

    def make(replies=None, **values):
        texts = {key: r if isinstance(r, str) else json.dumps(r) for key, r in (replies or {}).items()}
        return open_llm(values or {"name": "scripted", "replies": texts}, tmp_path / "llm.sqlite", "llm")

    return make


@cache
def predictor(*overrides: str) -> dict:
    """The shipped values; composing them takes a second."""
    return composed("eval", overrides)["predictor"]


@pytest.fixture
def router_of(tmp_path, pool_of):
    """A router with the shipped values; `changes` are dotted overrides of the router's settings."""

    def make(pool: Pool, llm=None, *changes: str, localizer=None, gate=None, priors="equal") -> Made:
        chosen = ["predictor=router", f"priors@predictor.router.priors={priors}"]
        overrides = [*chosen, *(f"predictor.router.{c}" for c in changes)]
        spec = decode(RouterSpec, predictor(*overrides)["router"], "router")
        return Made(tmp_path, "router", spec, Means(pool=pool, llm=llm, voice=None, localizer=localizer, gate=gate))

    return make


@pytest.fixture
def agent_of(tmp_path):
    """An agent with the shipped values; `changes` are dotted overrides of the agent's settings."""

    def make(pool: Pool, llm=None, *changes: str, voice=None) -> Made:
        overrides = ["predictor=agent", *(f"predictor.agent.{c}" for c in changes)]
        spec = decode(AgentSpec, predictor(*overrides)["agent"], "agent")
        return Made(tmp_path, "agent", spec, Means(pool=pool, llm=llm, voice=voice, localizer=None))

    return make
