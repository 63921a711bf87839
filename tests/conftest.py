"""Shared fixtures: a small embedded data root and a small model, both made once per session."""

from pathlib import Path

import pytest
import torch

from data_prep.run import DataPrepRun, prepare
from vqa2.core.config import decode
from vqa2.launch import composed
from vqa2.model.build import ModelSpec, build

SMALL_DATA = [
    "source.recipe.stills=[2,1]",
    "source.recipe.spatial_videos=[2,1]",
    "source.recipe.temporal_videos=[2,1]",
    "source.recipe.clean_videos=[1,1]",
    "source.recipe.streaming=[4,3]",
    "sets.base.rows=[60,10]",
    "sets.benchmark.questions={yes-or-no: 6, what/how: 6, open_ended: 4}",
    "workers=1",
]
SMALL_MODEL = [
    "model.vision={hidden_size: 32, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, image_size: 32, patch_size: 8}",
    "model.text.hidden_size=32",
    "model.text.intermediate_size=32",
    "model.text.num_hidden_layers=2",
    "model.motion.image_size=32",
    "model.motion.stem_channels=4",
]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "synthetic"
    prepare(decode(DataPrepRun, composed("data_prep", [*SMALL_DATA, f"out={root}"]), "data_prep"), progress=False)
    return root


@pytest.fixture(scope="session")
def model_spec() -> ModelSpec:
    return decode(ModelSpec, composed("train", ["stage=base", *SMALL_MODEL])["model"], "model")


@pytest.fixture
def small(model_spec, data_root):
    """(model, processor) with seeded random weights."""
    from vqa2.train.common import set_texts

    torch.manual_seed(0)
    return build(model_spec, set_texts(data_root))
