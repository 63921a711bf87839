"""A small model and measured, calibrated experts for runs of stage=router; readable answers of a toy."""

from pathlib import Path

import pytest
from grpo_toy import spelled
from router_parts import only

from vqa2.core.config import decode
from vqa2.experts.measure import ExpertsCommand
from vqa2.experts.measure import run as measure_experts
from vqa2.launch import composed
from vqa2.model.build import build as build_model
from vqa2.train.common import set_texts


@pytest.fixture(scope="session")
def backbone(model_spec, data_root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("backbone") / "scoring" / "model"
    model, processor = build_model(model_spec, set_texts(data_root))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def experts(data_root, tmp_path_factory) -> Path:
    """Readings and calibrations, as `python -m vqa2.experts` leaves them."""
    out = tmp_path_factory.mktemp("experts")
    more = [f"root={data_root}", f"out={out}", f"experts.calibration={out}/calibration", "bootstrap=0", "fit_limit=30"]
    more += ["forms=[linear,isotonic]", *only("experts")]
    measure_experts(decode(ExpertsCommand, composed("experts", more), "experts"), {}, lambda *_: None)
    return out


@pytest.fixture
def readable(monkeypatch):
    """The toy's answers, read as ratings."""
    monkeypatch.setattr("vqa2.train._grpo_collect.words", spelled)
