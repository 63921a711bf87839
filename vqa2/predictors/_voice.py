"""Models of ours as the agent's voice: level probabilities, options, words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from vqa2.core.config import spec
from vqa2.core.errors import MediaError
from vqa2.core.records import Answer, Kind, Query
from vqa2.data.video import VideoSpec
from vqa2.model.predict import Inference, ModelPredictor


@spec
class VoiceSpec:
    """`score`, `answer`: model folders, null for none (they may be one and the same)."""

    score: str | None
    answer: str | None
    device: Literal["cpu", "cuda"]
    max_new_tokens: Annotated[int, Ge(1)]
    video: VideoSpec

    def open(self) -> "ModelVoice | None":
        """None where no folder is named."""
        folders = {folder for folder in (self.score, self.answer) if folder is not None}
        made = Inference(video=self.video, device=self.device, max_new_tokens=self.max_new_tokens, workers=0)
        models = {f: ModelPredictor.load(Path(f), made) for f in sorted(folders)}
        return ModelVoice(models.get(self.score or ""), models.get(self.answer or "")) if models else None


class ModelVoice:
    """The Voice protocol of vqa2/agents/world.py; an unreadable file is a MediaError."""

    def __init__(self, scorer: ModelPredictor | None, answerer: ModelPredictor | None) -> None:
        self._scorer, self._answerer = scorer, answerer
        self.can = (*(("levels",) if scorer else ()), *(("options", "say") if answerer else ()))
        self.name = "; ".join(f"{m.name} {m.fingerprint}" for m in (scorer, answerer) if m is not None)

    def levels(self, path: Path, kind: Kind, question: str | None) -> Sequence[float]:
        assert self._scorer is not None
        (answer,) = self._scorer.score([_query(path, kind, question)])
        levels = _good(path, answer).levels
        assert levels is not None
        return levels

    def options(self, path: Path, kind: Kind, question: str, replies: Sequence[str]) -> Sequence[float]:
        assert self._answerer is not None
        return self._answerer.options(_query(path, kind, question), replies)

    def say(self, path: Path, kind: Kind, question: str) -> str:
        assert self._answerer is not None
        (answer,) = self._answerer.answer([_query(path, kind, question)])
        text = _good(path, answer).text
        assert text is not None
        return text


def _query(path: Path, kind: Kind, question: str | None) -> Query:
    return Query(id=str(path), path=path, kind=kind, question=question)


def _good(path: Path, answer: Answer) -> Answer:
    if answer.error is not None:
        raise MediaError(path, answer.error)
    return answer
