"""Expert `predictor`: anything that answers as a Predictor, above all a trained VQA² model. Raw score: score01."""

from pathlib import Path
from typing import Any

from vqa2.core.config import build, register
from vqa2.core.errors import DataError
from vqa2.core.records import Predictor as Answering
from vqa2.core.records import Query
from vqa2.core.scale import LEVELS
from vqa2.experts.base import Info, Media, Raw, files_hash


@register("expert", "predictor")
class Predictor:
    """`predictor`: the values of a predictor component, as in conf/predictor. `info` is about one model, so that its
    `weights` repeat the predictor's `folder`: another folder comes with its own license and training sets."""

    info: Info
    predictor: dict[str, Any]

    def __post_init__(self) -> None:
        folder = self.predictor.get("folder", self.info.weights)
        if folder != self.info.weights:
            raise ValueError(
                f"info.weights: license, commercial and trained_on are those of {self.info.weights}; "
                f"name all four for {folder}"
            )

    def missing(self) -> str:
        folder = self.predictor.get("folder")
        if folder is not None and not Path(folder).is_dir():
            return f"{folder}: no model here; train one (python train.py stage=scoring) or name another folder"
        return ""

    def content(self) -> str:
        return files_hash(
            sorted(Path(self.predictor["folder"]).glob("*.safetensors")) if "folder" in self.predictor else []
        )

    def open(self) -> "Answered":
        return Answered(build("predictor", self.predictor, "predictor").open())


class Answered:
    """Holds the opened predictor."""

    def __init__(self, predictor: Answering) -> None:
        self._predictor = predictor

    def score(self, media: Media, reference: Media | None, prompt: str | None) -> Raw:
        """score01; `parts`: level probabilities where the predictor gives them. DataError with its reason where it
        cannot answer."""
        (answer,) = self._predictor.score([Query(id=media.key, path=media.path, kind=media.kind)])
        if answer.score01 is None:
            raise DataError(answer.error or "no score")
        return Raw(value=answer.score01, parts=dict(zip(LEVELS, answer.levels or ())))
