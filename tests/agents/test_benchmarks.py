"""Router and agent as predictors of every form of benchmark; what a benchmark knows of an item reaches them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from agent_test_parts import Spoken, told
from labels_form import FORMS
from PIL import Image

from data_prep._write import row
from vqa2.agents.run import check
from vqa2.agents.trace import read_trace
from vqa2.bench._answers import item_key
from vqa2.bench._runner import run
from vqa2.core.config import build
from vqa2.core.prompts import SCORE_QUESTION
from vqa2.core.records import Instruction, Query, Turn, write_jsonl
from vqa2.launch import composed
from vqa2.predictors._programs import ProgramPredictor


class Willing(Spoken):
    """A model of ours that prefers the first option."""

    def options(self, path, kind, question, replies):
        return [-float(i) for i in range(len(replies))]


@pytest.fixture
def predictor_of(pool_of, router_of, agent_of, tmp_path):
    def make(program: str) -> ProgramPredictor:
        special = {"vsi": told(80.0, reference=True), "t2v": told(40.0, prompt=True)}
        pool = pool_of(noise=told(20.0, strengths=["noise"]), **special)
        made = {"router": router_of, "agent": agent_of}[program](pool)
        voice = Willing(option=(0.0,), words="Some noise.")
        return ProgramPredictor(program, made.spec, replace(made.means, voice=voice), tmp_path / "traces")

    return make


def scoring(root: Path, values: dict, clip: Path) -> dict:
    """Three rated clips, one of them generated from a text."""
    rows = [
        Instruction(id=f"c{n}", clip_id=f"c{n}", kind="video", media=clip.name, task="scoring", mos=30.0 * n,
                    turns=(Turn(user=SCORE_QUESTION, assistant=""),),
                    tags={"distortion": "none", "mos_rule": "mos", "split": "test", **tags})
        for n, tags in enumerate(({}, {}, {"prompt": "a cat"}))
    ]  # fmt: skip
    write_jsonl(root / values["file"], rows)
    return {**values, "root": str(root)}


def qbench_video(root: Path, values: dict, clip: Path) -> dict:
    """A question of each type."""
    base = {"video_type": "natural", "context": "Global", "quality_concern": ["Technical"], "video_name": clip.name}
    rows = [
        {**base, "question": "Is there noise?", "question_type": "yes-or-no", "answers": ["Yes", "No"],
         "correct_choice": "A"},
        {**base, "question": "What is worst?", "question_type": "what/how", "answers": ["noise", "flicker"],
         "correct_choice": "A"},
        {**base, "question": "How is it?", "question_type": "open_ended", "correct_ans": "Slight noise."},
    ]  # fmt: skip
    (root / "q.json").write_text(json.dumps(rows))
    return {**values, "file": str(root / "q.json"), "video_root": str(root)}


def agenticiqa_eval(root: Path, values: dict, clip: Path) -> dict:
    """A question of two tracks, one with a reference."""
    for name in ("a.png", "r.png"):
        Image.fromarray(np.full((24, 32, 3), 90, np.uint8)).save(root / name)
    rows = [
        {"track": "executor-distortion", "image": "a.png", "reference": "r.png", "question": "How severe is the noise?",
         "answers": ["Slight", "Severe"], "correct_choice": "A"},
        {"track": "summarizer", "image": "a.png", "question": "Why is it bad?", "answers": ["Noise", "Blur"],
         "correct_choice": "A"},
    ]  # fmt: skip
    (root / "q.json").write_text(json.dumps(rows))
    return {**values, "file": str(root / "q.json"), "media_root": str(root)}


@pytest.mark.parametrize("program", ["router", "agent"])
@pytest.mark.parametrize(
    ("name", "make"),
    [("synthetic", scoring), ("qbench-video", qbench_video), ("agenticiqa-eval", agenticiqa_eval)],
)
def test_every_form_of_benchmark_takes_the_router_and_the_agent(name, make, program, clip, predictor_of, tmp_path):
    values = composed("eval", [f"benchmark={name}"])["benchmarks"][name]
    benchmark = build("benchmark", make(tmp_path, values, clip), "benchmark")
    report = run(benchmark, predictor_of(program), tmp_path / "eval", lambda done, total: None)
    assert (report.failures, report.n_scored) == ((), report.n_expected)
    assert report.n_expected == len(benchmark.items())
    traces = [read_trace(path) for path in (tmp_path / "traces").glob("*.json")]
    assert len(traces) == report.n_expected
    for trace in traces:
        check(trace)
    # What the benchmark knows of an item is told: an expert that needs it can be used.
    key, expert = {"synthetic": ("prompt", "t2v"), "agenticiqa-eval": ("reference", "vsi")}.get(name, (None, None))
    if key is not None:
        able = [not t.config["cards"][expert]["why_not"] for t in traces]
        assert able == [t.query[key] is not None for t in traces]
        assert any(able)


def test_a_question_about_two_clips_is_an_error(clip, predictor_of):
    pair = Query(id="p", path=clip, kind="video", question="Which is better?", second=clip)
    for program in ("router", "agent"):
        assert "takes one clip" in predictor_of(program).answer([pair])[0].error


def test_the_prompt_of_a_generated_clip_travels_from_the_label_file_to_the_row(tmp_path):
    for name, text in FORMS["t2vqa_db"].items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    source = build("source", composed("data_prep", ["source=t2vqa_db"])["source"], "source")
    split, found = next(iter(source.rows(tmp_path)))
    made = row(source.clip(split, found, 0.0, 100.0, tmp_path), "scoring", "", SCORE_QUESTION, "")
    assert made.tags["prompt"] == 'a cat, "red"'


def test_another_prompt_is_another_item(clip, tmp_path):
    values = composed("eval", ["benchmark=synthetic"])["benchmarks"]["synthetic"]
    items = build("benchmark", scoring(tmp_path, values, clip), "benchmark").items()
    assert [i.query.prompt for i in items] == [None, None, "a cat"]
    other = replace(items[2], query=replace(items[2].query, prompt="a dog"))
    assert len({item_key(i) for i in (items[1], items[2], other)}) == 3
