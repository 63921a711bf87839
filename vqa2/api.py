"""The model from Python and from the command line: one class, the same numbers as the benchmarks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vqa2.core.config import build
from vqa2.core.errors import ConfigError, MediaError
from vqa2.core.prompts import open_prompt
from vqa2.core.records import Query
from vqa2.launch import composed
from vqa2.model.predict import ModelPredictor, kind_of

DESCRIBE = "Describe the quality of this video."


@dataclass(frozen=True)
class Score:
    """`score01` in [0, 1], larger is better; `score100` is the same on 0-100; `levels` are the probabilities of high,
    good, fair, poor, low, or None where the score was reasoned; `text` is then what was written."""

    path: str
    score01: float
    levels: tuple[float, ...] | None
    text: str | None = None

    @property
    def score100(self) -> float:
        return 100 * self.score01


class Model:
    """A trained model behind a few verbs; underneath, the benchmarks' own predictors. Raises MediaError for a file that
    cannot be read or gets no readable rating. `identity` tells model, checkpoint hash and settings."""

    def __init__(self, folder: str, device: str, reasoning: bool) -> None:
        path = Path(folder)
        inner = path / "model"
        values = composed("eval", [f"predictor={'reasoning' if reasoning else 'model'}"])["predictor"]
        chosen = {"folder": str(inner if inner.is_dir() else path), "device": device}
        self._predictor = build("predictor", {**values, **chosen}, "predictor").open()
        self.identity = self._predictor.provenance

    def score(self, path: str | Path) -> Score:
        """Quality of one clip or image, by level softmax (one prefill) or by a written thought and rating."""
        (made,) = self.scores([path])
        if isinstance(made, MediaError):
            raise made
        return made

    def scores(self, paths: Sequence[str | Path]) -> list[Score | MediaError]:
        """Quality of several files as one batch; in place of a score, why there is none."""
        queries = {str(path): _query(path, None) for path in paths}
        found = {answer.id: answer for answer in self._predictor.score(list(queries.values()))}
        return [
            Score(name, answer.score01, answer.levels, answer.text)
            if answer.error is None
            else MediaError(name, answer.error)
            for name, answer in ((str(path), found[str(path)]) for path in paths)
        ]

    def seconds(self, path: str | Path) -> list[Score]:
        """Quality of every second of a clip, each by itself, by level softmax; a last one with too few frames has none.
        Models are trained on whole clips: compare the seconds of a clip with each other."""
        if not isinstance(self._predictor, ModelPredictor):
            raise ConfigError("seconds: scored by level softmax alone, not with reasoning")
        made = self._predictor.score_seconds(_query(path, None))
        return [Score(str(path), answer.score01, answer.levels) for answer in made]

    def ask(self, path: str | Path, question: str) -> str:
        """The answer to a free question about one clip."""
        (answer,) = self._predictor.answer([_query(path, open_prompt(question))])
        if answer.error is not None:
            raise MediaError(path, answer.error)
        return answer.text

    def describe(self, path: str | Path) -> str:
        """A description of the clip's quality."""
        return self.ask(path, DESCRIBE)


def _query(path: str | Path, question: str | None) -> Query:
    return Query(id=str(path), path=Path(path), kind=kind_of(Path(path)), question=question)
