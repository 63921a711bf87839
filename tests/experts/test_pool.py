"""The pool: readings, failures as evidence, limits, licenses, calibration refused when missing or stale."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from expert_values import INFO
from media import write_clip
from scipy import ndimage

from vqa2.core.config import decode
from vqa2.core.errors import ConfigError
from vqa2.experts import calibration
from vqa2.experts.base import Media
from vqa2.experts.calibration import Material, fit
from vqa2.experts.pool import Pool, PoolSpec
from vqa2.launch import composed


def replayed(tmp_path: Path, **info) -> dict:
    path = tmp_path / "scores.csv"
    path.write_text("name,score,sharp\n" + "".join(f"c{i},{i / 10},{i}\n" for i in range(11)))
    return {
        "name": "replay", "files": [str(path)], "id_column": "name", "column": "score", "parts": ["sharp"],
        "info": {**INFO, **info},
    }  # fmt: skip


def pool(tmp_path: Path, isolation: str = "none", **changes) -> Pool:
    values = {
        "tools": {"replayed": replayed(tmp_path)}, "commercial_only": False, "isolation": isolation,
        "timeout_s": 60.0, "calibration": str(tmp_path / "calibration"), **changes,
    }  # fmt: skip
    return decode(PoolSpec, values, "experts").open()


def media(name: str, **changes) -> Media:
    return Media(path=Path(name), kind="video", id=name, **changes)


def calibrated(made: Pool, tmp_path: Path, name: str = "replayed") -> None:
    raw = tuple(i / 10 for i in range(11))
    material = Material(dataset="d", ids=tuple(map(str, raw)), raw=raw, mos=tuple(100 * x for x in raw))
    calibration.save(fit(made.subject(name), "linear", material), tmp_path / "calibration")


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_readings_come_back_in_order_calibrated_and_with_parts(tmp_path, isolation):
    with pool(tmp_path, isolation) as made:
        calibrated(made, tmp_path)
        first, second = made.run(["replayed", "replayed"], media("c7"), None, None, None)
        assert first.raw == 0.7
        assert first.parts == {"sharp": 7.0}
        assert first.score == pytest.approx(70)
        assert first.outside == 0
        assert replace(first, seconds=0) == replace(second, seconds=0)
        (missing,) = made.run(["replayed"], media("c99"), None, None, None)
        assert (missing.raw, missing.failure) == (None, "not applicable")


def test_an_uncalibrated_or_changed_expert_gives_no_score(tmp_path):
    made = pool(tmp_path)
    (reading,) = made.run(["replayed"], media("c3"), None, None, None)
    assert (reading.raw, reading.score, reading.failure) == (0.3, None, "uncalibrated")
    assert "no calibration of replayed" in reading.reason
    calibrated(made, tmp_path)
    other = pool(tmp_path, tools={"replayed": replayed(tmp_path, weights="v2")})
    assert "stale" in other.run(["replayed"], media("c3"), None, None, None)[0].reason
    cheaper = pool(tmp_path, tools={"replayed": replayed(tmp_path, cost_s=3.0)})
    assert cheaper.run(["replayed"], media("c3"), None, None, None)[0].score == pytest.approx(30)


def test_what_cannot_be_used_is_left_out_with_the_reason(tmp_path):
    tools = {
        "closed": replayed(tmp_path, commercial=False, license="S-Lab-1.0"),
        "absent": {**replayed(tmp_path), "files": ["nowhere.csv"]},
        "fr": replayed(tmp_path, reference=True),
    }
    made = pool(tmp_path, tools=tools, commercial_only=True)
    assert list(made.experts) == ["fr"]
    assert "S-Lab-1.0" in made.left_out["closed"]
    readings = made.run(["closed", "absent", "fr"], media("c1"), None, None, None)
    assert [r.failure for r in readings] == ["unavailable", "unavailable", "not applicable"]
    assert "nowhere.csv" in readings[1].reason
    with pytest.raises(ConfigError, match="no such expert \\(did you mean 'closed'\\?\\)"):
        made.run(["clozed"], media("c1"), None, None, None)


def test_no_time_left_is_a_reading_too(tmp_path):
    (reading,) = pool(tmp_path).run(["replayed"], media("c1"), None, None, 0.0)
    assert reading.failure == "budget"


def test_filters_order_blur_and_a_broken_file_is_evidence(tmp_path):
    """The shipped values, in the worker process: three strengths of blur, then a file that is no video."""
    shipped = composed("experts", [])["experts"]
    rng, names = np.random.default_rng(0), ["blur", "spatial_information"]
    sharp = (ndimage.gaussian_filter(rng.random((64, 80)), 1) * 400 - 100).clip(0, 255)
    for sigma in (0, 1, 2):
        still = ndimage.gaussian_filter(sharp, sigma).astype(np.uint8)
        write_clip(tmp_path / f"{sigma}.mkv", np.repeat(still[None, ..., None], 4, 0).repeat(3, -1), fps=8)
    (tmp_path / "bad.mkv").write_bytes(b"no video" * 100)
    with decode(PoolSpec, {**shipped, "calibration": str(tmp_path)}, "experts").open() as made:
        seen = [made.run(names, Media(path=tmp_path / f"{s}.mkv", kind="video"), None, None, None) for s in (0, 1, 2)]
        blur, si = ([r.raw for r in column] for column in zip(*seen))
        assert blur == sorted(blur)
        assert si == sorted(si, reverse=True)
        (broken,) = made.run(["blur"], Media(path=tmp_path / "bad.mkv", kind="video"), None, None, None)
        assert broken.failure == "error"
        assert "bad.mkv" in broken.reason


def test_commercial_safe_is_a_choice_of_the_configuration():
    safe = composed("experts", ["experts=commercial_safe"])["experts"]
    assert safe["commercial_only"]
    assert safe["tools"] == composed("experts", [])["experts"]["tools"]


def hung_or_dead(tmp_path: Path, body: str) -> dict:
    """An expert whose own process is what we test: a Python tool that never returns, or dies."""
    (tmp_path / "tool.py").write_text(body)
    info = {**INFO, "kinds": ["video"]}
    return {"name": "command", "folder": str(tmp_path), "python": "", "arguments": ["tool.py"], "files": [],
            "pattern": "(?P<value>[0-9]+)", "get": "-", "timeout_s": 600.0, "info": info}  # fmt: skip


def test_a_hang_is_cut_off_at_the_limit_and_the_next_expert_runs(tmp_path):
    tools = {"slow": hung_or_dead(tmp_path, "import time; time.sleep(600)"), "replayed": replayed(tmp_path)}
    with pool(tmp_path, "process", tools=tools, timeout_s=60.0) as made:
        assert made.run(["replayed"], media("c1"), None, None, None)[0].raw == 0.1  # the worker is up
        start = time.monotonic()
        slow, next_one = made.run(["slow", "replayed"], media("c1"), None, None, 3.0)
        assert time.monotonic() - start < 30
        assert slow.failure == "timeout"
        assert (next_one.raw, next_one.failure) in ((0.1, "uncalibrated"), (None, "budget"))
        assert made.run(["replayed"], media("c2"), None, None, None)[0].raw == 0.2


def test_a_crash_of_the_process_is_evidence_and_the_next_expert_runs(tmp_path):
    """The tool takes the worker that started it along."""
    body = "import os, signal, time; os.kill(os.getppid(), signal.SIGSEGV); time.sleep(5)"
    with pool(tmp_path, "process", tools={"bad": hung_or_dead(tmp_path, body), "replayed": replayed(tmp_path)}) as made:
        dead, alive = made.run(["bad", "replayed"], media("c1"), None, None, None)
        assert (dead.failure, dead.raw) == ("crash", None)
        assert "SIGSEGV" in dead.reason
        assert alive.raw == 0.1
