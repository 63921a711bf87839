"""The experts command: raw scores kept and not asked twice, calibrations written, a row for everything or a reason."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from expert_values import INFO

from vqa2.core.config import decode
from vqa2.core.errors import DataError
from vqa2.core.records import Instruction, Turn, read_jsonl, write_jsonl
from vqa2.experts.calibration import load
from vqa2.experts.measure import READINGS, ExpertsCommand, run


def prepared(tmp_path: Path) -> ExpertsCommand:
    """40 media with recorded scores: `good` follows MOS, `noise` does not, `gone` knows half of them."""
    rng = np.random.default_rng(0)
    rows, lines = [], ["name,good,noise"]
    for i in range(40):
        (tmp_path / f"c{i}.mp4").write_bytes(bytes([i]))
        mos = 2.0 * i + 5
        lines.append(f"c{i},{-mos / 50 + rng.normal(0, 0.05)},{rng.random()}")
        rows.append(
            Instruction(
                id=f"r{i}", clip_id=f"c{i}", kind="video", media=f"c{i}.mp4", task="scoring", mos=mos,
                turns=(Turn(user="", assistant=""),), tags={"distortion": "noise" if i % 2 else "none"},
            )
        )  # fmt: skip
    (tmp_path / "all.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "half.csv").write_text("\n".join([lines[0], *lines[1::2]]) + "\n")
    write_jsonl(tmp_path / "rows.jsonl", rows)

    def tool(column: str, file: str, **info) -> dict:
        return {"name": "replay", "files": [str(tmp_path / file)], "id_column": "name", "column": column, "parts": [],
                "info": {**INFO, "strengths": ["noise"], **info}}  # fmt: skip

    tools = {
        "good": tool("good", "all.csv", higher_is_better=False),
        "noise": tool("noise", "all.csv"),
        "gone": tool("good", "half.csv", higher_is_better=False),
        "fr": tool("good", "all.csv", reference=True, higher_is_better=False),
        "absent": tool("good", "nowhere.csv"),
    }
    pool = {"tools": tools, "commercial_only": False, "isolation": "none", "timeout_s": 9.0,
            "calibration": str(tmp_path / "calibration")}  # fmt: skip
    values = {"experts": pool, "root": str(tmp_path), "fit": "rows.jsonl", "test": "rows.jsonl", "fit_limit": 20,
              "forms": ["logistic5", "linear"], "bootstrap": 50, "seed": 0, "out": str(tmp_path / "out"),
              "made_by": "", "workers": 1}  # fmt: skip
    return decode(ExpertsCommand, values, "experts")


def test_every_expert_has_a_row_or_a_reason(tmp_path):
    made = prepared(tmp_path)
    rows, left_out = run(made, {}, lambda *_: None)
    by = {row.expert: row for row in rows}
    assert set(by) | set(left_out) == {"good", "noise", "gone", "fr", "absent"}
    assert left_out["fr"] == "needs a reference, and no clip has one"
    assert "nowhere.csv" in left_out["absent"]
    assert rows[0].expert in ("good", "gone")
    assert by["good"].srcc.value > 0.95
    assert by["good"].plcc.value > 0.95
    assert by["good"].own.n == 40
    assert abs(by["noise"].srcc.value) < 0.4
    assert (by["gone"].srcc.n, sum(by["gone"].failures.values())) == (20, 20)
    with made.experts.open() as pool:
        curve = load(tmp_path / "calibration", "good", pool.subject("good").identity)
        assert curve.n == 20
        assert curve.dataset.endswith("rows.jsonl")


def test_readings_are_kept_and_asked_anew_only_where_something_changed(tmp_path):
    made = prepared(tmp_path)
    run(made, {}, lambda *_: None)
    kept = (tmp_path / "out" / READINGS).read_text().splitlines()
    run(made, {}, lambda *_: None)
    assert (tmp_path / "out" / READINGS).read_text().splitlines() == kept
    with (tmp_path / "out" / READINGS).open("a") as handle:
        handle.write('{"key": "cut off')
    (tmp_path / "c3.mp4").write_bytes(b"another")
    (tmp_path / "out" / READINGS).write_text("\n".join([*kept, '{"key": "cut off', ""]))
    run(made, {}, lambda *_: None)
    new = (tmp_path / "out" / READINGS).read_text().splitlines()[len(kept) + 1 :]
    assert {json.loads(line)["media"] for line in new} == {"c3"}


def test_clips_side_by_side_give_the_same_readings_in_the_same_order(tmp_path):
    def read(out: str, **changes) -> list[dict]:
        made = prepared(tmp_path)
        experts = replace(made.experts, **changes.pop("experts", {}))
        run(replace(made, experts=experts, out=str(tmp_path / out), **changes), {}, lambda *_: None)
        return [{**json.loads(line), "seconds": 0.0} for line in (tmp_path / out / READINGS).read_text().splitlines()]

    alone = read("one")
    assert len(alone) == 40 * 3
    assert read("three", workers=3) == alone
    assert read("processes", workers=2, experts={"isolation": "process"}) == alone


def test_an_error_with_clips_side_by_side_ends_the_run_at_once(tmp_path, monkeypatch):
    """Without asking about the clips that wait."""
    made, asked = replace(prepared(tmp_path), workers=2), []

    def broken(self, names, media, *more):
        asked.append(media.id)
        raise DataError("out of order")

    monkeypatch.setattr("vqa2.experts.pool.Pool.run", broken)
    with pytest.raises(DataError, match="out of order"):
        run(made, {}, lambda *_: None)
    assert len(asked) < 20


def test_a_row_without_mos_is_an_error(tmp_path):
    made = prepared(tmp_path)
    row = Instruction(id="x", clip_id="x", kind="video", media="c1.mp4", task="", turns=(Turn(user="", assistant=""),))
    write_jsonl(tmp_path / "rows.jsonl", [row])
    with pytest.raises(DataError, match="rows.jsonl: x: a rated media is needed"):
        run(made, {}, lambda *_: None)


def test_references_bring_the_experts_that_need_them(tmp_path):
    """Half of the clips have one; another reference is another reading."""
    made = prepared(tmp_path)
    paths = {f"c{i}": tmp_path / f"c{(i + 2) % 40}.mp4" for i in range(20)}
    rows, left_out = run(made, paths, lambda *_: None)
    (row,) = (row for row in rows if row.expert == "fr")
    assert "fr" not in left_out
    assert (row.srcc.n, row.failures) == (20, {"not applicable: needs a reference": 20})
    assert json.loads((tmp_path / "calibration" / "fr.json").read_text())["n"] < 20
    kept = (tmp_path / "out" / READINGS).read_text().splitlines()
    run(made, {**paths, "c3": tmp_path / "c0.mp4"}, lambda *_: None)
    new = [json.loads(line) for line in (tmp_path / "out" / READINGS).read_text().splitlines()[len(kept) :]]
    assert [(r["expert"], r["media"]) for r in new] == [("fr", "c3")]


def test_a_target_that_an_experts_own_score_made_is_not_used(tmp_path):
    made = prepared(tmp_path)
    rows = [replace(row, tags={**row.tags, "mos_rule": "replay" if i % 4 == 0 else "strength"})
            for i, row in enumerate(read_jsonl(tmp_path / "rows.jsonl", Instruction))]  # fmt: skip
    write_jsonl(tmp_path / "rows.jsonl", rows)
    (row,) = (row for row in run(made, {}, lambda *_: None)[0] if row.expert == "good")
    assert (row.srcc.n, row.failures) == (30, {"not applicable: its own score is the target": 10})
    assert json.loads((tmp_path / "calibration" / "good.json").read_text())["n"] < 20
