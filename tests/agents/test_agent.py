"""The agent on tools and models that say what the test tells them; every trace is replayed to the same bytes."""

import json
import math

import numpy as np
import pytest
from agent_test_parts import INFO, Spoken, http_values, one_second_a_step, told
from llm_server import Act, serving
from media import write_clip
from PIL import Image

from vqa2.agents.executor import lookup
from vqa2.agents.fusion import fuse_levels
from vqa2.agents.item import cards
from vqa2.core.prompts import closed_prompt, open_prompt

FLAGS = {"distortion_detection": True, "distortion_analysis": True, "tool_selection": True, "tool_execute": True}
PLAN = {
    "query_type": "IQA", "query_scope": [], "distortion_source": "inferred", "distortions": [],
    "reference_mode": "no-reference", "required_tools": [], "plan": FLAGS,
}  # fmt: skip
ANALYSIS = {"distortion_analysis": {"Global": [{"type": "Noise", "severity": "severe", "explanation": "grain"}]}}
CHAT = {
    "Evidence:": "[-4, -3, -0.2, -2, null]",
    "best at": {"selected_tools": {"Global": {"Noise": "noise"}}},
    "Distortions by object": ANALYSIS,
    "Scope:": {"distortion_set": {"Global": ["Noise"]}},
    "Query:": PLAN,
}
OPEN = {
    "final_answer": "Strong noise.", "quality_reasoning": "the noise tool", "sufficient": True, "missing": [],
    "claims": [{"text": "noisy", "evidence": ["tool:global:noise:noise"]}],
}  # fmt: skip


@pytest.fixture
def tools(pool_of):
    return pool_of(noise=told(20.0, strengths=["noise"]), blur=told(70.0, strengths=["spatial blur"]),
                   block=told(90.0, strengths=["block effect"]))  # fmt: skip


def test_without_any_model_the_tools_decide(clip, tools, agent_of):
    trace = agent_of(tools).ask(clip)
    assert trace.working["evidence"]["detected"] == {"global": ["blurs", "noise"]}
    severities = {
        e["distortion"]: e["severity"] for e in trace.working["evidence"]["entries"] if e["kind"] == "analysis"
    }
    assert severities == {"blurs": "slight", "noise": "severe"}
    # noise at 20 and blur at 70 on 0-100 are 1.8 and 3.8 on 1-5
    assert trace.result["tools_acr"] == pytest.approx((1.8 + 3.8) / 2)
    assert trace.result["score01"] == pytest.approx((2.8 - 1) / 4)
    assert trace.result["levels"] is None
    assert trace.spending["llm_calls"] == trace.spending["model_calls"] == 0
    assert trace.spending["experts"] == 3


def test_levels_of_our_model_are_fused_with_the_tools(clip, tools, agent_of):
    levels = (0.1, 0.2, 0.4, 0.2, 0.1)
    voice = Spoken(level=levels)
    trace = agent_of(tools, voice=voice).ask(clip)
    want = fuse_levels(2.8, levels, 1.0, "normalized")
    assert trace.result["acr"] == pytest.approx(want)
    assert trace.result["forms"]["printed"] == pytest.approx(fuse_levels(2.8, levels, 1.0, "printed"))
    assert voice.asked == ["<video>\nHow would you rate the quality of this video?"]
    assert trace.spending["model_calls"] == 1
    told_ = agent_of(tools, None, "summary.evidence_to_voice=true", voice=voice)
    told_.ask(clip)
    assert "[tool:global:noise:noise]" in voice.asked[-1]


def test_a_chat_model_plays_all_roles(clip, tools, agent_of, llm_of):
    trace = agent_of(tools, llm_of(CHAT)).ask(clip, question="What is the noise like?", want="score")
    assert [s.request["role"] for s in trace.steps if s.kind in ("chat", "options")] == [
        "planner", "detection", "analysis", "selection", "summarizer"
    ]  # fmt: skip
    assert trace.notes == ()
    weights = [math.exp(x) for x in (-4, -3, -0.2, -2)] + [0.0]
    levels = [w / sum(weights) for w in weights]
    assert trace.result["levels"] == pytest.approx(levels)
    assert trace.result["tools_acr"] == pytest.approx(1.8)
    assert trace.result["acr"] == pytest.approx(fuse_levels(1.8, levels, 1.0, "normalized"))


def test_a_tool_chosen_twice_counts_once_or_twice_as_set(clip, tools, agent_of, llm_of):
    twice = {"selected_tools": {"Global": {"Noise": "noise", "Blurs": "noise", "Compression": "block"}}}
    replies = {**CHAT, "best at": twice, "Scope:": {"distortion_set": {"Global": ["Noise", "Blurs", "Compression"]}}}
    once = agent_of(tools, llm_of(replies)).ask(clip).result["tools_acr"]
    each = agent_of(tools, llm_of(replies), "summary.repeats=each").ask(clip).result["tools_acr"]
    assert once == pytest.approx((1.8 + 4.6) / 2)
    assert each == pytest.approx((1.8 + 1.8 + 4.6) / 3)


@pytest.mark.parametrize(
    ("role", "reply", "note"),
    [
        ("Query:", '{"query_type": "IQ', "planner: rules planned"),
        ("Query:", {**PLAN, "required_tools": ["dover"]}, "planner: rules planned"),
        ("Scope:", "I cannot help with that.", "detection: by rules"),
        ("Distortions by object", {"distortion_analysis": {"Global": [{"type": "Noise"}]}}, "analysis: by rules"),
        ("best at", {"selected_tools": {"Global": {"Noise": "dover"}}}, "selection: by the lookup table"),
        ("Evidence:", "A", "summarizer: no level probabilities of the chat model"),
    ],
)
def test_each_role_falls_back_to_rules_with_a_note(role, reply, note, clip, tools, agent_of, llm_of):
    trace = agent_of(tools, llm_of({**CHAT, role: reply})).ask(clip, question="How is it?", want="score")
    assert any(line.startswith(note) for line in trace.notes), trace.notes
    assert 0 <= trace.result["score01"] <= 1


def test_a_time_out_in_every_role_leaves_the_rules(clip, tools, agent_of, llm_of, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with serving(lambda request, n: Act("late", delay_s=0.8)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        trace = agent_of(tools, llm_of(**http_values(timeout_s=0.2))).ask(clip)
    assert trace.result["tools_acr"] == pytest.approx(2.8)
    assert sum("no answer in time" in line for line in trace.notes) == 4


def test_a_crash_is_evidence_and_all_tools_failing_leaves_the_levels_or_an_error(clip, pool_of, agent_of):
    broken = pool_of(noise=told(fails="segfault", strengths=["noise"]), blur=told(fails="gone"))
    alone = agent_of(broken).ask(clip)
    assert "no score: there are no level probabilities and no tool score" in alone.result["error"]
    assert "gone" in alone.result["error"]
    assert [s.error for s in alone.steps if s.error] == ["error: RuntimeError: segfault", "error: RuntimeError: gone"]
    trace = agent_of(broken, voice=Spoken(level=(0.0, 1.0, 0.0, 0.0, 0.0))).ask(clip)
    assert trace.result["acr"] == 4.0
    assert any("gone" in e["text"] for e in trace.working["evidence"]["entries"] if e["kind"] == "failure")


def test_after_the_seconds_our_model_is_not_asked(clip, pool_of, agent_of, monkeypatch):
    """The probe is the first second, the tool the second."""
    one_second_a_step(monkeypatch)
    pool, voice = pool_of(noise=told(20.0)), Spoken(level=(0.0, 1.0, 0.0, 0.0, 0.0))
    trace = agent_of(pool, None, "budget.seconds=2", voice=voice).ask(clip)
    assert trace.notes == ("summarizer: no level probabilities of our model: budget: 2 s are used up",)
    assert (trace.result["levels"], trace.result["tools_acr"]) == (None, pytest.approx(1.8))
    assert agent_of(pool, None, "budget.seconds=3", voice=voice).ask(clip).result["levels"] == list(voice.level)


CLOSED = closed_prompt("What is the main distortion of this video?", ["flicker", "noise", "spatial blur"], "text")


def test_options_by_log_probabilities_of_either_model(clip, tools, agent_of, llm_of):
    voice = Spoken(option=(-3.0, -1.0, -2.0))
    ours = agent_of(tools, voice=voice).ask(clip, question=CLOSED, want="answer").result
    assert (ours["text"], ours["by"]) == ("noise.", "our model")
    assert ours["probabilities"][1] == pytest.approx(math.exp(-1) / sum(math.exp(-x) for x in (3, 1, 2)))
    assert voice.asked == [(CLOSED, ("flicker.", "noise.", "spatial blur."))]
    chat = agent_of(tools, llm_of({r"Options:.{1,3}A\. ": "[-3, -2, -0.1]", **CHAT})).ask(
        clip, question=CLOSED, want="answer"
    )
    assert (chat.result["text"], chat.result["by"]) == ("spatial blur.", "chat")


def test_a_letter_is_read_where_no_log_probabilities_are_given(clip, tools, agent_of, llm_of):
    letter = {**OPEN, "final_answer": "B"}
    made = agent_of(tools, llm_of({r"Options:.{1,3}A\. ": letter, **CHAT})).ask(clip, question=CLOSED, want="answer")
    assert made.result["text"] == "noise."
    assert made.result["claims"] == OPEN["claims"]
    wrong = {r"Options:.{1,3}A\. ": {**OPEN, "final_answer": "F"}, **CHAT}
    result = agent_of(tools, llm_of(wrong)).ask(clip, question=CLOSED, want="answer").result
    assert (result["text"], result["by"]) == ("noise.", "rules")


@pytest.mark.parametrize(
    ("question", "text"),
    [
        (CLOSED, "noise."),
        (closed_prompt("Is there noise in this video?", ["Yes", "No"], "letter"), "A."),
        (open_prompt("Is there compression in this video?"), "No."),
        (closed_prompt("How strong is the main distortion?", ["slight", "moderate", "strong"], "text"), "strong."),
        (closed_prompt("How is the quality?", ["high", "good", "fair", "poor", "low"], "text"), "fair."),
    ],
)
def test_rules_answer_what_the_evidence_says(question, text, clip, tools, agent_of):
    result = agent_of(tools).ask(clip, question=question, want="answer").result
    assert (result["text"], result["by"]) == (text, "rules")
    assert result["claims"]


def test_rules_never_guess(clip, tools, agent_of):
    for question in (
        closed_prompt("What animal is this?", ["dog", "cat"], "text"),
        closed_prompt("What is worst?", ["oversaturation", "desaturation"], "text"),
        open_prompt("Is the composition pleasing?"),
    ):
        assert "rules cannot answer" in agent_of(tools).ask(clip, question=question, want="answer").result["error"]


def test_text_with_claims_that_cite_evidence(clip, tools, agent_of, llm_of):
    question = open_prompt("Describe the quality of this video.")
    rules = agent_of(tools).ask(clip, question=question, want="answer")
    assert "noise: severe (noise 20/100)" in rules.result["text"]
    assert rules.result["text"].endswith("Hence, the quality is fair.")
    ids = {e["id"] for e in rules.working["evidence"]["entries"]}
    assert all(set(c["evidence"]) <= ids for c in rules.result["claims"])
    chat = agent_of(tools, llm_of({**CHAT, "Evidence:": OPEN})).ask(clip, question=question, want="answer").result
    assert (chat["text"], chat["claims"]) == ("Strong noise.", OPEN["claims"])
    invented = {**OPEN, "claims": [{"text": "noisy", "evidence": ["tool:global:dover"]}]}
    made = agent_of(tools, llm_of({**CHAT, "Evidence:": invented})).ask(clip, question=question, want="answer")
    assert made.result["by"] == "rules"
    assert "claims.0.evidence.0" in made.notes[-1]


def test_replans_turn_on_what_is_missing_and_are_bounded(clip, tools, agent_of, llm_of):
    off = {**PLAN, "plan": {**FLAGS, "tool_selection": False, "tool_execute": False}}
    more = {**OPEN, "claims": [], "sufficient": False, "missing": ["tool_selection", "tool_execute"]}
    replies = {"tool:global:noise": OPEN, **CHAT, "Evidence:": more, "Query: Describe it": off}
    llm = llm_of({**{k: replies[k] for k in ("tool:global:noise", "Evidence:", "Query: Describe it")}, **replies})
    trace = agent_of(tools, llm).ask(clip, question="Describe it.", want="answer")
    assert len(trace.working["plans"]) == 2
    assert trace.working["plans"][1]["plan"] == FLAGS
    assert trace.result["text"] == "Strong noise."
    assert "replan: tool_selection, tool_execute on" in trace.notes
    # Without a replan left the item is an error, and what ran already is not asked for again.
    none = agent_of(tools, llm, "max_replans=0").ask(clip, question="Describe it.", want="answer")
    assert "stayed insufficient after 0 replans" in none.result["error"]
    again = agent_of(tools, llm_of({**CHAT, "Evidence:": more})).ask(clip, question="What?", want="answer")
    assert "insufficient with nothing left to run" in again.notes[-1]


OFF = {**PLAN, "plan": dict.fromkeys(FLAGS, False)}


@pytest.mark.parametrize(
    ("question", "want"),
    [
        (open_prompt("How would you rate the sky?"), "score"),
        (CLOSED, "answer"),
        (open_prompt("Describe the quality of this video."), "answer"),
    ],
)
def test_a_chat_model_that_refuses_is_not_worse_than_none(question, want, clip, tools, agent_of, llm_of):
    """It ends where rules alone end; after a plan with everything off, the rules turn on what they need."""
    alone, ends = agent_of(tools).ask(clip, question=question, want=want).result, []
    for plan in ("I cannot help with that.", OFF):
        llm = llm_of({r"(?s)^Query:.*Tools:": plan, ".": "I cannot."})
        trace = agent_of(tools, llm).ask(clip, question=question, want=want)
        assert "error" not in trace.result
        assert any(note.startswith("summarizer: no ") for note in trace.notes)
        ends.append(trace)
    keys = ("text", "by", "score01")
    assert [ends[0].result.get(k) for k in keys] == [alone.get(k) for k in keys]
    assert any(note.startswith("replan: ") for note in ends[1].notes)


def test_a_letter_with_insufficient_evidence_asks_for_more_first(clip, tools, agent_of, llm_of):
    known = {**OPEN, "claims": [], "final_answer": "B"}
    more = {**known, "final_answer": "A", "sufficient": False, "missing": ["distortion_analysis"]}
    replies = {
        r"(?s)^Query:.*Tools:": {**OFF, "distortion_source": "explicit", "distortions": {"Global": ["Noise"]}},
        r"analysis:global:noise.*Options:": known,
        "Options:": more,
        **CHAT,
    }
    trace = agent_of(tools, llm_of(replies)).ask(clip, question=CLOSED, want="answer")
    assert (trace.result["text"], trace.result["by"]) == ("noise.", "chat")
    assert "replan: distortion_analysis on" in trace.notes


def test_regions_have_no_tools_but_on_crops(clip, tools, agent_of):
    question = "How would you rate the quality of the sky?"
    boxes = {"sky": (0.0, 0.0, 1.0, 0.5)}
    off = agent_of(tools).ask(clip, question=question, regions=boxes)
    assert off.notes == ("replan: tool_selection, tool_execute on",)
    made = agent_of(tools, None, "regions=crops").ask(clip, question=question, regions=boxes)
    assert made.notes == ()
    assert {json.dumps(s.request["box"]) for s in made.steps if s.kind == "tool"} == {"[0.0, 0.0, 1.0, 0.5]"}
    assert made.working["evidence"]["detected"] == {"sky": ["blurs", "noise"]}


@pytest.mark.parametrize("kind", ["image", "video"])
def test_a_tool_on_a_crop_sees_the_region_alone(kind, tmp_path, pool_of, agent_of):
    """A picture whose upper half is black: the crop of the sky is, the picture as a whole is half white."""
    frame = np.full((64, 48, 3), 255, np.uint8)
    frame[:32] = 0
    path = tmp_path / ("a.png" if kind == "image" else "a.mkv")
    if kind == "image":
        Image.fromarray(frame).save(path)
    else:
        write_clip(path, np.stack([frame] * 4), fps=8)
    pool = pool_of(gray={"name": "mean_gray", "info": {**INFO, "strengths": ["noise"]}})
    agent = agent_of(pool, None, "regions=crops")
    question = "How would you rate the quality of the sky?"
    sky = agent.ask(path, kind, question=question, regions={"sky": (0.0, 0.0, 1.0, 0.5)})
    assert sky.result["score01"] == pytest.approx(0.0, abs=0.01)
    ground = agent.ask(path, kind, question=question, regions={"sky": (0.0, 0.5, 1.0, 1.0)})
    assert ground.result["score01"] == pytest.approx(1.0, abs=0.01)
    assert agent.ask(path, kind).result["score01"] == pytest.approx(0.5, abs=0.02)


def test_images_too_and_a_picture_where_a_video_is_expected_is_an_error(still, clip, pool_of, agent_of):
    pool = pool_of(noise=told(20.0, strengths=["noise"]), flicker=told(5.0, strengths=["flicker"], kinds=["video"]))
    assert agent_of(pool).ask(still, "image").result["tools_acr"] == pytest.approx(1.8)
    assert "a still picture where a video is expected" in agent_of(pool).ask(still, "video").result["error"]


def test_the_lookup_table(clip, pool_of, agent_of):
    pool = pool_of(cheap=told(cost_s=0.1), noise=told(strengths=["noise"]), dear=told(strengths=["noise"], cost_s=9.0))
    made = agent_of(pool)
    known = cards(pool, type("A", (), {"path": clip, "kind": "video", "id": "x", "reference": None, "prompt": None})())
    assert lookup(known, "noise") == "noise"
    assert lookup(known, "contrast") == lookup(known, None) == "cheap"
    assert made.program == "agent"
