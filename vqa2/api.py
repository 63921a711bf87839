"""The model from Python and from the command line: one class, the same numbers as the benchmarks."""

from dataclasses import dataclass
from pathlib import Path

from vqa2.core.config import build
from vqa2.core.errors import MediaError
from vqa2.core.prompts import open_prompt
from vqa2.core.records import Answer, Query
from vqa2.launch import composed
from vqa2.model.predict import kind_of

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
    """A trained model behind three verbs; underneath, the benchmarks' own predictors. Raises MediaError for a file that
    cannot be read or gets no readable rating."""

    def __init__(self, folder: str, device: str, reasoning: bool) -> None:
        path = Path(folder)
        inner = path / "model"
        values = composed("eval", [f"predictor={'reasoning' if reasoning else 'model'}"])["predictor"]
        chosen = {"folder": str(inner if inner.is_dir() else path), "device": device}
        self._predictor = build("predictor", {**values, **chosen}, "predictor").open()

    def score(self, path: str | Path) -> Score:
        """Quality of one clip or image, by level softmax (one prefill) or by a written thought and rating."""
        answer = self._one(path, None)
        return Score(str(path), answer.score01, answer.levels, answer.text)

    def ask(self, path: str | Path, question: str) -> str:
        """The answer to a free question about one clip."""
        return self._one(path, open_prompt(question)).text

    def describe(self, path: str | Path) -> str:
        """A description of the clip's quality."""
        return self.ask(path, DESCRIBE)

    def _one(self, path: str | Path, question: str | None) -> Answer:
        query = Query(id=str(path), path=Path(path), kind=kind_of(Path(path)), question=question)
        verb = self._predictor.score if question is None else self._predictor.answer
        (answer,) = verb([query])
        if answer.error is not None:
            raise MediaError(path, answer.error)
        return answer
