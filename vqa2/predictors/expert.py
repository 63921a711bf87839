"""Predictor `expert`: one quality tool of conf/expert as a scorer: what training has to beat. It answers no questions.

score01 is the raw score's place in the tool's nominal range, turned where small is good, bent by a logistic curve so
that values outside the range keep their order. It is not calibrated: rank correlations, and PLCC after a fit, are the
tool's; raw PLCC and RMSE mean nothing.
"""

from collections.abc import Sequence
from typing import Any

from scipy.special import expit

from vqa2.core.config import build, register
from vqa2.core.errors import ConfigError, MediaError
from vqa2.core.records import Answer, Query
from vqa2.core.run import fingerprint
from vqa2.experts.base import Expert as Tool
from vqa2.experts.base import Info, Media, NotApplicable, applicable
from vqa2.predictors.constant import missing

_ENDS = 6.0
"""Ends of the nominal range on the logistic curve: scores 0.0025 and 0.9975."""


@register("predictor", "expert")
class Expert:
    """`expert`: a component of kind expert; choose one with `expert@predictor.expert=<name>`."""

    expert: dict[str, Any]

    def open(self) -> "ExpertPredictor":
        tool = build("expert", self.expert, "predictor.expert")
        if tool.missing():
            raise ConfigError(f"predictor.expert: {tool.missing()}")
        return ExpertPredictor(tool, self.expert)


class ExpertPredictor:
    """Media that the tool does not take, or cannot measure, are failures."""

    def __init__(self, tool: Tool, settings: dict[str, Any]) -> None:
        self._info, self._scorer = tool.info, tool.open()
        self.fingerprint = fingerprint(["expert", settings])
        self.name = f"expert {type(tool).__name__.lower()} {self.fingerprint[:6]}"
        self.provenance = {"expert": settings}

    def score(self, queries: Sequence[Query]) -> list[Answer]:
        return [self._score(q) for q in queries]

    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        return [Answer(id=q.id, error="a quality tool scores; it cannot answer questions") for q in queries]

    def _score(self, query: Query) -> Answer:
        gone = missing(query)
        if gone is not None:
            return gone
        media = Media(path=query.path, kind=query.kind, id=query.id)
        reference = Media(path=query.second, kind=query.kind) if query.pristine and query.second else None
        reason = applicable(self._info, media, reference, query.prompt)
        if reason:
            return Answer(id=query.id, error=reason)
        try:
            raw = self._scorer.score(media, reference, query.prompt).value
        except MediaError as err:
            return Answer(id=query.id, error=err.reason)
        except NotApplicable as err:
            return Answer(id=query.id, error=str(err))
        return Answer(id=query.id, score01=place(raw, self._info))


def place(raw: float, info: Info) -> float:
    """A raw score in (0, 1), larger is better, in the tool's own order."""
    lo, hi = info.raw_range
    share = (2 * raw - lo - hi) / (hi - lo)
    return float(expit(_ENDS * (share if info.higher_is_better else -share)))
