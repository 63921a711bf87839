"""The two predictors without a model: constant, and answers from disk."""

import hashlib
import json

import pytest

from vqa2.bench._runner import run
from vqa2.bench.scoring import Scoring
from vqa2.core.config import build
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.prompts import SCORE_QUESTION
from vqa2.core.records import Query
from vqa2.launch import composed


def saved(path):
    return build("predictor", {"name": "saved", "answers": str(path)}, "predictor").open()


def ask(path, ids):
    return [Query(id=i, path=path / i, kind="video") for i in ids]


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_constant_answers_alike_but_not_for_a_missing_file(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    made = build("predictor", {"name": "constant", "score01": 0.25, "text": "B."}, "predictor").open()
    there, absent = made.score(ask(tmp_path, ["a", "b"]))
    assert (there.score01, absent.score01, absent.error) == (0.25, None, "no such file")
    assert [a.text for a in made.answer(ask(tmp_path, ["a", "b"]))] == ["B.", None]


def test_constant_scores_lie_in_range():
    with pytest.raises(ConfigError, match=r"predictor\.score01"):
        build("predictor", {"name": "constant", "score01": 1.5, "text": ""}, "predictor")


def test_saved_answers_by_id_and_says_what_is_missing(tmp_path):
    file = lines(
        tmp_path / "p.jsonl", [{"id": "a", "score01": 0.5}, {"id": "b", "text": "x"}, {"id": "c", "error": "bad"}]
    )
    scores = saved(file).score(ask(tmp_path, ["a", "b", "c", "d"]))
    assert [(s.score01, s.error) for s in scores] == [
        (0.5, None),
        (None, "no saved score01"),
        (None, "bad"),
        (None, "no saved answer"),
    ]


def test_rows_of_one_id_complete_each_other_and_may_not_differ(tmp_path):
    lines(tmp_path / "s" / "answers.jsonl", [{"id": "a", "score01": 0.5}])
    lines(tmp_path / "t" / "answers.jsonl", [{"id": "a", "text": "noise"}])
    both = saved(tmp_path)
    assert (both.score(ask(tmp_path, ["a"]))[0].score01, both.answer(ask(tmp_path, ["a"]))[0].text) == (0.5, "noise")
    lines(tmp_path / "u.jsonl", [{"id": "a", "score01": 0.6}])
    with pytest.raises(DataError, match=r"u\.jsonl:1: a: score01: two different saved answers"):
        saved(tmp_path)


def test_a_later_value_mends_a_saved_error(tmp_path):
    file = lines(tmp_path / "p.jsonl", [{"id": "a", "error": "bad"}, {"id": "a", "score01": 0.5}])
    assert saved(file).score(ask(tmp_path, ["a"]))[0].score01 == 0.5


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"id": "a", "scor01": 0.5}, "p.jsonl:1: scor01: unknown key"),
        ({"id": "a"}, "p.jsonl:1: a: one of text, score01 and error is needed"),
        ({"id": "a", "score01": "high"}, "p.jsonl:1: score01"),
        ([1], "p.jsonl:1: not a JSON object"),
    ],
)
def test_malformed_rows_name_file_and_line(tmp_path, row, problem):
    with pytest.raises(DataError) as caught:
        saved(lines(tmp_path / "p.jsonl", [row]))
    assert problem in str(caught.value)


def test_nothing_saved_is_an_error(tmp_path):
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(DataError, match="no saved answers here"):
            saved(path)


def test_the_answers_of_an_evaluation_replay_to_the_same_numbers(tmp_path, scripted, quiet, write_set, make_row):
    root = write_set("s.jsonl", [make_row(n, SCORE_QUESTION, mos=20.0 * n) for n in range(5)])
    made = Scoring(label="s", root=str(root), prepare=None, file="s.jsonl", where={}, without=(), groups=(),
                   published_n=None, sources=(), batch_size=2, bootstrap=20, seed=0)  # fmt: skip
    table = {f"c{n}": s for n, s in enumerate([0.3, 0.2, 0.4, 0.9, 0.8])}
    first = run(made, scripted(table, broken=["c2"]), tmp_path / "o", quiet)
    replayed = run(made, saved(tmp_path / "o" / "answers.jsonl"), tmp_path / "again", quiet)
    assert (replayed.metrics, replayed.failures) == (first.metrics, first.failures)


def test_predictors_without_a_model_say_what_they_answer_from(tmp_path):
    file = lines(tmp_path / "p.jsonl", [{"id": "a", "text": "x"}])
    assert saved(file).provenance == {"answers": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    drawn = {"seed": 3, "reply": "letter", "replies": ["x"]}
    assert build("predictor", {"name": "random", **drawn}, "p").open().provenance == {**drawn, "replies": ("x",)}
    same = {"score01": 0.5, "text": "B"}
    assert build("predictor", {"name": "constant", **same}, "p").open().provenance == same
    tool = composed("eval", ["predictor=expert", "expert@predictor.expert=blur"])["predictor"]
    assert build("predictor", tool, "p").open().provenance == {"expert": tool["expert"]}


def test_the_fingerprint_follows_the_content(tmp_path):
    one = saved(lines(tmp_path / "p.jsonl", [{"id": "a", "text": "x"}])).fingerprint
    assert saved(lines(tmp_path / "p.jsonl", [{"id": "a", "text": "y"}])).fingerprint != one
