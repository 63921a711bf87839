"""The exported lmms-eval tasks: the questions, and the numbers of our own report from the same replies."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from vqa2.bench._runner import read_report, run
from vqa2.core.config import build
from vqa2.core.errors import ConfigError
from vqa2.core.prompts import SCORE_QUESTION
from vqa2.launch import composed
from vqa2.lmms import export, main
from vqa2.predictors.constant import ConstantPredictor


class Loader(yaml.SafeLoader):
    """YAML as lmms-eval reads it: `!function module.name`."""


Loader.add_constructor("!function", lambda loader, node: node.value)
SCORES = {"c0": 0.2, "c1": 0.1, "c2": 0.5, "c3": 0.6}


def functions(folder, task):
    """The task's YAML and the functions it names."""
    config = yaml.load((folder / f"{task}.yaml").read_text(), Loader)
    spec = importlib.util.spec_from_file_location(f"{task}_utils", folder / f"{task}_utils.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def of(name):
        where, _, function = name.partition(".")
        assert where == f"{task}_utils"
        return getattr(module, function)

    return config, of


def ask(folder, task, reply):
    """What lmms-eval does: every question, every reply processed, every metric summed."""
    config, of = functions(folder, task)
    lines = Path(config["dataset_kwargs"]["data_files"]["test"]).read_text(encoding="utf-8").splitlines()
    docs = [json.loads(line) for line in lines]
    asked = [of(config["doc_to_text"])(doc, config["lmms_eval_specific_kwargs"]["default"]) for doc in docs]
    processed = [of(config["process_results"])(doc, [reply(doc)]) for doc in docs]
    values = {m["metric"]: of(m["aggregation"])([p[m["metric"]] for p in processed]) for m in config["metric_list"]}
    return docs, asked, values


@pytest.fixture
def ratings(write_set, make_row):
    stalled = "<video>\nThe video stalls once."
    rows = [make_row(n, stalled if n == 3 else SCORE_QUESTION, mos=m) for n, m in enumerate([12.0, 30.0, 45.0, 61.0])]
    fixed = {"where": {}, "without": [], "groups": [], "published_n": None, "sources": [], "batch_size": 2,
             "bootstrap": 10, "seed": 0}  # fmt: skip
    root = str(write_set("s.jsonl", rows))
    return {"name": "scoring", "label": "s", "root": root, "file": "s.jsonl", "prepare": None, **fixed}


def test_ratings_give_the_numbers_of_our_own_report(ratings, scripted, quiet, tmp_path):
    assert export(ratings, tmp_path / "lmms", "my-set", 16) == "vqa2_my_set"
    docs, asked, values = ask(tmp_path / "lmms", "vqa2_my_set", lambda doc: f"{100 * SCORES[doc['id']]:g}.")
    ours = run(build("benchmark", ratings, "b"), scripted(SCORES), tmp_path / "o", quiet)
    expected = {m.name: math.nan if m.value is None else m.value for m in ours.metrics}
    assert values == pytest.approx(expected, nan_ok=True)
    assert docs[0]["media"] == [str(tmp_path / "data" / "media" / "test" / "c0.mp4")]
    assert asked[0] == "Rate the quality of this video from 0 (worst) to 100 (best). Answer with the number only."
    assert asked[3].startswith("The video stalls once. Rate the quality")


@pytest.mark.parametrize("reply", ["good", "101", "1e2", "-5", "50 of 100", ""])
def test_a_rating_that_is_no_number_is_a_failure(ratings, tmp_path, reply):
    export(ratings, tmp_path, "s", 16)
    _, _, values = ask(tmp_path, "vqa2_s", lambda doc: reply if doc["id"] == "c0" else f"{100 * SCORES[doc['id']]:g}")
    report = read_report(tmp_path / "vqa2_s.report.json")
    assert (report.n_scored, report.n_expected) == (3, 4)
    assert report.failures[0] == ("c0", f"no number on 0-100: {reply!r}")
    assert values["SRCC"] == 1.0


def test_questions_name_the_frames_and_closed_ones_are_graded(tmp_path, write_json):
    record = {"video_name": "a.mp4", "question": "Blur?", "question_type": "yes-or-no", "answers": ["No", "Yes"],
              "correct_choice": "B", "video_type": "natural", "context": "Global"}  # fmt: skip
    pair = {**record, "video_name": "a.mp4_cat_b.mp4.mp4", "context": "Joint"}
    judge = {"llms": {"first": {"name": "rules"}}, "rounds": 5, "budget": None, "give_up_after": 5, "cache": "x",
             "published": "gpt-4o"}  # fmt: skip
    file = str(write_json([record, pair]))
    values = {"name": "qbench_video", "label": "q", "prepare": None, "file": file,
              "video_root": str(tmp_path), "concerns": None, "pairs": "include",
              "prompt": "official", "reply": "letter", "judge": judge, "vocabulary": None,
              "reference_keys": ["answer"], "published_n": None, "batch_size": 2, "bootstrap": 10,
              "seed": 0}  # fmt: skip
    export(values, tmp_path / "lmms", "q", 16)
    docs, asked, found = ask(tmp_path / "lmms", "vqa2_q", lambda doc: "B." if "_cat_" in doc["id"] else "A")
    assert asked[0].startswith("You will receive 16 distinct frames that have been uniformly sampled from a video")
    assert "The first 8 frames" in asked[1]
    assert not any("<" in text for text in asked)
    assert [len(doc["media"]) for doc in docs] == [1, 2]
    assert found["Overall"] == found["Overall (closed)"] == 0.5
    assert math.isnan(found["open"])


@pytest.mark.slow
def test_lmms_eval_itself_gives_the_numbers_of_our_own_report(data_root, quiet, tmp_path):
    """Its own command line with its own `dummy` model, which says one thing to all: as our predictor `constant`."""
    if importlib.util.find_spec("lmms_eval") is None:
        pytest.skip("lmms-eval is not installed (docs/evaluation.md)")
    roots = {
        "synthetic": [f"root={data_root}"],
        "qbench-video": [f"file={data_root}/benchmark/qbench_video.json", f"video_root={data_root}/media/test"],
    }
    for key in roots:
        overrides = [f"benchmark={key}", *(f"benchmarks.{key}.{setting}" for setting in roots[key])]
        values = composed("eval", overrides)["benchmarks"][key]
        items = build("benchmark", values, key).items()
        # A reference up to its comma, which would end the setting of the harness's model; still names the distortion.
        said = (i.target["reference"].partition(",")[0] for i in items if i.target.get("kind") == "open_ended")
        reply = next(said, "62")
        task = export(values, tmp_path / "tasks", key, 16)
        _lmms_eval(task, tmp_path, reply)
        constant = ConstantPredictor(0.62, reply)
        ours = run(build("benchmark", values, key), constant, tmp_path / key, quiet)
        theirs = read_report(tmp_path / "tasks" / f"{task}.report.json")
        assert (theirs.metrics, theirs.n_scored, theirs.failures) == (ours.metrics, ours.n_scored, ours.failures)
        (path,) = (tmp_path / task).rglob("*_results.json")
        found = json.loads(path.read_text())["results"][task]
        expected = {m.name.split(" (rule")[0]: m.value for m in ours.metrics if m.value is not None}
        assert {name: found[f"{name},none"] for name in expected} == pytest.approx(expected)
        assert expected["RMSE raw" if key == "synthetic" else "open"] > 0


def _lmms_eval(task, folder, reply):
    words = ["--include_path", folder / "tasks", "--tasks", task, "--model", "dummy", "--model_args",
             f"response={reply},read_bytes=64", "--output_path", folder / task]  # fmt: skip
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    subprocess.run([sys.executable, "-m", "lmms_eval", *map(str, words)], check=True, cwd=Path(__file__).parents[2],
                   env={**os.environ, **offline})  # fmt: skip


def test_a_clip_is_a_path_and_an_image_is_opened(ratings, tmp_path):
    picture = Path(ratings["root"]) / "media" / "test" / "c0.mp4"
    picture.parent.mkdir(parents=True)
    Image.new("L", (4, 3)).save(picture, "PNG")
    export(ratings, tmp_path, "s", 16)
    config, of = functions(tmp_path, "vqa2_s")
    doc = json.loads((tmp_path / "vqa2_s.jsonl").read_text().splitlines()[0])
    (clip, text) = of(config["doc_to_messages"])(doc, {"frames": 16})[0]["content"]
    assert clip == {"type": "video", "url": str(picture)}
    assert text == {"type": "text", "text": of(config["doc_to_text"])(doc, {"frames": 16})}
    doc["kind"] = "image"
    (image,) = of(config["doc_to_visual"])(doc)
    assert (image.size, image.mode) == ((4, 3), "RGB")
    assert of(config["doc_to_messages"])(doc)[0]["content"][0]["type"] == "image"


def test_our_own_wording_is_not_for_others():
    with pytest.raises(ConfigError, match="use official for other models"):
        main(["benchmark=qbench-video-dev"])
