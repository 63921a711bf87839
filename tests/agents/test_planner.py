"""The truth table, the rule planner and the dispatcher, on sentences."""

import pytest

from vqa2.agents._spec import AgentSpec
from vqa2.agents._tasks import dispatch, reply_of
from vqa2.agents.planner import by_rules, flags, named_distortions
from vqa2.core.config import decode
from vqa2.core.prompts import REASON_QUESTION, SCORE_QUESTION, closed_prompt, open_prompt
from vqa2.launch import composed


@pytest.fixture(scope="module")
def made():
    return decode(AgentSpec, composed("eval", ["predictor=agent"])["predictor"]["agent"], "agent")


@pytest.mark.parametrize(
    ("region", "tool", "selection", "execute"),
    [(True, True, False, True), (True, False, False, False), (False, True, False, True), (False, False, True, True)],
)
def test_the_truth_table(region, tool, selection, execute):
    got = flags(iqa=True, explicit=False, region=region, tool=tool)
    assert (got.tool_selection, got.tool_execute) == (selection, execute)
    assert (got.distortion_detection, got.distortion_analysis) == (True, True)
    assert not flags(iqa=True, explicit=True, region=region, tool=tool).distortion_detection
    assert not any(flags(iqa=False, explicit=False, region=region, tool=tool).model_dump().values())


def plan_of(made, question):
    return by_rules(question, made, ["niqe", "ms_ssim"], reference=False, regions=(*made.region_words, "dog"))


def test_rules_read_regions_tools_distortions_and_aesthetics(made):
    plain = plan_of(made, "How is the quality of this video?")
    assert (plain.query_scope, plain.distortions, plain.distortion_source) == ([], [], "inferred")
    named = plan_of(made, "Is there noise or out of focus blur in the sky?")
    assert named.query_scope == ["sky"]
    assert [(f.object, f.distortions) for f in named.distortions] == [("sky", ["blurs", "noise"])]
    assert named.distortion_source == "explicit"
    assert plan_of(made, "Is the dog sharp?").query_scope == ["dog"]
    assert plan_of(made, "What does MS-SSIM say?").required_tools == []
    assert plan_of(made, "What does ms_ssim say?").required_tools == ["ms_ssim"]
    other = plan_of(made, "Is the composition pleasing, apart from noise?")
    assert (other.query_type, other.distortions) == ("Other", [])


def test_a_longer_name_hides_the_shorter_one_inside():
    assert named_distortions("low contrast and motion blur") == ["blurs", "contrast"]
    assert named_distortions("the noisemaker") == []


@pytest.mark.parametrize(
    ("question", "want", "kind", "options", "reply"),
    [
        (None, "auto", "score", (), "text"),
        (SCORE_QUESTION, "answer", "score", (), "text"),
        ("<video>\nThis video stalls twice. How would you rate it?", "score", "score", (), "text"),
        (closed_prompt("What is it?", ["noise", "blur"], "text"), "answer", "choice", ("noise", "blur"), "text"),
        (closed_prompt("Is it noisy?", ["No", "Yes"], "letter"), "answer", "yes-no", ("No", "Yes"), "letter"),
        (open_prompt("Is there noise in this video?"), "answer", "yes-no", ("Yes", "No"), "text"),
        ("What degrades it?\n(A) noise\n(B) blur", "auto", "choice", ("noise", "blur"), "letter"),
        ("A. single line that is no list", "auto", "open", (), "text"),
        (REASON_QUESTION, "auto", "score", (), "text"),
        (REASON_QUESTION, "answer", "open", (), "text"),
        (open_prompt("Describe the quality of this video."), "answer", "open", (), "text"),
    ],
)
def test_the_dispatcher(question, want, kind, options, reply):
    task = dispatch(question, want)
    assert (task.kind, task.options, task.reply) == (kind, options, reply)
    assert "<video>" not in task.question
    if options:
        assert reply_of(task, 1) == ("B." if reply == "letter" else f"{options[1]}.")
