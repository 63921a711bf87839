"""The judge of open answers against a real HTTP server: rounds, failures, garbage, stalls, cache, budget, agreement."""

import json

import numpy as np
import pytest
import yaml
from llm_server import Act, serving
from sklearn.metrics import cohen_kappa_score

from vqa2.bench._judge import Judge, OpenAnswer, Verdict, agreement, cohen_kappa, departures, grade_all, read_grade
from vqa2.bench._runner import run
from vqa2.bench.qbench_video import QBenchVideo
from vqa2.core.errors import ConfigError
from vqa2.core.llm import LlmUnavailable
from vqa2.launch import conf_dir

SOON = {"retry-after-ms": "10"}
ANSWERS = [OpenAnswer(id=f"q{n}", question="Why?", reply=f"reply {n}", reference="noise") for n in range(3)]


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """`judge(server, **changes)`: one http judge as configured, with a cache in tmp_path."""
    http = yaml.safe_load((conf_dir() / "llm" / "http.yaml").read_text())

    def make(server, others=(), **changes):
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
        fields = {"rounds": 5, "budget": None, "give_up_after": 5, "published": "gpt-4o"}
        own = {k: changes.pop(k) for k in list(changes) if k in fields}
        values = {**http, "model": "gpt-4o-2024-08-06", "temperature": None, "retries": 1, "timeout_s": 5.0, **changes}
        llms = {"first": values, **{f"other{n}": {**values, "model": name} for n, name in enumerate(others)}}
        return Judge(llms=llms, cache=str(tmp_path / "judge.sqlite"), **fields | own)

    return make


def round_of(request):
    return request["seed"]


def which(request):
    """The number of the reply that a request is about."""
    return int(request["messages"][-1]["content"].split("[reply ")[1][0])


@pytest.mark.parametrize(
    ("text", "grade"),
    [("Score: 2", 2), ("Score:1", 1), ("0", 0), (" score: 2. \n", 2),
     ("", None), ("Score: 3", None), ("2 out of 2", None), ("The score is 2", None), ("Score: 1.5", None)],
)  # fmt: skip
def test_a_grade_is_the_whole_reply_or_nothing(text, grade):
    assert read_grade(text) == grade


def test_five_rounds_are_averaged_and_asked_once(judge):
    with serving(lambda request, n: Act(f"Score: {2 if round_of(request) < 3 else 1}")) as server:
        verdicts = grade_all(judge(server), ANSWERS, "judge")["first"]
        assert len(server.requests) == 15
        again = grade_all(judge(server), ANSWERS, "judge")["first"]
    assert len(server.requests) == 15
    assert again == verdicts
    assert [v.mark for v in verdicts.values()] == [pytest.approx(0.8)] * 3
    first = server.requests[0]
    assert "response [reply" in first["messages"][1]["content"]
    assert "matches the correct answer [noise]" in first["messages"][1]["content"]
    assert "temperature" not in first
    assert sorted({r["seed"] for r in server.requests}) == [0, 1, 2, 3, 4]


def test_garbage_is_in_no_mean_and_no_grade_at_all_is_no_zero(judge):
    def behave(request, n):
        if which(request) == 0:
            return Act("Score: 2" if round_of(request) == 4 else "I would say it is fine")
        return Act("nothing to see" if which(request) == 1 else "Score: 0")

    with serving(behave) as server:
        one, none, zero = grade_all(judge(server), ANSWERS, "judge")["first"].values()
        assert len(server.requests) == 15
        grade_all(judge(server), ANSWERS, "judge")
    assert len(server.requests) == 15
    assert (one.mark, one.valid) == (1.0, [2])
    assert (none.mark, none.reason) == (None, "judge: no grade in 5 replies")
    assert (zero.mark, zero.reason) == (0.0, "")


def test_failures_and_stalls_are_listed_and_only_they_are_asked_again(judge):
    broken = True

    def behave(request, n):
        if broken and which(request) == 1 and round_of(request) == 2:
            return Act(status=500, body="oops", headers=SOON)
        if broken and which(request) == 2 and round_of(request) == 0:
            return Act("Score: 2", delay_s=1.0)
        return Act("Score: 2")

    with serving(behave) as server:
        good, failed, stalled = grade_all(judge(server, timeout_s=0.3), ANSWERS, "judge")["first"].values()
        broken, before = False, len(server.requests)
        mended = grade_all(judge(server), ANSWERS, "judge")["first"]
        asked = [(which(r), round_of(r)) for r in server.requests[before:]]
    assert good.mark == 1.0
    assert failed.mark is None
    assert failed.reason.startswith("judge: 1 of 5 rounds failed, the last: llm: 500 after 2 tries")
    assert "no answer in time" in stalled.reason
    assert sorted(asked) == [(1, 2), (2, 0)]
    assert [v.mark for v in mended.values()] == [1.0] * 3


def test_a_refused_key_stops_the_judge_and_keeps_what_there_is(judge):
    with serving(lambda request, n: Act("Score: 1") if round_of(request) < 2 else Act(status=401, body="{}")) as server:
        with pytest.raises(LlmUnavailable, match="401: the endpoint refuses the key"):
            grade_all(judge(server, concurrency=1), ANSWERS, "judge")
    with serving(lambda request, n: Act("Score: 1")) as server:
        grade_all(judge(server), ANSWERS, "judge")
        assert len(server.requests) == 15 - 2


def test_the_estimate_comes_first_and_a_budget_holds(judge, capsys):
    prices = {"price_prompt": 2.5, "price_completion": 10.0, "max_tokens": 100}
    with serving(lambda request, n: Act("Score: 1")) as server:
        with pytest.raises(ConfigError, match=r"judge.budget: 0.001 is not enough for 15 requests, 0 answered already"):
            grade_all(judge(server, budget=0.001, **prices), ANSWERS, "judge")
        with pytest.raises(ConfigError, match="cost unknown"):
            grade_all(judge(server, budget=100.0, max_tokens=100), ANSWERS, "judge")
        assert server.requests == []
        grade_all(judge(server, budget=1.0, **prices), ANSWERS, "judge")
        # From the cache alone, whatever the price.
        grade_all(judge(server, budget=0.0, max_tokens=100), ANSWERS, "judge")
    assert len(server.requests) == 15
    said = " ".join(capsys.readouterr().err.split())
    assert "judge first: 3 answers x 5 rounds: 15 requests, 0 answered already" in said
    assert "cost at most 0.02" in said


@pytest.mark.parametrize("quadratic", [False, True])
def test_kappa_equals_scikit_learns(quadratic):
    rng = np.random.default_rng(0)
    for _ in range(5):
        pairs = rng.integers(0, 3, (40, 2))
        pairs[:25, 1] = pairs[:25, 0]
        expected = cohen_kappa_score(*pairs.T, weights="quadratic" if quadratic else None)
        assert cohen_kappa(pairs, quadratic) == pytest.approx(expected)


def test_agreement_is_undefined_for_one_and_the_same_grade():
    same = {f"q{n}": Verdict((1, 1, 1)) for n in range(4)}
    plain, weighted = agreement(same, same, "b", bootstrap=10, seed=0)
    assert (plain.value, plain.n, plain.note) == (None, 4, "undefined: fewer than two different grades")
    varied = {f"q{n}": Verdict((n % 3, None)) for n in range(9)}
    plain, weighted = agreement(varied, {**varied, "q0": Verdict((None,))}, "b", bootstrap=10, seed=0)
    assert (plain.name, plain.value, plain.n, plain.lo) == ("kappa with b", 1.0, 8, 1.0)
    assert weighted.name == "kappa with b, quadratic weights"


def test_the_benchmark_is_graded_by_two_judges_and_again_for_free(judge, scripted, quiet, tmp_path):
    records = [
        {"video_name": f"{n}.mp4", "question": "Why?", "question_type": "open_ended", "video_type": "AIGC",
         "context": "Referring", "quality_concern": ["AIGC", "Temporal"], "answer": "noise"}
        for n in range(6)
    ]  # fmt: skip
    (tmp_path / "q.json").write_text(json.dumps(records))
    replies = {f"{n:05d}-{n}.mp4": f"reply {n}" for n in range(6)}

    def behave(request, n):
        number = which(request)
        if number == 5:
            return Act("who knows")
        return Act(f"Score: {min(number, 2) if request['model'] == 'gpt-4o-2024-08-06' else min(number, 1)}")

    def made(spec, **changes):
        values = {"label": "q", "file": str(tmp_path / "q.json"), "video_root": str(tmp_path), "concerns": None,
                  "pairs": "exclude",
                  "prompt": "vqa2", "reply": "letter", "judge": spec, "vocabulary": None, "reference_keys": ("answer",),
                  "prepare": None, "published_n": 6, "batch_size": 4, "bootstrap": 20, "seed": 0}  # fmt: skip
        return QBenchVideo(**values | changes)

    with serving(behave) as server:
        spec = judge(server, others=["other-model"])
        report = run(made(spec), scripted(replies), tmp_path / "o", quiet)
        asked = len(server.requests)
        predictor = scripted(replies)
        assert (
            run(made(spec, bootstrap=21), predictor, tmp_path / "o", quiet).metrics[1].value == report.metrics[1].value
        )
        assert (len(server.requests), predictor.asked) == (asked, [])
    assert asked == 6 * 5 * 2
    opened = report.metrics[3]
    assert (opened.name, opened.n) == ("open (judge gpt-4o-2024-08-06)", 5)
    assert opened.value == pytest.approx((0 + 0.5 + 1 + 1 + 1) / 5)
    assert report.failures == (("00005-5.mp4", "judge: no grade in 5 replies"),)
    assert (report.n_scored, report.n_expected) == (5, 6)
    concerns = {m.name: m.n for m in report.groups["score by quality concern"]}
    assert concerns == {"AIGC": 5, "Temporal": 5, "Aesthetic or AIGC": 5}
    kappa = report.groups["agreement of gpt-4o-2024-08-06"][0]
    expected = cohen_kappa_score([0, 1, 2, 2, 2], [0, 1, 1, 1, 1])
    assert (kappa.value, kappa.n) == (pytest.approx(expected), 5)
    assert "judge gpt-4o-2024-08-06: 5 of 30 replies are no grade and in no mean" in report.notes
    assert "judge gpt-4o-2024-08-06: answered by gpt-4o-2024-08-06" in report.notes
    assert report.deviations == ()
    assert [*report.limited] == ["1 open questions not answered or not graded"]
    assert report.objections(["Overall"]) == report.objections(["score by question type", "open_ended"]) != []


DATED = "gpt-4o-2024-08-06"


@pytest.mark.parametrize(
    ("changes", "served", "reason"),
    [
        ({}, DATED, None),
        ({"model": "gpt-4o-2024-11-20"}, "gpt-4o-2024-11-20", None),
        ({"model": "gpt-4o"}, DATED, "judge gpt-4o names no dated model, which changes with time"),
        ({"model": "gpt-4o-mini"}, "", "judge gpt-4o-mini, published with gpt-4o"),
        ({"model": "gpt-4o-mini-2024-07-18"}, "", "judge gpt-4o-mini-2024-07-18, published with gpt-4o"),
        ({}, "gpt-4o-mini-2024-07-18", "judge gpt-4o-mini-2024-07-18, published with gpt-4o"),
        ({"temperature": 0.7}, DATED, "judge with temperature 0.7, published with the endpoint's default"),
        ({"temperature": 0.0}, DATED, "judge with temperature 0, so that all rounds are one, published with the "
                                      "endpoint's default"),
        ({"top_p": 0.5}, DATED, "judge with top_p 0.5, published with the endpoint's default"),
        ({"rounds": 3}, DATED, "3 rounds of the judge, published with 5"),
    ],
)  # fmt: skip
def test_only_the_published_judge_counts_as_it(judge, changes, served, reason):
    with serving(lambda request, n: Act("Score: 2", model=served)) as server:
        spec = judge(server, **changes)
        found = grade_all(spec, ANSWERS[:1], "judge")["first"]
        again = grade_all(spec, ANSWERS[:1], "judge")["first"]
    assert again == found, "who answered is in the cache"
    assert found["q0"].models == (served or spec.llms["first"]["model"],)
    assert departures(spec, [*found.values()]) == ([] if reason is None else [reason])
