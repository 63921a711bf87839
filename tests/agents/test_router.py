"""The router on experts that say what the test tells them; every trace is replayed to the same bytes (`Made.ask`)."""

import json

import pytest
from agent_test_parts import Finding, Trusting, routing, told
from media import numbered, write_clip

from vqa2.agents._decide import contract
from vqa2.agents.run import check, replay
from vqa2.core.errors import DataError
from vqa2.core.llm import parse
from vqa2.core.prompts import closed_prompt
from vqa2.experts import calibration
from vqa2.launch import composed


def test_equal_experts_by_hand(clip, pool_of, router_of):
    """Two experts at 40 and 50: no suspects, the same agreement, so the plain mean; the terms are in the trace."""
    trace = router_of(pool_of(a=told(40.0), b=told(50.0))).ask(clip)
    assert trace.result["score100"] == pytest.approx(45.0)
    assert trace.result["rounded"] == 45
    terms = trace.working["terms"]["a"]
    assert terms["agreement"] == pytest.approx(0.5)
    assert terms["confidence"] == pytest.approx(1.0)
    assert terms["adjusted"] == pytest.approx(1 + 0.3 * 0.5 + 0.2)
    assert (trace.spending["experts"], trace.spending["llm_calls"]) == (2, 0)
    assert trace.working["facts"]["width"] == 32


def test_a_specialist_that_sees_worse_gains_weight_and_far_scores_take_the_median(clip, pool_of, router_of):
    pool = pool_of(a=told(60.0), b=told(62.0), noise=told(45.0, strengths=["noise"]))
    near = router_of(pool).ask(clip)
    assert near.working["suspected"] == ["noise"]
    assert near.working["terms"]["noise"]["specialty"] == 1.0
    assert near.working["fused"]["rule"] == "weighted mean"
    far = router_of(pool_of(a=told(60.0), b=told(62.0), noise=told(5.0))).ask(clip)
    assert far.working["fused"]["rule"] == "weighted median"
    assert far.result["score100"] == pytest.approx(60.0)


def test_tier_0_runs_exactly_one(clip, pool_of, router_of):
    pool = pool_of(a=told(40.0, cost_s=9.0), b=told(80.0, cost_s=2.0))
    trace = router_of(pool, None, "tier=0").ask(clip)
    assert trace.result["experts"] == ["b"]  # the cheaper of equal priors
    assert trace.spending["experts"] == 1
    broken = router_of(pool_of(a=told(fails="boom", cost_s=1.0), b=told(80.0, cost_s=2.0)), None, "tier=0")
    result = broken.ask(clip).result
    assert "no expert gave a score (a: error: RuntimeError: boom)" in result["error"]


def test_of_equal_priors_the_best_calibrated_expert_comes_first(clip, pool_of, router_of):
    """`a` is cheaper, and its curve misses its data by 10 points."""
    pool = pool_of(a=told(40.0, cost_s=1.0), b=told(80.0, cost_s=2.0))
    grid = tuple(float(x) for x in range(0, 101, 10))
    off = tuple(x + 10 * (-1) ** i for i, x in enumerate(grid))
    material = calibration.Material(dataset="grid", ids=tuple(map(str, grid)), raw=grid, mos=off)
    calibration.save(calibration.fit(pool.subject("a"), "linear", material), clip.parent / "calibration")
    assert router_of(pool, None, "tier=0").ask(clip).result["experts"] == ["b"]


def test_published_priors_are_renormalized_over_the_pool(clip, pool_of, router_of):
    pool = pool_of(uvq=told(40.0), cover=told(50.0), other=told(90.0))
    trace = router_of(pool, None, priors="published").ask(clip)
    assert trace.result["experts"] == ["cover", "uvq"]
    assert trace.result["score100"] == pytest.approx(45.0)
    assert trace.notes[0].endswith("maxvqa, modularbvqa, rq_vqa not in the pool; the others' weights are renormalized")
    strangers = router_of(pool_of(a=told(40.0), b=told(50.0)), None, priors="published").ask(clip)
    assert strangers.result["score100"] == pytest.approx(45.0)
    assert strangers.notes[0].endswith("no other expert has a weight: all count alike")


def test_the_published_row_by_hand(clip, pool_of, router_of):
    """UGC, no suspects, calibrations without error. Agreement with the median of the others, on 20 points: .875, .5,
    .75, .875, .625; so the weights are .25 x 1.4625, .25 x 1.35, .15 x 1.425, .15 x 1.4625, .10 x 1.3875."""
    scores = {"uvq": 60.0, "cover": 70.0, "modularbvqa": 65.0, "maxvqa": 60.0, "rq_vqa": 55.0}
    pool = pool_of(**{name: told(score) for name, score in scores.items()})
    trace = router_of(pool, None, "content_type=ugc", priors="published").ask(clip)
    assert trace.result["score100"] == pytest.approx(80.25 / 1.275)
    assert (trace.result["rounded"], trace.working["fused"]["rule"]) == (63, "weighted mean")
    assert trace.working["fused"]["weights"]["uvq"] == pytest.approx(0.365625 / 1.275)


def test_what_is_wrong_with_the_published_priors_is_flagged():
    """Every row that does not sum to 1 is named with its sum, and no other."""
    values = composed("eval", ["predictor=router", "priors@predictor.router.priors=published"])
    priors = values["predictor"]["router"]["priors"]
    sums = {kind: sum(row.values()) for kind, row in priors["types"].items()}
    flagged = [flag for flag in priors["flagged"] if "sum to" in flag]
    assert flagged == [
        f"{kind}: the weights sum to {total:.2f}; they are renormalized"
        for kind, total in sums.items()
        if total != pytest.approx(1.0)
    ]
    assert len(flagged) == 2
    named = {name for row in priors["types"].values() for name in row}
    assert "dover" not in named
    pool = set(composed("experts", ["experts=all"])["experts"]["tools"])
    assert named - pool == {"rq_vqa"}
    assert any(flag.startswith("rq_vqa: ") and "no expert here runs it" in flag for flag in priors["flagged"])


def test_a_clip_higher_than_wide_is_short_form(tmp_path, pool_of, router_of):
    write_clip(tmp_path / "tall.mkv", numbered(4, height=48, width=32), fps=8)
    assert router_of(pool_of(a=told())).ask(tmp_path / "tall.mkv").result["content_type"] == "short-form"


def test_the_chat_model_decides_type_experts_suspects_and_weights(clip, pool_of, router_of, llm_of):
    weights = [{"expert": "a", "weight": 0.75}, {"expert": "b", "weight": 0.25}]
    reply = routing(content_type="gaming", weights=weights, suspected=["Noise"])
    pool = pool_of(a=told(40.0), b=told(50.0), c=told(90.0))
    trace = router_of(pool, llm_of({"expert": reply})).ask(clip)
    decision = trace.working["decision"]
    assert (decision["content_type"], decision["by"], decision["weights_by"]) == ("gaming", "chat", "chat")
    assert trace.result["score100"] == pytest.approx(42.5)
    assert trace.working["suspected"] == ["noise"]
    assert trace.spending["llm_calls"] == 1
    (chat,) = [s for s in trace.steps if s.kind == "chat"]
    assert json.loads(chat.reply["text"]) == reply
    assert chat.request["messages"][1]["content"][0]["type"] == "frames"
    assert trace.notes == ()
    # Nor is anything said of priors that had no part.
    assert router_of(pool, llm_of({"expert": reply}), priors="published").ask(clip).notes == ()


def test_the_chat_model_is_told_the_priors_that_hold(clip, pool_of, router_of, llm_of):
    pool = pool_of(uvq=told(40.0), other=told(50.0))

    def prompt(priors: str) -> str:
        trace = router_of(pool, llm_of({"Experts:": routing(experts=["uvq"])}), priors=priors).ask(clip)
        (chat,) = [s for s in trace.steps if s.kind == "chat"]
        return chat.request["messages"][1]["content"][-1]["text"]

    equal, published = prompt("equal"), prompt("published")
    assert "equal weights (no prior is published for these experts):\n- ugc: all experts 1\n" in equal
    assert "published priors" not in equal
    assert "- ugc: uvq 0.25, the others 0\n- short-form: uvq 0.2, the others 0\n" in published
    assert "Q-Router (arXiv 2510.08789)" in published


def test_tier_2_adds_localized_types_to_the_suspects(clip, pool_of, router_of):
    pool = pool_of(a=told(60.0), noise=told(55.0, strengths=["noise"]))
    found = {"types": ["noise"], "spans": [[0.0, 0.5]]}
    trace = router_of(pool, None, "tier=2", localizer=Finding(found)).ask(clip)
    assert trace.working["suspected"] == ["noise"]
    assert trace.working["localization"] == found
    assert trace.config["localizer"] == "finding"
    assert "no localization is set up" in router_of(pool, None, "tier=2").ask(clip).notes[0]


def test_a_changed_trace_or_program_is_noticed(clip, pool_of, router_of):
    trace = router_of(pool_of(a=told(40.0), b=told(50.0))).ask(clip)
    check(trace)
    steps = tuple(
        s
        if s.kind != "tool" or s.request["expert"] != "a"
        else type(s)(**{**vars(s), "reply": {**s.reply, "score": 41.0}})
        for s in trace.steps
    )
    edited = type(trace)(**{**vars(trace), "steps": steps})
    assert replay(edited).result["score100"] != trace.result["score100"]
    with pytest.raises(DataError, match="the replay differs in 'working'"):
        check(edited)


def test_the_contract_is_closed():
    schema = contract(["a", "b"], ["ugc"])
    assert parse(json.dumps(routing(experts=["a"])), schema).experts == ["a"]
    for change in ({"experts": []}, {"experts": ["a", "a"]}, {"content_type": "news"}, {"mood": 1}, {"why": None}):
        with pytest.raises(ValueError, match="."):
            parse(json.dumps(routing(**change)), schema)


def test_questions_are_answered_from_the_readings(clip, pool_of, router_of, llm_of):
    pool = pool_of(a=told(40.0), b=told(50.0))
    level = closed_prompt("How is the quality?", ["high", "good", "fair", "poor", "low"], "text")
    rules = router_of(pool).ask(clip, question=level, want="answer")
    assert rules.result["text"] == "fair."
    ids = {e["id"] for e in rules.working["evidence"]["entries"]}
    assert {i for claim in rules.result["claims"] for i in claim["evidence"]} <= ids
    assert "rules cannot answer" in router_of(pool).ask(clip, question="Is it a dog?", want="answer").result["error"]
    llm = llm_of({"Options:": "[-2, -1, -3, -4, -5]", "Experts:": routing()})
    trace = router_of(pool, llm).ask(clip, question=level, want="answer")
    assert (trace.result["text"], trace.result["by"]) == ("good.", "chat")
    (asked,) = [s for s in trace.steps if s.kind == "options"]
    assert "all experts, weighted: 45.0/100" in asked.request["messages"][1]["content"][1]["text"]


def test_a_learned_gate_weighs_the_experts_as_it_was_trained(clip, pool_of, router_of):
    """The mean by its own weights: no adjustment, no median (the scores lie 60 points apart); only its experts run."""
    pool = pool_of(a=told(20.0), b=told(80.0), c=told(0.0))
    trace = router_of(pool, gate=Trusting({"a": 0.25, "b": 0.75})).ask(clip)
    assert trace.result["score100"] == pytest.approx(65.0)
    assert trace.result["experts"] == ["a", "b"]
    assert (trace.result["content_type"], trace.result["uncertainty"]) == ("CG", 7.5)
    assert trace.working["decision"]["by"] == "gate"
    assert (trace.spending["experts"], trace.spending["model_calls"], trace.spending["llm_calls"]) == (2, 1, 0)


def test_an_expert_of_the_gate_that_fails_leaves_its_weight_to_the_others(clip, pool_of, router_of):
    pool = pool_of(a=told(20.0), b=told(80.0), c=told(fails="boom"))
    trace = router_of(pool, gate=Trusting({"a": 0.25, "b": 0.25, "c": 0.5})).ask(clip)
    assert trace.result["score100"] == pytest.approx(50.0)
    assert any("boom" in note for note in trace.notes)


def test_a_gate_that_stands_back_is_in_the_notes_and_one_that_fails_leaves_it_to_the_rules(clip, pool_of, router_of):
    pool = pool_of(a=told(20.0), b=told(80.0), c=told(0.0))
    alone = router_of(pool, gate=Trusting({"a": 1.0}, note="a alone rates", uncertainty=None)).ask(clip)
    assert alone.result["score100"] == pytest.approx(20.0)
    assert "uncertainty" not in alone.result
    assert alone.notes == ("a alone rates",)
    rules = router_of(pool, gate=Trusting({}, fails="it knows none of them")).ask(clip)
    assert rules.working["decision"]["by"] == "rules"
    assert rules.notes[0] == "router: the learned gate gave no decision: it knows none of them"
