"""Predictors without training (random, one quality tool), and the reasoning mode around any writer."""

from dataclasses import replace

import pytest
from PIL import Image, ImageFilter
from skimage import data

from vqa2.bench._parse import letter, option
from vqa2.core.config import build
from vqa2.core.prompts import REASON_QUESTION, closed_prompt
from vqa2.core.records import Answer, Query
from vqa2.core.scale import acr_to_score01
from vqa2.launch import composed
from vqa2.predictors.expert import place
from vqa2.predictors.reasoning import ReasoningPredictor, reasoned
from vqa2.rewards.regression import Regression


def predictor(name, *overrides):
    values = composed("eval", [f"predictor={name}", *(f"predictor.{o}" for o in overrides)])["predictor"]
    return build("predictor", values, "predictor")


def queries(tmp_path, count, question=None):
    (tmp_path / "a.mp4").write_bytes(b"x")
    return [Query(id=f"q{n}", path=tmp_path / "a.mp4", kind="video", question=question) for n in range(count)]


def test_random_depends_on_seed_and_item_alone(tmp_path):
    asked = queries(tmp_path, 20)
    made = predictor("random").open()
    whole = made.score(asked)
    assert made.score(asked[::-1])[::-1] == whole
    assert [made.score([q])[0] for q in asked] == whole
    assert len({a.score01 for a in whole}) == 20
    other = predictor("random", "seed=1").open()
    assert other.score(asked) != whole
    assert other.fingerprint != made.fingerprint
    gone = replace(asked[0], path=tmp_path / "gone.mp4")
    assert made.score([gone])[0].error == made.answer([gone])[0].error == "no such file"


@pytest.mark.parametrize("reply", ["letter", "text"])
def test_random_replies_are_readable_and_uniform_over_the_options(tmp_path, reply):
    answers = ("Good.", "Fair: soft", "Poor", "Bad")
    texts = [a.text for a in predictor("random", f"reply={reply}").open().answer(
        queries(tmp_path, 400, closed_prompt("How good?", answers, reply)))]  # fmt: skip
    said = [letter(t, 4) if reply == "letter" else option(t, answers) for t in texts]
    counts = [said.count(s) for s in ("ABCD" if reply == "letter" else answers)]
    assert sum(counts) == 400
    assert min(counts) > 70, "100 each; a binomial count is below 70 once in two thousand"


def test_random_open_replies_come_from_the_list(tmp_path):
    made = predictor("random", "replies=[x, y]").open()
    assert {a.text for a in made.answer(queries(tmp_path, 30, "<video>\nWhy?"))} == {"x", "y"}


class Writer:
    """Writes what it is told."""

    def __init__(self, texts):
        self.name, self.texts, self.asked = "writer", texts, []

    def answer(self, asked):
        self.asked += asked
        return [self.texts[q.id] for q in asked]


def test_reasoning_reads_what_the_rewards_read(tmp_path):
    texts = ["<think>sharp</think><answer>4.2</answer>", "<think>x</think><answer>four</answer>", "4.2",
             "<think>a</think><answer>5.5</answer>"]  # fmt: skip
    rewards = Regression(weight=1.0, sigma=0.5)(texts, target=[4.2] * 4)
    made = [reasoned(Answer(id=str(n), text=t)) for n, t in enumerate(texts)]
    assert [a.score01 is not None for a in made] == [r > 0 for r in rewards] == [True, False, False, False]
    assert made[0].score01 == acr_to_score01(4.2)
    assert made[0].text == texts[0]
    assert made[1].error == "unreadable rating: '<think>x</think><answer>four</answer>'"


def test_reasoning_asks_once_in_order_and_passes_failures_and_questions(tmp_path):
    asked = queries(tmp_path, 4)
    stalls = replace(asked[1], question="<video>\nIt stalls twice. How good is it?")
    inner = Writer({"q0": Answer(id="q0", text="<think></think><answer>1</answer>"),
                    "q2": Answer(id="q2", error="empty file"), "q3": Answer(id="q3", text="no")})  # fmt: skip
    made = ReasoningPredictor(inner, "f", {}).score([asked[0], stalls, *asked[2:]])
    assert [(a.id, a.score01) for a in made] == [("q0", 0.0), ("q1", None), ("q2", None), ("q3", None)]
    assert [a.error for a in made[1:]] == [
        "the reasoning prompt cannot tell stalls", "empty file", "unreadable rating: 'no'"]  # fmt: skip
    assert {q.question for q in inner.asked} == {REASON_QUESTION}
    assert len(inner.asked) == 3
    inner.texts["q1"] = Answer(id="q1", text="twice")
    assert ReasoningPredictor(inner, "f", {}).answer([stalls])[0].text == "twice"


def tool(name):
    values = composed("eval", ["predictor=expert", f"expert@predictor.expert={name}"])["predictor"]
    return build("predictor", values, "predictor").open()


@pytest.mark.parametrize("name", ["blur", "block", "spatial_information"])
def test_a_tool_scores_fall_with_what_it_measures(name, tmp_path):
    image = Image.fromarray(data.astronaut())
    asked = []
    for k in range(4):
        image.filter(ImageFilter.GaussianBlur(k)).save(tmp_path / f"{k}.png")
        if name == "block":
            image.save(tmp_path / f"{k}.jpg", quality=100 - 30 * k)
        path = tmp_path / f"{k}.{'jpg' if name == 'block' else 'png'}"
        asked.append(Query(id=f"{k}", path=path, kind="image"))
    scores = [a.score01 for a in tool(name).score(asked)]
    assert scores == sorted(set(scores), reverse=True)
    assert len(scores) == 4


def test_the_place_in_the_range_keeps_the_order_outside_it():
    info = tool("block")._info
    lo, hi = info.raw_range
    width = hi - lo
    found = [place(lo + share * width, info) for share in (-0.1, 0.0, 0.5, 1.0, 1.2)]
    assert found == sorted(set(found), reverse=True)
    assert found[1:4] == pytest.approx([0.9975, 0.5, 0.0025], abs=1e-4)


def test_a_tool_fails_where_it_measures_nothing(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    Image.new("RGB", (64, 64)).save(tmp_path / "flat.png")
    flat, bad = tool("blur").score([Query(id="flat", path=tmp_path / "flat.png", kind="image"),
                                    Query(id="bad", path=tmp_path / "bad.mp4", kind="video")])  # fmt: skip
    assert flat.error.endswith("blurdetect gives no lavfi.blur for this media")
    assert "not a video" in bad.error
    assert "cannot answer questions" in tool("blur").answer([Query(id="x", path=tmp_path, kind="video")])[0].error
    assert tool("blur").fingerprint != tool("block").fingerprint


def test_a_full_reference_tool_needs_the_original_of_the_query(tmp_path):
    Image.fromarray(data.astronaut()).save(tmp_path / "a.png")
    Image.fromarray(data.astronaut()).filter(ImageFilter.GaussianBlur(3)).save(tmp_path / "b.png")
    query = Query(id="b", path=tmp_path / "b.png", kind="image")
    told = replace(query, second=tmp_path / "a.png", pristine=True)
    pair = replace(told, pristine=False)
    without, with_it, other = tool("psnr").score([query, told, pair])
    assert (without.error, other.error) == ("needs a reference", "needs a reference")
    assert 0 < with_it.score01 < 1
