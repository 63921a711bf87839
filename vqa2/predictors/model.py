"""Predictor `model`: a trained VQA² checkpoint."""

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from vqa2.core.config import register
from vqa2.data.video import VideoSpec
from vqa2.model.predict import ModelPredictor


@register("predictor", "model")
class Model:
    """`folder`: a saved model; `max_new_tokens` bounds generated answers."""

    folder: str
    device: Literal["cpu", "cuda"]
    max_new_tokens: Annotated[int, Ge(1)]
    video: VideoSpec

    def open(self) -> ModelPredictor:
        return ModelPredictor(Path(self.folder), self.video, self.device, self.max_new_tokens)
