"""Expert `pyiqa`: any metric of IQA-PyTorch by name, frame by frame (optional: pip install pyiqa).

Its code is PolyForm-Noncommercial-1.0.0 and its weights are downloaded on first use; nothing of it is copied here. Not
run by us: there is no copy of the weights without a network.
"""

from importlib.util import find_spec
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge

from vqa2.core.config import register
from vqa2.core.errors import ConfigError
from vqa2.experts._frames import pairs, sampled
from vqa2.experts.base import Info, Media, Raw


@register("expert", "pyiqa")
class PyIqa:
    """`metric`: a name of pyiqa.list_models(); `frames` per clip, one at a time, mean over them."""

    info: Info
    metric: str
    frames: Annotated[int, Ge(1)]
    device: Literal["cpu", "cuda"]

    def missing(self) -> str:
        if find_spec("pyiqa") is None:
            return "pyiqa is not installed; pip install pyiqa (PolyForm-Noncommercial, downloads weights)"
        return ""

    def content(self) -> str:
        return ""

    def open(self) -> "PyIqaScorer":
        """ConfigError for an unknown metric, or one whose direction or reference is not the declared one."""
        if self.missing():
            raise ConfigError(f"pyiqa: {self.missing()}")
        import pyiqa

        if self.metric not in pyiqa.list_models():
            raise ConfigError(f"pyiqa: no metric {self.metric!r}; see pyiqa.list_models()")
        model = pyiqa.create_metric(self.metric, device=self.device)
        if model.lower_better == self.info.higher_is_better:
            raise ConfigError(f"pyiqa {self.metric}: info.higher_is_better must be {not model.lower_better}")
        if (model.metric_mode == "FR") != self.info.reference:
            raise ConfigError(f"pyiqa {self.metric}: info.reference must be {model.metric_mode == 'FR'}")
        return PyIqaScorer(self, model)


class PyIqaScorer:
    """Holds the metric's weights."""

    def __init__(self, made: PyIqa, model: Any) -> None:
        self._made, self._model = made, model

    def score(self, media: Media, reference: Media | None, prompt: str | None) -> Raw:
        """Mean over frames; `parts`: the spread."""
        if reference is not None and self._made.info.reference:
            values = [self._one(a, b) for a, b in pairs(media, reference, self._made.frames)]
        else:
            values = [self._one(frame) for frame in sampled(media, self._made.frames)]
        return Raw(value=float(np.mean(values)), parts={"std": float(np.std(values))})

    def _one(self, *frames: np.ndarray) -> float:
        import torch

        with torch.inference_mode():
            inputs = [torch.from_numpy(f.copy()).permute(2, 0, 1)[None].float() / 255 for f in frames]
            return float(self._model(*(x.to(self._made.device) for x in inputs)))
