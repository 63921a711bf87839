"""Scoring: scipy's numbers on 100 x score01, groups by tag, the stall text as the question."""

from dataclasses import replace

import pytest
from scipy import stats

from vqa2.bench._runner import run
from vqa2.bench.scoring import Scoring
from vqa2.core.errors import DataError
from vqa2.core.prompts import SCORE_QUESTION
from vqa2.core.records import Answer
from vqa2.core.scale import quality_metrics

MOS = [10.0, 25.0, 40.0, 55.0, 70.0, 85.0, 95.0, 5.0]
SCORE01 = [0.3, 0.2, 0.35, 0.5, 0.45, 0.8, 0.9, 0.1]
TABLE = {f"c{n}": s for n, s in enumerate(SCORE01)}
PLAIN = {"where": {}, "without": (), "published_n": None, "sources": ()}
NAMES = ["noise", "noise", "noise", "noise", "flicker", "flicker", "none", "none"]


@pytest.fixture
def made(write_set, make_row):
    rows = [
        make_row(n, SCORE_QUESTION, mos=m, distortion=d, mos_rule="strength" if d == "flicker" else "vmaf")
        for n, (m, d) in enumerate(zip(MOS, NAMES))
    ]
    root = write_set("s.jsonl", rows)
    return Scoring(
        label="synthetic",
        root=str(root),
        prepare=None,
        file="s.jsonl",
        where={},
        without=(),
        groups=("distortion", "mos_rule"),
        published_n=None,
        sources=(),
        batch_size=3,
        bootstrap=30,
        seed=0,
    )


def test_report_equals_scipy_on_raw_scores(made, scripted, quiet, tmp_path):
    report = run(made, scripted(TABLE), tmp_path / "o", quiet)
    found = {m.name: m for m in report.metrics}
    assert found["SRCC"].value == stats.spearmanr(SCORE01, MOS).statistic
    assert found["PLCC raw"].value == pytest.approx(stats.pearsonr(SCORE01, MOS).statistic)
    mean_square = sum((100 * s - m) ** 2 for s, m in zip(SCORE01, MOS)) / len(MOS)
    assert found["RMSE raw"].value == pytest.approx(mean_square**0.5)
    assert found["SRCC"].lo <= found["SRCC"].value <= found["SRCC"].hi


def test_groups_break_down_and_small_ones_say_so(made, scripted, quiet, tmp_path):
    groups = run(made, scripted(TABLE), tmp_path / "o", quiet).groups
    by_distortion = {m.name: m for m in groups["SRCC by distortion"]}
    assert by_distortion["noise"].value == pytest.approx(stats.spearmanr(SCORE01[:4], MOS[:4]).statistic)
    assert by_distortion["flicker"].value is None
    assert by_distortion["flicker"].note == "undefined: 2 items, 3 needed"
    assert {m.name: m.n for m in groups["SRCC by mos rule"]} == {"vmaf": 6, "strength": 2}


def test_pseudo_mos_is_called_so(made, scripted, quiet, tmp_path):
    notes = " ".join(run(made, scripted(TABLE), tmp_path / "o", quiet).notes)
    assert "pseudo-MOS, not MOS" in notes
    assert "strength 2, vmaf 6" in notes


def test_a_constant_predictor_has_no_correlation(made, scripted, quiet, tmp_path):
    report = run(made, scripted(dict.fromkeys(TABLE, 0.5)), tmp_path / "o", quiet)
    assert report.metrics[0].value is None
    assert report.metrics[0].note == "undefined: constant predictions"
    assert report.n_scored == len(MOS)


def test_points_leave_out_what_was_not_scored(made, scripted, quiet, tmp_path):
    from vqa2.bench._answers import read_answers

    run(made, scripted(TABLE, broken=["c0"]), tmp_path / "o", quiet)
    items, answers = made.items(), read_answers(tmp_path / "o" / "answers.jsonl")
    points = made.points(items, [answers[i.query.id] for i in items])
    assert [(p.predicted, p.target, p.group) for p in points][:2] == [(20.0, 25.0, "noise"), (35.0, 40.0, "noise")]
    assert len(points) == 7


def test_stall_text_is_the_question_and_rows_of_one_clip_are_noted(scripted, quiet, tmp_path, write_set, make_row):
    told = "<video>\nStalls by frame: 0110. How would you rate the quality of this video?"
    rows = [make_row(0, told, mos=30.0), make_row(1, SCORE_QUESTION, mos=60.0)]
    rows.append(rows[0].__class__(**{**rows[0].__dict__, "id": "c0-summary"}))
    root = write_set("s.jsonl", rows)
    made = Scoring(
        label="s", root=str(root), prepare=None, file="s.jsonl", groups=(), **PLAIN, batch_size=2, bootstrap=0, seed=0
    )
    predictor = scripted({"c0": 0.1, "c1": 0.2, "c0-summary": 0.3})
    report = run(made, predictor, tmp_path / "o", quiet)
    assert predictor.questions == {"c0": told, "c1": None, "c0-summary": told}
    assert any("3 rows on 2 clips" in note for note in report.notes)
    assert not any("pseudo" in note for note in report.notes)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"mos": None}, "mos: a number on 0-100 is needed"),
        ({"mos": 120.0}, "mos: a number on 0-100 is needed, got 120.0"),
        ({"media": None}, "media: a clip is needed"),
        ({"tags": {}}, "tags.distortion: missing"),
        ({"media": "../outside.mp4"}, "leaves the data root"),
    ],
)
def test_a_row_that_cannot_be_asked_is_an_error(change, problem, write_set, make_row):
    row = make_row(0, SCORE_QUESTION, mos=30.0, distortion="noise")
    root = write_set("s.jsonl", [row.__class__(**{**row.__dict__, **change})])
    made = Scoring(
        label="s",
        root=str(root),
        prepare=None,
        file="s.jsonl",
        groups=("distortion",),
        **PLAIN,
        batch_size=2,
        bootstrap=0,
        seed=0,
    )
    with pytest.raises(DataError, match=problem.replace("[", r"\[")):
        made.items()


def renamed(row, media):
    return replace(row, clip_id=f"other-{row.id}", media=media)


def variant(made, **changes):
    return replace(made, **changes)


def test_published_figures_are_comparable_with_the_same_items_only(made, scripted, quiet, tmp_path):
    whole = run(variant(made, published_n=8), scripted(TABLE), tmp_path / "a", quiet)
    assert whole.deviations == ("rows of split unnamed, published on test",)
    fewer = run(variant(made, published_n=9), scripted(TABLE, broken=["c0"]), tmp_path / "b", quiet)
    assert fewer.deviations[0] == "8 items, published on 9"
    assert fewer.deviations[2] == "1 items not scored"
    assert (whole.metrics[0].n, fewer.metrics[0].n) == (8, 7)


def test_rows_of_the_test_split_are_no_deviation(made, scripted, quiet, tmp_path, write_set, make_row):
    write_set("s.jsonl", [make_row(n, SCORE_QUESTION, mos=m, split="test") for n, m in enumerate(MOS)])
    report = run(variant(made, groups=(), published_n=8), scripted(TABLE), tmp_path / "o", quiet)
    assert report.deviations == ()


def test_clips_of_another_dataset_are_not_the_published_ones_however_many(
    made, scripted, quiet, tmp_path, write_set, make_row
):
    own = variant(made, groups=(), published_n=8, sources=("konvid_1k", "vqathinker_konvid_1k"))
    for names, found in (
        (["konvid_1k"] * 8, ()),
        (["konvid_1k"] * 4 + ["lsvq_test"] * 4, ("4 of lsvq_test",)),
        (["lsvq_test"] * 7 + [""], ("7 of lsvq_test, 1 of no named source",)),
    ):
        rows = [make_row(n, SCORE_QUESTION, mos=m, split="test") for n, m in enumerate(MOS)]
        write_set("s.jsonl", [replace(r, clip_id=f"{name}/{r.id}" if name else r.id) for r, name in zip(rows, names)])
        report = run(own, scripted(TABLE), tmp_path / "o", quiet)
        told = "published on konvid_1k or vqathinker_konvid_1k"
        assert report.deviations == tuple(f"clips of another dataset ({text}), {told}" for text in found)


def test_where_keeps_one_row_a_clip_and_without_leaves_training_clips_out(made, write_set, make_row):
    rows = [make_row(n, SCORE_QUESTION, mos=50.0, format="digits" if n % 2 else "summary") for n in range(6)]
    root = write_set("s.jsonl", rows)
    write_set("train.jsonl", [make_row(0, SCORE_QUESTION), make_row(4, "other")])
    picked = variant(made, groups=(), where={"format": "summary"})
    assert [i.query.id for i in picked.items()] == ["c0", "c2", "c4"]
    clean = variant(picked, without=(str(root / "train.jsonl"),))
    assert [i.query.id for i in clean.items()] == ["c2"]
    write_set("train.jsonl", [renamed(make_row(2, "x"), "LIVE/test/c2.mp4"), renamed(make_row(0, "x"), "c0.mp4")])
    assert [i.query.id for i in clean.items()] == ["c0", "c4"], "other ids, same folder and name; a bare name is none"
    write_set("train.jsonl", [make_row(99, SCORE_QUESTION)])
    with pytest.raises(DataError, match=r"without: no clip of .*train.jsonl"):
        clean.items()
    write_set("s.jsonl", [make_row(0, SCORE_QUESTION, mos=1.0)])
    with pytest.raises(DataError, match=r"tags.format: missing"):
        picked.items()


def test_comparison_is_paired_and_counts_what_is_left_out(made):
    items = variant(made, bootstrap=400).items()
    ours = [Answer(id=i.query.id, score01=i.target["mos"] / 100) for i in items]
    theirs = [Answer(id=i.query.id, score01=s) for i, s in zip(items, [0.9, 0.1, 0.5, 0.2, 0.8, 0.3, 0.6, 0.4])]
    difference = {m.name: m for m in variant(made, bootstrap=400).compare(items, ours, theirs)}
    assert list(difference)[:6] == ["SRCC", "PLCC raw", "PLCC logistic-4", "KRCC", "RMSE raw", "RMSE logistic-4"]
    alone = {m.name: m for m in quality_metrics([100 * a.score01 for a in theirs], MOS, bootstrap=0, seed=0)}
    ideal = {m.name: m for m in quality_metrics(MOS, MOS, bootstrap=0, seed=0)}
    for name in ("PLCC logistic-4", "RMSE logistic-4"):
        assert difference[name].value == pytest.approx(ideal[name].value - alone[name].value, abs=1e-3)
    noise = stats.spearmanr([0.9, 0.1, 0.5, 0.2], MOS[:4]).statistic
    of_noise = difference["SRCC by distortion / noise"]
    assert (of_noise.value, of_noise.n) == (pytest.approx(1 - noise), 4)
    assert difference["SRCC by distortion / none"].note.startswith("undefined: 2 items")
    rho = stats.spearmanr([a.score01 for a in theirs], MOS).statistic
    assert difference["SRCC"].value == pytest.approx(1 - rho)
    assert difference["SRCC"].lo > 0
    assert difference["SRCC"].note.startswith("p = 0.0")
    same = variant(made, bootstrap=400).compare(items, ours, [Answer(id="c0", error="gone"), *ours[1:]])
    assert (same[0].value, same[0].n) == (0.0, 7)
    assert same[0].note.startswith("p = 1 ")
    assert same[0].note.endswith("1 items that not both sides scored left out")
