"""Undistorted clips of embedded ones, and a full-reference expert that is calibrated on them and used by the router."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small import SMALL_DATA
from typer.testing import CliRunner

from data_prep._encode import read_frames
from data_prep.references import FILE, make, read
from data_prep.run import DataPrepRun
from vqa2.agents.trace import read_trace
from vqa2.cli import app
from vqa2.core.config import decode
from vqa2.core.errors import DataError
from vqa2.experts.__main__ import main
from vqa2.launch import composed


@pytest.fixture(scope="module")
def root(data_root, tmp_path_factory) -> Path:
    """A copy: the root that all tests share stays as it is made by default."""
    return shutil.copytree(data_root, tmp_path_factory.mktemp("referenced") / "synthetic")


@pytest.fixture(scope="module")
def calibrated(root, tmp_path_factory) -> Path:
    """Calibrations of one expert with and one without a reference, by the command."""
    out = tmp_path_factory.mktemp("calibrated")
    tools = composed("experts", [])["experts"]["tools"]
    drop = [f"~experts.tools.{name}" for name in tools if name not in ("psnr", "blur")]
    settings = " ".join(setting for setting in SMALL_DATA if setting.startswith("source."))
    main([*drop, f"root={root}", f"out={out}", f"experts.calibration={out}/calibration", "experts.isolation=none",
          "forms=[isotonic]", "bootstrap=0", "fit=scoring_ugc.test.jsonl",
          f"made_by='python -m data_prep {settings}'"])  # fmt: skip
    return out / "calibration"


def made_by(root: Path) -> DataPrepRun:
    return decode(DataPrepRun, composed("data_prep", [*SMALL_DATA, f"out={root}"]), "data_prep")


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def test_a_reference_is_the_clip_before_it_was_damaged(root, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in (root / "media" / "train").iterdir()}
    ids = ["train-clean-000", "train-noise-001", "train-shake-001", "train-still-noise-001"]
    make(made_by(root), ids[:3], lambda *_: None)
    found = read(root)
    assert set(found) == set(ids[:3])
    frames = {name: (read_frames(root / f"media/train/{name}.mp4"), read_frames(path)) for name, path in found.items()}
    assert psnr(*frames[ids[0]]) > 40
    assert psnr(*frames[ids[1]]) < 35
    assert all(a.shape == b.shape for a, b in frames.values())
    # A steady camera: the reference moves less than the shaken clip.
    shaken, steady = (np.abs(np.diff(x.astype(float), axis=0)).mean() for x in frames[ids[2]])
    assert steady < shaken
    assert before == {p: p.stat().st_mtime_ns for p in (root / "media" / "train").iterdir()}
    kept = found[ids[0]].stat().st_mtime_ns
    make(made_by(root), [ids[0], ids[3]], lambda *_: None)
    assert read(root)[ids[0]].stat().st_mtime_ns == kept
    assert read(root)[ids[3]].suffix == ".png"


def test_what_is_no_clip_and_what_is_gone_is_named(root, tmp_path):
    with pytest.raises(DataError, match="train-nowhere-000: no clip of the source synthetic"):
        make(made_by(root), ["train-nowhere-000"], lambda *_: None)
    (tmp_path / FILE).write_text(json.dumps({"a": "gone.mp4"}))
    with pytest.raises(DataError, match="references.json: a: .*gone.mp4: no such file"):
        read(tmp_path)
    assert read(tmp_path / "none") == {}


def test_the_router_uses_a_calibrated_full_reference_expert(root, calibrated, tmp_path):
    name = "test-noise-000"
    settings = (f"experts.calibration={calibrated}", f"traces={tmp_path}", f"llm_cache={tmp_path / 'c'}")
    given = ["--reference", str(read(root)[name]), *(x for setting in settings for x in ("--set", setting))]
    routed = CliRunner().invoke(app, ["route", str(root / f"media/test/{name}.mp4"), *given])
    assert routed.exit_code == 0, routed.output
    assert "no expert that needs one is calibrated" not in routed.stderr
    (trace,) = map(read_trace, tmp_path.glob("*.json"))
    assert set(trace.working["readings"]) == {"blur", "psnr"}
    assert trace.working["terms"]["psnr"]["adjusted"] > 0
