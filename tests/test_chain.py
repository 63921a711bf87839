"""The whole chain as `make demo` runs it, at a few steps: six stages, every benchmark, the report."""

import json

import pytest
from small import SMALL_MODEL

from vqa2.core.config import decode
from vqa2.core.llm import open_llm
from vqa2.evaluate import EvalRun, evaluate
from vqa2.launch import composed
from vqa2.train.plan import train

STAGES = ["base", "distortion", "scoring", "scoring_streaming", "understanding", "grpo"]


@pytest.fixture(scope="module")
def runs(data_root, tmp_path_factory):
    out = tmp_path_factory.mktemp("chain")
    train("all", [*SMALL_MODEL, f"data.root={data_root}", f"out={out}", "stage.optim.max_steps=2",
                  "stage.optim.batch_size=2"], composed)  # fmt: skip
    return out


def test_every_stage_finishes_and_starts_from_the_one_before(runs):
    for stage in STAGES:
        done = json.loads((runs / "tiny" / stage / "done.json").read_text())
        assert done["steps"] == 2
        assert (runs / "tiny" / stage / "model" / "model.safetensors").is_file()
        assert not list((runs / "tiny" / stage).glob("checkpoint-*"))
    grpo = json.loads((runs / "tiny" / "grpo" / "done.json").read_text())
    assert {"reward", "parse_rate"} <= set(grpo["held_out_before"])
    assert (runs / "tiny" / "grpo" / "completions.jsonl").is_file()


def test_the_agents_model_is_trained_from_the_same_data_and_takes_its_roles(runs, data_root):
    train("agent", [*SMALL_MODEL, f"data.root={data_root}", f"out={runs}", "stage.optim.max_steps=2",
                    "stage.optim.batch_size=4"], composed)  # fmt: skip
    assert json.loads((runs / "tiny" / "agent" / "done.json").read_text())["steps"] == 2
    values = composed("eval", ["predictor=agent", "llm@predictor.llm=vqa2", "predictor.llm.max_tokens=8",
                               f"predictor.llm.folder={runs / 'tiny' / 'agent' / 'model'}"])["predictor"]  # fmt: skip
    llm = open_llm(values["llm"], runs / "llm.sqlite", "llm")
    clip = str(min((data_root / "media" / "test").glob("*.mp4")))
    part = [{"type": "file", "path": clip, "kind": "video", "content": "h"}, {"type": "text", "text": "Is it noisy?"}]
    assert len(llm.choose([{"role": "user", "content": part}], ["A", "B"]).logprobs) == 2


def test_every_benchmark_reports_with_its_counts(runs, data_root):
    values = composed("eval", ["benchmark=all", f"runs={runs}", "predictor.max_new_tokens=8", "samples=4"])
    for key, benchmark in values["benchmarks"].items():
        for place in ("root", "file", "video_root"):
            if place in benchmark:
                benchmark[place] = benchmark[place].replace("data/synthetic", str(data_root))
        assert key in values["stages"]

    def ensure(stage: str) -> None:
        raise AssertionError(f"{stage} is there: evaluating it must train nothing")

    reports = evaluate(decode(EvalRun, values, "eval"), ensure)
    assert [r.benchmark for r in reports] == list(values["benchmarks"])
    for report in reports:
        assert report.n_expected == report.n_scored + report.n_failed > 0
        assert all(m.n <= report.n_expected for m in report.metrics)
    page = (runs / "tiny" / "report.html").read_text()
    assert "data:image/" in page or "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert (runs / "tiny" / "eval" / "report.md").is_file()
