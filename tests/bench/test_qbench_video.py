"""Q-Bench-Video: the released record form, strict letters, accuracies with chance, the rule judge, refusals."""

import json
from dataclasses import replace

import pytest

from vqa2.bench._items import chance_of
from vqa2.bench._judge import Judge
from vqa2.bench._judge_rules import Vocabulary, grade
from vqa2.bench._parse import letter, option
from vqa2.bench._runner import run
from vqa2.bench.qbench_video import QBenchVideo
from vqa2.core.errors import ConfigError, DataError

WORDS = Vocabulary(distortions=("noise", "motion blur", "blur"), severities=("slight", "strong"), clean="no distortion")
BASE = {"video_type": "natural", "context": "Global", "quality_concern": ["Technical"]}
YES_NO = {**BASE, "video_name": "a.mp4", "question": "Blur?", "question_type": "yes-or-no",
          "answers": ["No", "Yes"], "correct_choice": "B"}  # fmt: skip
WHAT = {**BASE, "video_name": "b.mp4", "question": "Which?", "question_type": ["what/how"], "video_type": "CG",
        "quality_concern": ["Technical", "Temporal"],
        "answers": ["noise", "blur", "flicker", "none"], "correct_choice": "C"}  # fmt: skip
OPEN = {**BASE, "video_name": "c.mp4", "question": "Why?", "question_type": "open_ended",
        "correct_answer": "Strong noise degrades this video."}  # fmt: skip
PAIR = {**YES_NO, "video_name": "a.mp4_cat_b.mp4.mp4"}
JOINT = {**YES_NO, "video_name": "d.mp4", "context": "Compare-fine"}
A, B, C = "00000-a.mp4", "00001-b.mp4", "00002-c.mp4"


@pytest.fixture
def made(write_json, tmp_path):
    def make(records, **changes):
        values = {
            "label": "qbench-video",
            "prepare": None,
            "file": str(write_json(records)),
            "video_root": str(tmp_path / "video"),
            "concerns": None,
            "pairs": "exclude",
            "prompt": "plain",
            "reply": "letter",
            "judge": Judge(
                llms={"first": {"name": "rules"}},
                rounds=5,
                budget=None,
                give_up_after=5,
                cache=str(tmp_path / "judge.sqlite"),
                published="gpt-4o",
            ),
            "vocabulary": WORDS,
            "reference_keys": ("correct_ans", "correct_answer", "answer_ref"),
            "published_n": None,
            "batch_size": 2,
            "bootstrap": 30,
            "seed": 0,
        }
        return QBenchVideo(**values | changes)

    return make


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("B", "B"), ("B.", "B"), ("(B)", "B"), ("[B]", "B"), ("B)", "B"), ("B: flicker", "B"), ("B. flicker", "B"),
        (" \nB.\n", "B"), ("A", "A"), ("A. No", "A"), ("B because of it", "B"),
        ("b", None), ("", None), ("E", None), ("Because", None), ("The answer is B", None), ("BC", None),
        ("A dog runs", None), ("AB", None), ("B.C", None),
    ],
)  # fmt: skip
def test_a_letter_is_the_first_token_or_nothing(reply, found):
    assert letter(reply, 4) == found


@pytest.mark.parametrize(
    ("reply", "found"),
    [("Noise.", "noise"), ("noise", "noise"), ("It is noise", None), ("", None), ("A", None), ("no", None)],
)
def test_an_option_is_the_whole_reply_or_nothing(reply, found):
    assert option(reply, ("noise", "none")) == found


@pytest.mark.parametrize(
    ("reply", "reference", "score"),
    [
        ("Strong noise degrades this video.", "Strong noise degrades this video.", 2),
        ("There is noise, and it is strong.", "Strong noise degrades this video.", 2),
        ("Slight noise degrades this video.", "Strong noise degrades this video.", 1),
        ("Noise.", "Strong noise degrades this video.", 1),
        ("Strong motion blur.", "Strong noise degrades this video.", 0),
        ("Strong noise and blur.", "Strong noise degrades this video.", 0),
        ("Strong blur.", "Strong motion blur degrades this video.", 0),
        ("The video shows no distortion.", "The video shows no distortion. It is good.", 2),
        ("Strong noise, no distortion.", "The video shows no distortion. It is good.", 0),
        ("", "Strong noise degrades this video.", 0),
    ],
)
def test_the_rule_judge_wants_distortion_and_severity(reply, reference, score):
    assert grade(reply, reference, WORDS) == score


def test_items_carry_the_shared_prompts(made):
    items = made([YES_NO, WHAT, OPEN]).items()
    assert [i.query.id for i in items] == [A, B, C]
    assert items[0].query.question == "<video>\nBlur?\nA. No\nB. Yes\nAnswer with the letter."
    assert items[2].query.question == "<video>\nWhy?"
    assert [i.target["reference"] for i in items] == ["Yes", "flicker", "Strong noise degrades this video."]
    assert items[0].query.path.name == "a.mp4"


def test_closed_accuracies_by_type_concern_and_origin_with_chance(made, scripted, quiet, tmp_path):
    replies = {A: "B.", B: "(A)", C: "Slight noise"}
    report = run(made([YES_NO, WHAT, OPEN]), scripted(replies), tmp_path / "o", quiet)
    overall, both, parsed, opened = report.metrics
    assert (both.name, both.value, both.n, chance_of(both)) == ("Overall", 0.5, 3, None)
    assert (overall.name, overall.value, overall.n, chance_of(overall)) == ("Overall (closed)", 0.5, 2, 0.375)
    assert "plain mean over closed questions" in overall.note
    assert (parsed.value, parsed.n) == (1.0, 2)
    assert (opened.name, opened.value, opened.n) == ("open (rule judge)", 0.5, 1)
    groups = {k: {m.name: (m.value, m.n, chance_of(m)) for m in v} for k, v in report.groups.items()}
    assert groups["score by question type"] == {
        "yes-or-no": (1.0, 1, 0.5), "what/how": (0.0, 1, 0.25), "open_ended": (0.5, 1, None)}  # fmt: skip
    assert groups["score by quality concern"] == {"Technical": (0.5, 3, None), "Temporal": (0.0, 1, 0.25)}
    assert groups["score by video type"] == {"natural": (0.75, 2, None), "CG": (0.0, 1, 0.25)}
    assert report.marks == {A: 1.0, B: 0.0, C: 0.5}
    assert (report.n_scored, report.n_expected) == (3, 3)


def test_unparseable_letters_are_wrong_counted_and_listed(made, scripted, quiet, tmp_path):
    report = run(made([YES_NO, WHAT, OPEN]), scripted({A: "Yes", B: "C", C: "x"}), tmp_path / "o", quiet)
    assert (report.metrics[0].value, report.metrics[0].n) == (0.5, 2)
    assert (report.metrics[2].value, report.metrics[2].note) == (0.5, "1 unparseable replies, counted as wrong")
    assert report.failures == ((A, "unparseable reply: 'Yes'"),)
    assert (report.n_scored, report.n_expected) == (2, 3)


def test_text_replies_are_read_by_option(made, scripted, quiet, tmp_path):
    report = run(made([YES_NO, WHAT], reply="text"), scripted({A: "Yes.", B: "C"}), tmp_path / "o", quiet)
    assert report.metrics[0].value == 0.5
    assert report.failures == ((B, "unparseable reply: 'C'"),)


def test_without_a_judge_open_questions_are_asked_but_not_graded(made, scripted, quiet, tmp_path):
    predictor = scripted({A: "B", B: "C", C: "x"}, broken=[C])
    report = run(made([YES_NO, WHAT, OPEN], vocabulary=None), predictor, tmp_path / "o", quiet)
    assert C in predictor.asked
    assert report.metrics[1].value is None
    assert report.metrics[1].note == "undefined: open questions are not graded"
    assert report.metrics[3].value is None
    assert report.metrics[3].note == "not graded (no judge or no reference); 0 of 1 open questions answered"
    assert (report.n_scored, report.n_expected) == (2, 2)


def test_pairs_are_excluded_by_name_and_counted(made, scripted, quiet, tmp_path):
    report = run(made([YES_NO, WHAT, PAIR, JOINT]), scripted({A: "B", B: "C"}), tmp_path / "o", quiet)
    assert report.n_expected == 2
    (note,) = [n for n in report.notes if "excluded" in n]
    assert note == "2 questions about two videos excluded: a.mp4_cat_b.mp4.mp4, d.mp4"


def test_a_record_without_concern_is_in_no_concern_column(made, scripted, quiet, tmp_path):
    bare = {k: v for k, v in WHAT.items() if k != "quality_concern"}
    report = run(made([YES_NO, bare]), scripted({A: "B", B: "C"}), tmp_path / "o", quiet)
    assert [(m.name, m.n) for m in report.groups["score by quality concern"]] == [("Technical", 1)]
    (reason,) = report.limited
    assert reason.startswith("1 of 2 questions have no quality_concern")
    assert report.objections(["score by quality concern", "Technical"]) == [*report.deviations, reason]
    assert report.objections(["Overall"]) == [*report.deviations]


def test_concerns_are_joined_by_video_and_question_from_another_file(made, write_json, scripted, quiet, tmp_path):
    bare = [{k: v for k, v in record.items() if k != "quality_concern"} for record in (YES_NO, WHAT)]
    told = [{"video_name": "b.mp4", "question": "Which?", "quality_concern": ["Temporal"], "answer": "kept"},
            {"video_name": "b.mp4", "question": "Another?", "quality_concern": "AIGC"}]  # fmt: skip
    other = tmp_path / "concerns.json"
    other.write_text(json.dumps(told))
    benchmark = made(bare, concerns=str(other))
    assert [i.target["concerns"] for i in benchmark.items()] == [(), ("Temporal",)]
    assert benchmark.inputs() == (tmp_path / "qbench.json", other)
    own = made([WHAT], concerns=str(other)).items()[0]
    assert own.target["concerns"] == ("Technical", "Temporal"), "the record's own stand"
    other.write_text(json.dumps([*told, {**told[0], "quality_concern": ["AIGC"]}]))
    with pytest.raises(DataError, match=r"record 2: quality_concern: .* of the same question"):
        benchmark.items()
    other.write_text(json.dumps(told[1:]))
    with pytest.raises(DataError, match=r"qbench\.json: no question is one of those in the file of concerns"):
        benchmark.items()
    with pytest.raises(DataError, match=r"none\.json: no such file"):
        made(bare, concerns=str(tmp_path / "none.json")).items()


@pytest.mark.parametrize(
    "key", ["video_name", "question", "question_type", "video_type", "context", "answers", "correct_choice"]
)
def test_a_missing_key_names_file_record_and_key(made, key):
    broken = {k: v for k, v in WHAT.items() if k != key}
    with pytest.raises(DataError, match=rf"qbench\.json: record 1: {key}: missing"):
        made([YES_NO, broken]).items()


def test_an_open_question_without_a_reference_fails_loudly(made):
    broken = {k: v for k, v in OPEN.items() if k != "correct_answer"}
    with pytest.raises(DataError, match="record 1: correct_ans: no reference text under correct_ans, correct_answer"):
        made([YES_NO, broken], vocabulary=None).items()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"video_name": "../a.mp4"}, "video_name: ../a.mp4: leaves the data root"),
        ({"video_name": "/etc/passwd"}, "video_name: /etc/passwd: leaves the data root"),
        ({"correct_choice": "E"}, "correct_choice: one of A, B, C, D is needed, got 'E'"),
        ({"correct_choice": "AB"}, "correct_choice: one of A, B, C, D is needed"),
        ({"answers": ["one"]}, "answers: 2 to 8 options are needed, got 1"),
        ({"answers": [1, 2]}, "answers: text is needed"),
        ({"question_type": "riddle"}, "question_type: riddle is unknown; known: yes-or-no, what/how, open_ended"),
        ({"question": ""}, "question: text is needed"),
    ],
)
def test_a_malformed_value_names_record_and_key(made, change, problem):
    with pytest.raises(DataError) as caught:
        made([YES_NO, {**WHAT, **change}]).items()
    assert f"qbench.json: record 1: {problem}" in str(caught.value)


def test_files_that_are_not_lists_of_records_are_refused(made, write_json, tmp_path):
    with pytest.raises(DataError, match="a list of records is needed, got dict"):
        made({"a": 1}).items()
    with pytest.raises(DataError, match="record 0: an object is needed"):
        made(["x"]).items()
    with pytest.raises(DataError, match="no such file"):
        made([YES_NO], file=str(tmp_path / "none.json")).items()
    with pytest.raises(DataError, match="no single-video question among 1 records"):
        made([PAIR]).items()


def test_the_rule_judge_refuses_references_it_cannot_read(made):
    free = {**OPEN, "correct_answer": "The waterfall flows upwards."}
    with pytest.raises(ConfigError, match="for the embedded benchmark only, use vocabulary=null"):
        made([free]).items()


def test_pairs_are_included_by_name(made, scripted, quiet, tmp_path):
    both = {**PAIR, "context": "Compare-fine", "question": "Which is sharper?"}
    benchmark = made([YES_NO, both], pairs="include", prompt="official")
    single, pair = benchmark.items()
    assert (single.query.path.name, single.query.second) == ("a.mp4", None)
    assert (pair.query.path.name, pair.query.second.name) == ("a.mp4", "b.mp4")
    assert "The first <first_key_frames> frames" in pair.query.question
    replies = {i.query.id: "B." for i in (single, pair)}
    report = run(benchmark, scripted(replies), tmp_path / "o", quiet)
    assert {m.name: m.n for m in report.groups["score by context"]} == {"Global": 1, "Compare-fine": 1}
    assert {m.name: m.n for m in report.groups["score by number of videos"]} == {"Single": 1, "Pair": 1}
    published = run(replace(benchmark, published_n=2), scripted(replies), tmp_path / "o", quiet)
    assert published.deviations[-1] == "frames of a pair stand in one list, published under a heading each"
    assert not any("excluded" in note for note in report.notes)
    with pytest.raises(DataError, match="record 0: video_name: a question about two videos needs _cat_"):
        made([JOINT], pairs="include").items()
    with pytest.raises(ConfigError, match="pairs: prompt=vqa2 is worded for one video"):
        made([YES_NO], pairs="include", prompt="vqa2").items()


def test_published_prompts_name_frames_and_options(made):
    closed, free = (i.query.question for i in made([YES_NO, OPEN], prompt="vqa2", vocabulary=None).items())
    assert closed.startswith(
        "You will receive <key_frames> distinct frames that have been uniformly sampled in each second"
    )
    assert "all <motion_frames> frames" in closed
    assert closed.count("<video>") == closed.count("<motion>") == 1
    asked = "Please answer the question in the following format: "
    asked += "the uppercase letter of the correct answer option itself"
    assert closed.endswith(f"Blur?\nA. No\nB. Yes\n{asked} +'.'. Please do not add any other answers beyond this.")
    assert free.endswith("Why?\nPlease directly answer the question.")
    with pytest.raises(ConfigError, match="prompt=vqa2 asks for letters"):
        made([YES_NO], prompt="vqa2", reply="text").items()


def test_withheld_answers_are_asked_and_not_graded(made, scripted, quiet, tmp_path):
    bare = [{k: v for k, v in r.items() if k not in ("correct_choice", "correct_answer")} for r in (YES_NO, WHAT, OPEN)]
    predictor = scripted({A: "B", B: "C", C: "x"})
    report = run(made(bare), predictor, tmp_path / "o", quiet)
    assert predictor.asked == [A, B, C]
    assert [m.value for m in report.metrics] == [None] * 4
    assert (report.n_expected, report.marks) == (0, {})
    assert any("no right answers" in note for note in report.notes)


def test_what_is_not_comparable_is_said(made, scripted, quiet, tmp_path):
    report = run(made([YES_NO], published_n=892), scripted({A: "B"}), tmp_path / "o", quiet)
    assert report.deviations == ("1 questions, published on 892", "prompt=plain is not a published prompt")
    assert report.limited == {"open questions are not graded by a language model": ("Overall", "open")}
    official = run(made([YES_NO], prompt="official", published_n=1), scripted({A: "B"}), tmp_path / "p", quiet)
    assert official.deviations[0].startswith("frames are those the predictor takes, published with 16")


def test_without_a_judge_closed_questions_are_comparable_all_the_same(made, scripted, quiet, tmp_path):
    benchmark = made([YES_NO, WHAT, OPEN], prompt="vqa2", vocabulary=None, published_n=3)
    report = run(benchmark, scripted({A: "B", B: "C", C: "x"}), tmp_path / "o", quiet)
    assert report.deviations == ()
    closed = (["Overall (closed)"], ["score by question type", "what/how"], ["score by quality concern", "Temporal"],
              ["score by video type", "CG"])  # fmt: skip
    assert [report.objections(figure) for figure in closed] == [[]] * 4
    opened = (["Overall"], ["open"], ["score by question type", "open_ended"],
              ["score by quality concern", "Technical"], ["score by context", "Global"])  # fmt: skip
    assert {tuple(report.objections(f)) for f in opened} == {("open questions are not graded by a language model",)}
