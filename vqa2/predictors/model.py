"""Predictor `model`: a trained VQA² checkpoint."""

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from vqa2.core.config import register
from vqa2.data.video import VideoSpec
from vqa2.model.predict import Inference, ModelPredictor


@register("predictor", "model")
class Model:
    """`folder`: a saved model; `max_new_tokens` bounds generated answers; `workers` decode clips ahead of the model."""

    folder: str
    device: Literal["cpu", "cuda"]
    max_new_tokens: Annotated[int, Ge(1)]
    workers: Annotated[int, Ge(0)]
    video: VideoSpec

    def open(self) -> ModelPredictor:
        made = Inference(video=self.video, device=self.device, max_new_tokens=self.max_new_tokens, workers=self.workers)
        return ModelPredictor.load(Path(self.folder), made)
