"""An evaluation as a whole: killed for real and continued, clips partly missing, another predictor in the same folder,
tested against saved answers."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vqa2.bench._answers import ANSWERS, read_answers, read_rows
from vqa2.core.config import decode
from vqa2.core.errors import DataError
from vqa2.evaluate import EvalRun, evaluate
from vqa2.launch import composed

ROOT = Path(__file__).parents[1]
TOOL = ["predictor=expert", "expert@predictor.expert=blur"]


@pytest.fixture
def settings(data_root, tmp_path):
    """Words of eval.py for the embedded scoring set; runs under `tmp_path / <out>`."""

    def make(out, *more):
        return ["benchmark=synthetic", f"runs={tmp_path / out}", f"benchmarks.synthetic.root={data_root}", "worst=0",
                "benchmarks.synthetic.batch_size=2", "benchmarks.synthetic.bootstrap=200", *more]  # fmt: skip

    return make


def evaluated(words):
    """(report, answers file) of an evaluation in this process."""
    made = decode(EvalRun, composed("eval", words), "eval")
    (report,) = evaluate(made, lambda stage: pytest.fail(f"{stage} would be trained"))
    return report, Path(made.runs) / made.run / "eval" / "synthetic" / ANSWERS


def test_killed_and_continued_it_ends_in_the_same_numbers_and_asks_nothing_twice(settings, tmp_path):
    whole, _ = evaluated(settings("whole", *TOOL))
    words = settings("cut", *TOOL)
    path, end = tmp_path / "cut" / "tiny" / "eval" / "synthetic" / ANSWERS, time.monotonic() + 100
    running = subprocess.Popen([sys.executable, "eval.py", *words], cwd=ROOT, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
    while not path.is_file() or path.read_bytes().count(b"\n") < 4:
        assert running.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.005)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    before = path.read_text().splitlines()[1:]
    before = before[: len(before) if path.read_text().endswith("\n") else -1]
    assert 3 <= len(before) < whole.n_expected
    report, _ = evaluated(words)
    assert (report.metrics, report.groups, report.marks) == (whole.metrics, whole.groups, whole.marks)
    after = path.read_text().splitlines()[1:]
    assert after[: len(before)] == before
    assert len({json.loads(line)["id"] for line in after}) == len(after) == whole.n_expected


def test_missing_clips_are_counted_and_listed_and_asked_when_they_are_there(settings, data_root, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    (root / "scoring_ugc.test.jsonl").symlink_to(data_root / "scoring_ugc.test.jsonl")
    (root / "media" / "test").mkdir(parents=True)
    clips = sorted({q.query.path.name for q in _items(settings("x"))})
    for name in clips[1:]:
        (root / "media" / "test" / name).hardlink_to(data_root / "media" / "test" / name)
    words = settings("o", *TOOL, f"benchmarks.synthetic.root={root}")
    report, path = evaluated(words)
    assert {reason for _, reason in report.failures} == {"no such file"}
    assert (report.n_scored, report.n_failed) == (report.n_expected - 1, 1)
    assert {m.n for m in report.metrics} == {report.n_scored}
    assert "1 items not scored" in report.deviations
    (root / "media" / "test" / clips[0]).hardlink_to(data_root / "media" / "test" / clips[0])
    before = read_rows(path)[1]
    again, _ = evaluated(words)
    assert again.n_failed == 0
    assert [r for r in read_rows(path)[1] if r in before] == [r for r in before if r["error"] is None]


def _items(words):
    from vqa2.core.config import build

    return build("benchmark", composed("eval", words)["benchmarks"]["synthetic"], "benchmarks.synthetic").items()


def test_another_predictor_in_the_same_run_sets_the_old_answers_aside(settings):
    evaluated(settings("o", *TOOL))
    report, path = evaluated(settings("o", "predictor=constant"))
    assert {a.score01 for a in read_answers(path).values()} == {0.5}
    assert report.metrics[0].note.startswith("undefined: constant")
    assert [p.name for p in path.parent.glob("*.stale")] != []


def test_page_and_table_hold_what_earlier_evaluations_of_the_run_left(settings, data_root, tmp_path):
    other = ["benchmark=synthetic-streaming", f"benchmarks.synthetic-streaming.root={data_root}"]
    words = [f"runs={tmp_path / 'o'}", "worst=0", "predictor=constant"]
    evaluate(decode(EvalRun, composed("eval", [*other, *words]), "eval"), pytest.fail)
    report, path = evaluated(settings("o", "predictor=random"))
    home = path.parents[2]
    text, page = (home / "eval" / "report.md").read_text(), (home / "report.html").read_text()
    assert re.findall("^## (.*)$", text, re.MULTILINE) == ["synthetic: random", "synthetic-streaming: constant"]
    assert re.search(r"^- synthetic: random.*; items \w{12}; scoring_ugc.test.jsonl \w{12}$", text, re.M)
    assert "Of earlier evaluations of this run, without figures and answers here: synthetic-streaming." in page
    assert "Embedded data (synthetic, synthetic-streaming): photographs" in page
    (home / "eval" / "synthetic-streaming" / "report.json").write_text("{")
    with pytest.raises(DataError, match=r"synthetic-streaming/report\.json: no report"):
        evaluated(settings("o", "predictor=random"))


def test_real_clips_are_not_called_embedded(settings, data_root, tmp_path):
    """The same rows in a folder whose files no manifest of the embedded data lists."""
    root = tmp_path / "real"
    root.mkdir()
    for name in ("scoring_ugc.test.jsonl", "media"):
        (root / name).symlink_to(data_root / name)
    _, path = evaluated(settings("o", "predictor=constant", f"benchmarks.synthetic.root={root}"))
    assert "Embedded data" not in (path.parents[2] / "report.html").read_text()


def test_all_that_is_missing_is_named_before_anything_is_asked(tmp_path, data_root):
    words = ["benchmark=[synthetic,konvid-1k,cvd2014]", f"benchmarks.synthetic.root={data_root}", f"runs={tmp_path}",
             "predictor=constant"]  # fmt: skip
    with pytest.raises(DataError, match=r"data/konvid-1k/\S+: no such file; get it with .*; data/cvd2014/\S+: no such"):
        evaluate(decode(EvalRun, composed("eval", words), "eval"), pytest.fail)
    assert not (tmp_path / "tiny" / "eval").exists()


def test_answers_are_tested_against_saved_ones(settings, tmp_path):
    _, path = evaluated(settings("a", *TOOL))
    same, _ = evaluated(settings("b", *TOOL, f"against={path}"))
    other, _ = evaluated(settings("c", "predictor=random", f"against={path}"))
    differences = same.groups[f"difference to {path}"]
    assert {m.value for m in differences if not m.note.startswith("undefined")} == {0.0}
    assert differences[0].value is not None
    told = {"answers": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert same.provenance["against"] == told
    srcc = next(m for m in other.groups[f"difference to {path}"] if m.name == "SRCC")
    assert srcc.lo <= srcc.value <= srcc.hi
    assert "p =" in srcc.note
    with pytest.raises(DataError, match="no saved answers here"):
        evaluated(settings("d", "predictor=random", f"against={tmp_path / 'none.jsonl'}"))
