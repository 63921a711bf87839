"""Shared fixtures: a small embedded data root and a small model, both made once per session."""

from pathlib import Path

import pytest
import torch
from small import SMALL_DATA, SMALL_MODEL

from data_prep.run import DataPrepRun, prepare
from vqa2.core.config import decode
from vqa2.launch import composed
from vqa2.model.build import ModelSpec, build


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def typed(monkeypatch, capfd):
    """`typed("score", ...)`: the command `vqa2` in this process, as (exit code, stdout, stderr)."""
    from vqa2.cli import main

    def call(*words: str) -> tuple[int | None, str, str]:
        monkeypatch.setattr("sys.argv", ["vqa2", *words])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code, *capfd.readouterr()

    return call


@pytest.fixture(scope="session")
def data_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "synthetic"
    prepare(decode(DataPrepRun, composed("data_prep", [*SMALL_DATA, f"out={root}"]), "data_prep"), progress=False)
    return root


@pytest.fixture(scope="session")
def model_spec() -> ModelSpec:
    return decode(ModelSpec, composed("train", ["stage=base", *SMALL_MODEL])["model"], "model")


@pytest.fixture(scope="session")
def trained(data_root, tmp_path_factory) -> Path:
    """A run folder with an untrained-for-use but real model, made by the real stage in two steps."""
    from vqa2.train.plan import train

    out = tmp_path_factory.mktemp("runs")
    train("base", [*SMALL_MODEL, f"data.root={data_root}", f"out={out}", "stage.optim.max_steps=2"], composed)
    return out / "tiny" / "base"


@pytest.fixture
def small(model_spec, data_root):
    """(model, processor) with seeded random weights."""
    from vqa2.train.common import set_texts

    torch.manual_seed(0)
    return build(model_spec, set_texts(data_root))
