"""vqa2: training and evaluating video quality assessment with large multimodal models."""


def load(folder: str, device: str = "cpu", *, reasoning: bool = False):
    """A trained model for use from Python: `load("runs/tiny/understanding").score("clip.mp4")`.

    `folder` is a run folder or a model folder; `reasoning`: score by a written thought and rating, for models of stage
    grpo. See `vqa2.api.Model` for `score`, `ask` and `describe`.
    """
    from vqa2.api import Model

    return Model(folder, device, reasoning)
