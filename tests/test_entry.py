"""The commands as a user types them: good ones work, bad input is one readable line and exit code 2."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from vqa2 import api, load
from vqa2.cli import app
from vqa2.core.config import build
from vqa2.core.errors import DataError, MediaError
from vqa2.core.records import Query
from vqa2.launch import composed

ROOT = Path(__file__).parents[1]


def call(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def refused(*command: str) -> str:
    """The error line of a command that must fail cleanly."""
    done = call(*command)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("command", "say"),
    [
        (["train.py", "stage=grop"], "stage=grop: no such stage (did you mean 'grpo'?)"),
        pytest.param(["train.py"], "no such stage", marks=pytest.mark.slow),
        pytest.param(
            ["train.py", "stage=base", "sed=3"], "sed: unknown key (did you mean 'seed'?)", marks=pytest.mark.slow
        ),
        pytest.param(
            ["train.py", "stage=scoring", "preset=paper", "engine=cpu"], "runs/paper/distortion", marks=pytest.mark.slow
        ),
        (["eval.py", "benchmark=qbench-vidoe"], "no such benchmark (did you mean 'qbench-video'?)"),
        pytest.param(
            ["eval.py", "run=nowhere", "train_preset=paper"],
            "run `python train.py stage=understanding preset=paper name=nowhere` first",
            marks=pytest.mark.slow,
        ),
        (["-m", "data_prep", "source=folder", "root=/nonexistent"], "no such folder"),
    ],
)
def test_bad_commands_are_one_line(command, say):
    assert say in refused(*command)


def test_scoring_from_python_equals_the_command(trained, data_root, tmp_path):
    """A folder with a folder and a hidden file in it."""
    clips = sorted((data_root / "media" / "test").glob("*.mp4"))[:2]
    folder = tmp_path / "clips ü"
    (folder / "inner").mkdir(parents=True)
    for path, target in zip(clips, (folder, folder / "inner"), strict=True):
        shutil.copy(path, target)
    (folder / "broken.mp4").write_bytes(b"")
    (folder / ".hidden.mp4").write_bytes(b"")
    done = call("-m", "vqa2.cli", "score", str(folder), "--out", str(tmp_path / "scores.csv"), "--model", str(trained))
    assert done.returncode == 0, done.stderr
    assert "scored 2 of 3 files" in done.stderr
    rows = {Path(r["path"]).name: r for r in csv.DictReader((tmp_path / "scores.csv").open())}
    assert rows["broken.mp4"]["score_0_100"] == ""
    assert "empty file" in rows["broken.mp4"]["error"]
    model = load(str(trained))
    for path in clips:
        score = model.score(path)
        assert float(rows[path.name]["score_0_100"]) == pytest.approx(score.score100, abs=1e-3)
        assert sum(score.levels) == pytest.approx(1, abs=1e-5)
        weighted = sum(w * p for w, p in zip((1, 0.75, 0.5, 0.25, 0), score.levels, strict=True))
        assert score.score01 == pytest.approx(weighted, abs=1e-6)


def test_rows_of_a_csv_are_on_the_disk_before_the_next_batch(trained, data_root, tmp_path, monkeypatch):
    """A kill in the middle of a long folder keeps what was scored."""
    clips = [str(p) for p in sorted((data_root / "media" / "test").glob("*.mp4"))[:2]]
    table, seen, real = tmp_path / "scores.csv", [], api.Model.scores

    def scores(self, paths):
        seen.append(table.read_text().count("\n"))
        return real(self, paths)

    monkeypatch.setattr(api.Model, "scores", scores)
    words = ["score", *clips, "--model", str(trained), "--out", str(table), "--batch-size", "1"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert seen == [1, 2]
    assert table.read_text().count("\n") == 3


def test_a_csv_that_cannot_be_written_is_said_before_scoring(trained, data_root, tmp_path):
    clip = next((data_root / "media" / "test").glob("*.mp4"))
    words = ["score", str(clip), "--model", str(trained), "--out", str(tmp_path / "no" / "x.csv")]
    assert "No such file or directory" in str(CliRunner().invoke(app, words).exception)


def test_the_version_is_shown():
    assert re.fullmatch(r"vqa2 \d+\.\d+\.\d+\n", CliRunner().invoke(app, ["--version"]).output)


def test_reasoned_scores_are_alike_in_python_command_and_benchmark(trained, data_root, monkeypatch):
    """The small model writes no rating: the same failure, with the same text, wherever it is asked."""
    clip = next((data_root / "media" / "test").glob("*.mp4"))
    values = composed("eval", ["predictor=reasoning", "predictor.max_new_tokens=8"])["predictor"]
    predictor = build("predictor", values | {"folder": str(trained / "model")}, "predictor").open()
    (answer,) = predictor.score([Query(id="q", path=clip, kind="video")])
    monkeypatch.setattr("vqa2.api.composed", lambda *_: {"predictor": values})
    with pytest.raises(MediaError, match="unreadable rating") as caught:
        load(str(trained), reasoning=True).score(clip)
    assert answer.error == caught.value.reason
    done = CliRunner().invoke(app, ["score", str(clip), "--reasoning", "--model", str(trained)])
    assert answer.error in done.stderr


def test_a_description_is_text(trained, data_root):
    clip = next((data_root / "media" / "test").glob("*.mp4"))
    assert isinstance(load(str(trained)).describe(clip), str)


def audio_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_files_that_are_no_video_are_named_with_their_reason(trained, tmp_path):
    (tmp_path / "zero.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("hello")
    audio_only(tmp_path / "audio.mp4")
    model = load(str(trained))
    for name, reason in (
        ("zero.mp4", "empty file"),
        ("text.mp4", "not a readable video"),
        ("audio.mp4", "audio only"),
        ("no.mp4", "no such file"),
    ):
        with pytest.raises(MediaError, match=f"{name}: .*{reason}"):
            model.score(tmp_path / name)


@pytest.mark.parametrize(
    ("target", "model", "say"),
    [
        ("empty", "trained", "no files in this folder"),
        ("absent", "trained", "no such file or folder"),
        ("clip.mp4", "empty", "no trained model here"),
    ],
)
def test_nothing_to_score_or_to_score_with_is_one_line(trained, tmp_path, typed, target, model, say):
    (tmp_path / "empty").mkdir()
    (tmp_path / "clip.mp4").write_bytes(b"0")
    folder = {"trained": trained, "empty": tmp_path / "empty"}[model]
    code, _, err = typed("score", str(tmp_path / target), "--model", str(folder))
    assert code == 2
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert say in line


def test_evaluation_reports_and_resumes(trained, data_root, tmp_path):
    run = tmp_path / "runs"
    shutil.copytree(trained, run / "tiny" / "understanding")
    command = [
        "eval.py", "benchmark=qbench-video", f"runs={run}",
        f"predictor.folder={run / 'tiny' / 'understanding' / 'model'}",
        f"benchmarks.qbench-video.file={data_root / 'benchmark' / 'qbench_video.json'}",
        f"benchmarks.qbench-video.video_root={data_root / 'media' / 'test'}", "predictor.max_new_tokens=8",
    ]  # fmt: skip
    first = call(*command)
    assert first.returncode == 0, first.stderr
    report = json.loads((run / "tiny" / "eval" / "qbench-video" / "report.json").read_text())
    assert report["n_expected"] == 16
    page = (run / "tiny" / "report.html").read_text()
    assert "qbench-video" in page
    assert "is not a mean opinion score" in page
    stamp = (run / "tiny" / "eval" / "qbench-video" / "answers.jsonl").read_text()
    assert call(*command).returncode == 0
    assert json.loads((run / "tiny" / "eval" / "qbench-video" / "report.json").read_text()) == report
    assert (run / "tiny" / "eval" / "qbench-video" / "answers.jsonl").read_text() == stamp


def test_a_set_row_that_is_malformed_names_file_and_line(tmp_path):
    from vqa2.core.records import Instruction, read_jsonl

    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "x"}\n')
    with pytest.raises(DataError, match=r"a.jsonl:1: .*required|a.jsonl:1: .*missing"):
        read_jsonl(path, Instruction)


@pytest.mark.slow
def test_two_processes_share_an_evaluation(data_root, tmp_path):
    def reported(*launcher: str, out: Path) -> dict:
        settings = ["predictor=random", f"runs={out}", f"benchmarks.synthetic.root={data_root}", "worst=2",
                    "benchmarks.synthetic.bootstrap=20"]  # fmt: skip
        done = call(*launcher, "eval.py", "benchmark=synthetic", *settings)
        assert done.returncode == 0, done.stderr
        assert (out / "tiny" / "report.html").is_file()
        return json.loads((out / "tiny" / "eval" / "synthetic" / "report.json").read_text())

    alone = reported(out=tmp_path / "alone")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    shared = reported(*launcher, out=tmp_path / "shared")
    assert shared["metrics"] == alone["metrics"]
    assert shared["n_scored"] == alone["n_expected"]
    assert [s["processes"] for s in shared["provenance"]["sessions"]] == [2]
    # Killed and started again, with one process: nothing is asked twice.
    again = reported(out=tmp_path / "shared")
    assert again == shared


def test_routing_before_the_experts_are_measured_says_what_to_run(data_root, tmp_path):
    clip = next((data_root / "media" / "test").glob("*.mp4"))
    done = CliRunner().invoke(app, ["route", str(clip), "--set", f"experts.calibration={tmp_path}"])
    assert "no expert is calibrated; run `python -m vqa2.experts` first" in str(done.exception)
