"""Random clips and the batches that the model takes, for the tests of this folder."""

import numpy as np
import torch

from vqa2.core.records import Turn
from vqa2.data.video import Video


def clip(seed: int, keys: int = 2, motion: int = 16, side: int = 32) -> Video:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (motion, side, side, 3), dtype=np.uint8)
    step = motion // keys
    index = np.arange(motion)
    return Video(
        frames[::step][:keys], frames, np.arange(keys), index / step, index // step, float(step), f"clip{seed}"
    )


def inputs(processor, videos, question="<video>\nHow good?"):
    examples = [processor.example((Turn(user=question, assistant="fine."),), v, "row") for v in videos]
    length = max(len(e.input_ids) for e in examples)
    ids = torch.tensor([e.input_ids + [0] * (length - len(e.input_ids)) for e in examples])
    mask = torch.tensor([[1] * len(e.input_ids) + [0] * (length - len(e.input_ids)) for e in examples])
    return {"input_ids": ids, "attention_mask": mask, **processor.media(videos)}
