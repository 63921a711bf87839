"""What goes wrong on the way of a router: chat models, experts, files, budgets; every trace replays (`Made.ask`)."""

import json

import pytest
from agent_test_parts import Finding, Trusting, http_values, one_second_a_step, routing, told
from llm_server import Act, serving
from media import numbered, write_clip

from vqa2.core.llm import LlmUnavailable

BAD = {
    "broken JSON": ('{"content_type": "ugc", "exp', "Invalid JSON"),
    "unknown expert": (routing(experts=["a", "dover"]), "Input should be 'a' or 'b'"),
    "weights that do not sum": (
        routing(weights=[{"expert": "a", "weight": 0.5}, {"expert": "b", "weight": 0.2}]),
        "the weights must sum to 1, they sum to 0.7",
    ),
    "a weight too few": (routing(weights=[{"expert": "a", "weight": 1.0}]), "one weight for each chosen expert"),
    "unknown distortion": (routing(suspected=["ugliness"]), "suspected.0: Input should be"),
    "refusal": ("I am sorry, but I cannot rate this video.", "Invalid JSON"),
    "words around it": (f"Sure! {json.dumps(routing())}", "Invalid JSON"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_invalid_decision_falls_back_to_rules_and_priors_with_a_note(name, clip, pool_of, router_of, llm_of):
    reply, reason = BAD[name]
    pool = pool_of(a=told(40.0), b=told(50.0))
    trace = router_of(pool, llm_of({".": reply})).ask(clip)
    assert trace.result["score100"] == pytest.approx(45.0)
    assert trace.working["decision"]["by"] == "rules"
    assert trace.notes[0].startswith("router: rules and priors decided")
    assert reason in trace.notes[0]
    (chat,) = [s for s in trace.steps if s.kind == "chat"]
    assert chat.reply["rejected"][0][0] == (reply if isinstance(reply, str) else json.dumps(reply))


def test_a_refused_reply_is_repaired_and_both_tries_are_counted(clip, pool_of, router_of, llm_of, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    pool = pool_of(a=told(40.0), b=told(50.0))
    texts = [json.dumps(routing(experts=["dover"])), json.dumps(routing(experts=["b"]))]
    with serving(lambda request, n: Act(texts[len(request["messages"]) // 2 - 1])) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        llm = llm_of(**http_values(timeout_s=5.0, price_prompt=1.0, price_completion=2.0))
        trace = router_of(pool, llm).ask(clip)
        assert server.requests[0]["messages"][1]["content"][0]["image_url"]["url"].startswith("data:image/jpeg")
    assert (trace.result["experts"], trace.notes) == (["b"], ())
    assert trace.spending["llm_calls"] == 2
    assert trace.spending["prompt_tokens"] == 20
    assert trace.spending["cost"] == pytest.approx((20 + 2 * 10) / 1e6)


def test_a_time_out_falls_back_and_a_wrong_key_stops(clip, pool_of, router_of, llm_of, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    pool = pool_of(a=told(40.0))
    with serving(lambda request, n: Act("late", delay_s=1.0)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        trace = router_of(pool, llm_of(**http_values())).ask(clip)
        assert trace.result["score100"] == pytest.approx(40.0)
        assert "no answer in time" in trace.notes[0]
    with serving(lambda request, n: Act(status=401, body="{}")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        with pytest.raises(LlmUnavailable):
            router_of(pool, llm_of(**http_values(max_tokens=7))).ask(clip)


def test_a_crash_is_evidence_and_all_failing_is_an_error(clip, pool_of, router_of):
    trace = router_of(pool_of(a=told(40.0), b=told(fails="segfault"))).ask(clip)
    assert trace.result["experts"] == ["a"]
    assert trace.notes == ("b: error: RuntimeError: segfault",)
    (failed,) = [s for s in trace.steps if s.error]
    assert failed.request["expert"] == "b"
    none = router_of(pool_of(a=told(fails="x"), b=told(fails="y"))).ask(clip).result
    assert none == {"error": "no expert gave a score (a: error: RuntimeError: x; b: error: RuntimeError: y)"}


def test_an_error_names_three_reasons_and_counts_the_others(clip, pool_of, router_of):
    pool = pool_of(**{name: told(fails="boom") for name in "abcde"})
    error = router_of(pool).ask(clip).result["error"]
    assert error.count("boom") == 3
    assert error.endswith("; and 2 more)")


def test_a_reference_is_read_compared_in_size_and_never_unused_in_silence(clip, tmp_path, pool_of, router_of):
    router = router_of(pool_of(a=told(40.0)))
    assert "none.mkv: no such file" in router.ask(clip, reference=tmp_path / "none.mkv").result["error"]
    write_clip(tmp_path / "large.mkv", numbered(8, height=48, width=64), fps=8)
    wrong = router.ask(clip, reference=tmp_path / "large.mkv").result["error"]
    assert wrong == "the reference is 64x48, the video 32x24; they must have one size"
    write_clip(tmp_path / "same.mkv", numbered(8), fps=8)
    unused = router.ask(clip, reference=tmp_path / "same.mkv")
    assert unused.result["score100"] == pytest.approx(40.0)
    assert unused.notes == ("no expert uses the reference: none that needs one is calibrated (docs/experts.md)",)
    both = router_of(pool_of(a=told(40.0), fr=told(50.0, reference=True))).ask(clip, reference=tmp_path / "same.mkv")
    assert (both.result["experts"], both.notes) == (["a", "fr"], ())


def test_many_experts_beyond_the_budget_share_a_note(clip, pool_of, router_of):
    pool = pool_of(**{name: told(40.0) for name in "abcdef"})
    one = router_of(pool, None, "budget.experts=1").ask(clip)
    assert one.result["experts"] == ["a"]
    assert one.notes == ("budget: 5 experts did not run: b, c, d, e, f",)


def test_uncalibrated_and_inapplicable_experts_are_never_fused(clip, still, pool_of, router_of):
    pool = pool_of(uncalibrated=["b"], a=told(40.0), b=told(90.0), fr=told(90.0, reference=True))
    trace = router_of(pool).ask(clip)
    assert trace.result["experts"] == ["a"]
    assert "no calibration" in trace.config["cards"]["b"]["why_not"]
    temporal = router_of(pool_of(flicker=told(30.0, kinds=["video"])))
    assert "flicker: takes video, not image" in temporal.ask(still, "image").result["error"]


def test_a_picture_where_a_video_is_expected_and_broken_files_are_errors(clip, still, tmp_path, pool_of, router_of):
    router = router_of(pool_of(a=told(40.0)))
    assert "a still picture where a video is expected" in router.ask(still, "video").result["error"]
    assert "not a readable image" in router.ask(clip, "image").result["error"]
    (tmp_path / "bad.mp4").write_bytes(b"nothing" * 50)
    assert "not a readable video" in router.ask(tmp_path / "bad.mp4").result["error"]
    assert "no such file" in router.ask(tmp_path / "none.mp4").result["error"]
    assert router.ask(still, "image").result["score100"] == pytest.approx(40.0)


def test_the_budget_bounds_experts_seconds_and_calls(clip, pool_of, router_of, llm_of):
    pool = pool_of(a=told(40.0, cost_s=1.0), b=told(50.0, cost_s=2.0), c=told(60.0, cost_s=1e6))
    two = router_of(pool, None, "budget.experts=2").ask(clip)
    assert two.result["experts"] == ["a", "b"]
    assert "c: budget: 2 experts have run" in two.notes
    timed = router_of(pool, None, "budget.seconds=20.0").ask(clip)
    assert timed.result["experts"] == ["a", "b"]
    assert any(note.startswith("c: budget: needs about") for note in timed.notes)
    asked = router_of(pool, llm_of({".": routing()}), "budget.llm_calls=0").ask(clip)
    assert asked.spending["llm_calls"] == 0
    assert "budget: a reply may take 1 tries, 0 are left" in asked.notes[0]


def test_after_the_seconds_neither_gate_nor_localization_begins(clip, pool_of, router_of, monkeypatch):
    """The probe is the first second, the expert the second."""
    one_second_a_step(monkeypatch)
    pool, gate, localizer = pool_of(a=told(40.0)), Trusting({"a": 1.0}), Finding({"types": [], "findings": []})
    late = router_of(pool, None, "budget.seconds=1", gate=gate).ask(clip)
    assert late.notes[0] == "router: the learned gate gave no decision: budget: 1 s are used up"
    assert [s.kind for s in late.steps] == ["probe"]
    tier2 = router_of(pool, None, "tier=2", "budget.seconds=2", localizer=localizer).ask(clip)
    assert tier2.notes == ("tier 2: localization failed: budget: 2 s are used up",)
    assert tier2.result["score100"] == pytest.approx(40.0)
    in_time = router_of(pool, None, "tier=2", "budget.seconds=3", gate=gate, localizer=localizer).ask(clip)
    assert in_time.notes == ("tier 2: localization failed: budget: 3 s are used up",)
    assert in_time.working["decision"]["by"] == "gate"
