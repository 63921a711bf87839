"""vqa2: training and evaluating video quality assessment with large multimodal models."""


def load(folder: str, device: str = "cpu"):
    """A trained model for use from Python: `load("runs/tiny/understanding").score("clip.mp4")`.

    `folder` is a run folder or a model folder; see `vqa2.api.Model` for `score`, `ask` and `describe`.
    """
    from vqa2.api import Model

    return Model(folder, device)
