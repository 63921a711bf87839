"""Experts whose scores the test names, and programs that record, write and replay whatever they are asked."""

from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import yaml

from vqa2.agents.item import Asked
from vqa2.agents.run import check, live
from vqa2.agents.trace import read_trace, write_trace
from vqa2.agents.world import Means
from vqa2.core.config import register
from vqa2.core.errors import DataError
from vqa2.experts._frames import sampled
from vqa2.experts.base import Info, Raw
from vqa2.launch import conf_dir

INFO = {
    "kinds": ["video", "image"], "reference": False, "prompt": False, "raw_range": [0.0, 100.0],
    "higher_is_better": True, "cost_s": 1.0, "strengths": [], "license": "Apache-2.0", "commercial": True,
    "weights": "", "trained_on": [], "pooling": "mean",
}  # fmt: skip


@register("expert", "told")
class Told:
    """Says `value`, or fails as `fails` names it."""

    info: Info
    value: float
    fails: str

    def missing(self) -> str:
        return ""

    def content(self) -> str:
        return ""

    def open(self):
        return self

    def score(self, media, reference, prompt):
        if self.fails:
            raise RuntimeError(self.fails)
        return Raw(value=self.value)


@register("expert", "mean_gray")
class MeanGray:
    """Says the mean gray value of what it is given, in percent."""

    info: Info

    def missing(self) -> str:
        return ""

    def content(self) -> str:
        return ""

    def open(self):
        return self

    def score(self, media, reference, prompt):
        return Raw(value=float(np.mean([frame.mean() for frame in sampled(media, 4)])) / 2.55)


def told(value: float = 50.0, fails: str = "", **info) -> dict:
    return {"name": "told", "value": value, "fails": fails, "info": {**INFO, **info}}


def routing(**changes):
    """A valid decision of a chat model that routes, as it is changed."""
    return {"content_type": "ugc", "experts": ["a", "b"], "suspected": ["noise"], "weights": [], "why": "x", **changes}


@dataclass
class Made:
    """A program with all it needs; `ask` records, writes, reads and replays every trace it makes."""

    folder: Path
    program: str
    spec: object
    means: Means

    def ask(self, path: Path, kind: str = "video", question: str | None = None, **changes):
        asked = Asked(id=changes.pop("id", path.name), path=path, kind=kind, question=question, **changes)
        trace = live(self.program, self.spec, asked, self.means)
        write_trace(self.folder / "trace.json", trace)
        stored = read_trace(self.folder / "trace.json")
        check(stored)
        return stored


def http_values(**changes) -> dict:
    """The values of conf/llm/http.yaml, quick to give up."""
    values = yaml.safe_load((conf_dir() / "llm" / "http.yaml").read_text())
    return {**values, "retries": 0, "timeout_s": 0.3, **changes}


@dataclass
class Spoken:
    """A model of ours that says what it is told to; `asked` keeps the questions."""

    level: tuple[float, ...] | None = None
    option: tuple[float, ...] | None = None
    words: str | None = None
    name: str = "spoken"

    def __post_init__(self) -> None:
        said = {"levels": self.level, "options": self.option, "say": self.words}
        self.can, self.asked = tuple(key for key, value in said.items() if value is not None), []

    def levels(self, path, kind, question):
        self.asked.append(question)
        return self.level

    def options(self, path, kind, question, replies):
        self.asked.append((question, tuple(replies)))
        return self.option

    def say(self, path, kind, question):
        self.asked.append(question)
        return self.words


class Trusting:
    """A learned gate that says what it is told."""

    name = "trusting"

    def __init__(self, weights, note="", uncertainty=7.5, fails=""):
        self.said = {"content_type": "CG", "weights": weights, "uncertainty": uncertainty, "note": note}
        self.fails = fails

    def __call__(self, path, kind, experts):
        assert set(self.said["weights"]) <= set(experts)
        if self.fails:
            raise DataError(self.fails)
        return self.said


def one_second_a_step(monkeypatch) -> None:
    """Every call outside takes one second on the tape."""
    monkeypatch.setattr("vqa2.agents.trace.time", SimpleNamespace(perf_counter=count(0.0).__next__))


@dataclass
class Finding:
    """A localizer that says what it is told."""

    said: dict
    name: str = "finding"

    def __call__(self, path, kind):
        return self.said
