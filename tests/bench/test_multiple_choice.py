"""Q-Bench images and AgenticIQA-Eval: both forms, figures by hand, withheld answers, broken records."""

import json
from dataclasses import replace

import numpy as np
import pytest

from vqa2.bench._runner import run
from vqa2.bench.multiple_choice import MultipleChoice
from vqa2.core.errors import DataError
from vqa2.core.records import Answer

QBENCH = [
    {"img_path": "a.jpg", "question": "Blurry?", "candidates": ["Yes", "No"], "correct_ans": "No", "type": 0,
     "concern": 0},
    {"img_path": "a.jpg", "question": "How bright?", "candidates": ["Dark", "Medium", "Bright"], "correct_ans": "Dark",
     "type": 1, "concern": 1},
    {"img_path": "b.jpg", "question": "What defect?", "candidates": ["Noise", "Blur", "Blocks", "Haze"],
     "correct_ans": "Haze", "type": 2, "concern": 2, "response": "kept by some scripts"},
    {"img_path": "c.jpg", "question": "Sharp?", "candidates": ["No", "Yes"], "correct_ans": "Yes", "type": 0,
     "concern": 0},
]  # fmt: skip
AGENTIC = [
    {"track": "planner", "image": "a.png", "question": "Which object is named?", "answers": ["Dog", "Cat"],
     "correct_choice": "B"},
    {"track": "executor-distortion", "image": "a.png", "reference": "r.png", "question": "How severe?",
     "answers": ["None", "Mild", "Severe"], "correct_choice": "C"},
    {"track": "executor-tool", "image": "b.png", "question": "Is NIMA right for sharpness?", "answers": ["Yes", "No"],
     "correct_choice": "B"},
    {"track": "executor-tool", "image": "b.png", "question": "Is LIQE?", "answers": ["Yes", "No"],
     "correct_choice": "A"},
    {"track": "summarizer", "image": "b.png", "evidence": "TOPIQ says 1.6 of 5.", "question": "Why obscure?",
     "answers": ["Blur", "Noise"], "correct_choice": "A"},
]  # fmt: skip


@pytest.fixture
def made(write_json, tmp_path):
    def make(records, form="llvisionqa", **changes):
        values = {
            "prompt": "qbench" if form == "llvisionqa" else "plain",
            "published_n": None,
            "released": True,
        } | changes
        return MultipleChoice(label="m", prepare=None, file=str(write_json(records)), media_root=str(tmp_path),
                              form=form, batch_size=2, bootstrap=200, seed=0, **values)  # fmt: skip

    return make


def replies(benchmark, texts):
    return {i.query.id: t for i, t in zip(benchmark.items(), texts, strict=True)}


def test_qbench_figures_by_hand(made, scripted, quiet, tmp_path):
    benchmark = made(QBENCH, published_n=4)
    report = run(benchmark, scripted(replies(benchmark, ["B. No", "A.", "Haze", "A"])), tmp_path / "o", quiet)
    found = {m.name: m for m in report.metrics}
    assert found["accuracy"].value == 0.5, "the third reply names no letter, the fourth is wrong"
    assert found["mean over question types"].value == pytest.approx((0.5 + 1 + 0) / 3)
    assert found["mean over concerns"].value == pytest.approx((0.5 + 1 + 0) / 3)
    assert found["mean over concerns"].lo <= 0.5 <= found["mean over concerns"].hi
    assert {m.name: (m.value, m.n) for m in report.groups["accuracy by concern"]} == {
        "global distortion": (0.5, 2), "global other": (1.0, 1), "local distortion": (0.0, 1)}  # fmt: skip
    assert report.failures == (("00002-b.jpg", "unparseable reply: 'Haze'"),)
    assert (report.n_scored, report.n_expected) == (3, 4)
    assert report.deviations == ("1 replies that name no letter count as wrong, published ones were read by GPT",)
    plain = made(QBENCH, published_n=4, prompt="plain")
    whole = run(plain, scripted(replies(plain, ["B. No", "A.", "D", "A"])), tmp_path / "p", quiet)
    assert whole.deviations == ("prompt=plain is not the published prompt",)


def test_qbench_asks_in_its_own_words_of_a_still(made):
    query = made(QBENCH).items()[0].query
    assert query.question == "<video>\nBlurry?\nChoose between one of the options as follows:\nA. Yes\nB. No\n"
    assert (query.kind, query.second, query.path.name) == ("image", None, "a.jpg")


def test_overall_of_four_tracks_is_their_plain_mean(made, scripted, quiet, tmp_path):
    benchmark = made(AGENTIC, "agenticiqa", published_n=1000)
    items = benchmark.items()
    assert items[1].query.second == tmp_path / "r.png"
    assert items[4].query.question.startswith("<video>\nTOPIQ says 1.6 of 5.\nWhy obscure?\nA. Blur")
    report = run(benchmark, scripted(replies(benchmark, ["B", "A", "B", "A", "A"])), tmp_path / "o", quiet)
    found = {m.name: m.value for m in report.metrics}
    assert (found["mean over tracks"], found["accuracy"]) == (0.75, 0.8)
    assert report.deviations == ("5 questions, published on 1000",)
    own = run(replace(benchmark, released=False, published_n=5), scripted({}), tmp_path / "o", quiet)
    assert own.deviations == ("not the paper's questions, which are not released",), "as many as the paper's"


def test_differences_by_track(made):
    benchmark = made(AGENTIC, "agenticiqa")
    items = benchmark.items()
    some = [[Answer(id=i.query.id, text=t) for i, t in zip(items, texts)] for texts in ("BCBAA", "BABBA")]
    found = {m.name: (m.value, m.n) for m in benchmark.compare(items, *some)}
    assert found["accuracy"] == (pytest.approx(0.4), 5)
    assert found["accuracy by track / executor-tool"] == (0.5, 2)
    assert found["accuracy by track / planner"] == (0.0, 1)


def test_the_macro_interval_resamples_items():
    """Of two tracks with 200 and 20 items the smaller one gives most of the width: by hand, sqrt(p q / n) of each."""
    from vqa2.bench._items import Grade, Item, Marks
    from vqa2.core.records import Query

    rng = np.random.default_rng(0)
    grades = [
        Grade(Item(query=Query(id=str(n), path=None, kind="image"), mode="answer", target={"t": n < 200}), float(m))
        for n, m in enumerate(rng.random(220) < 0.6)
    ]
    made = Marks(2000, 0).macro("m", grades, lambda i: i.target["t"])
    shares = [np.array([g.mark for g in grades[:200]]), np.array([g.mark for g in grades[200:]])]
    width = 1.96 * np.sqrt(sum(s.var() / len(s) for s in shares)) / 2
    assert made.value == pytest.approx(np.mean([s.mean() for s in shares]))
    assert (made.hi - made.lo) / 2 == pytest.approx(width, rel=0.15)


def test_withheld_answers_are_asked_and_not_graded(made, scripted, quiet, tmp_path):
    benchmark = made([{k: v for k, v in r.items() if k != "correct_ans"} for r in QBENCH])
    predictor = scripted(replies(benchmark, ["A", "A", "A", "A"]))
    report = run(benchmark, predictor, tmp_path / "o", quiet)
    assert len(predictor.asked) == 4
    assert (report.n_expected, report.metrics[0].value, report.metrics[0].note) == (0, None, "undefined: no items")
    assert report.deviations == ("answers are withheld",)
    with pytest.raises(DataError, match=r"1 of 4 records have no right answer, the first is c\.jpg"):
        made([*QBENCH[:3], {k: v for k, v in QBENCH[3].items() if k != "correct_ans"}]).items()


def test_an_item_that_fails_is_listed_and_a_deviation(made, scripted, quiet, tmp_path):
    benchmark = made(QBENCH, published_n=4)
    table = replies(benchmark, ["B", "A", "D", "B"])
    report = run(benchmark, scripted(table, broken=["00003-c.jpg"]), tmp_path / "o", quiet)
    assert report.failures == (("00003-c.jpg", "cannot decode"),)
    assert report.deviations == ("1 questions not answered",)
    assert report.metrics[0].value == 1.0


@pytest.mark.parametrize(
    ("form", "change", "problem"),
    [
        ("llvisionqa", {"type": 3}, "record 0: type: 0 to 2 is needed, got 3"),
        ("llvisionqa", {"correct_ans": "Perhaps"}, "record 0: correct_ans: 'Perhaps' must be one of candidates, once"),
        ("llvisionqa", {"candidates": ["Yes"]}, "record 0: candidates: 2 to 8 options are needed, got 1"),
        ("llvisionqa", {"question": 5}, "record 0: question: input should be a valid string, got 5"),
        ("llvisionqa", {"img_path": "../x.jpg"}, "leaves the data root"),
        ("agenticiqa", {"track": "router"}, "record 0: track: input should be 'planner'"),
        ("agenticiqa", {"correct_choice": "C"}, "record 0: correct_choice: one of A, B is needed"),
    ],
)
def test_a_broken_record_names_itself(made, form, change, problem):
    records = {"llvisionqa": QBENCH, "agenticiqa": AGENTIC}[form]
    with pytest.raises(DataError) as caught:
        made([{**records[0], **change}, *records[1:]], form).items()
    assert problem in str(caught.value)


def test_files_that_are_no_list_are_refused(made, tmp_path):
    for text, problem in (("{}", "a list of records is needed"), ("[", "not JSON"), ("[]", "a list of records")):
        path = tmp_path / "x.json"
        path.write_text(text)
        with pytest.raises(DataError, match=problem):
            MultipleChoice(**{**made(QBENCH).__dict__, "file": str(path)}).items()
    assert json.loads((tmp_path / "qbench.json").read_text())
