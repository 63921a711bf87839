"""Distortion recognition: what is read from a reply, and the accuracies over it."""

import pytest

from vqa2.bench._items import chance_of
from vqa2.bench._parse import name_in
from vqa2.bench._runner import run
from vqa2.bench.distortion import Distortion
from vqa2.core.errors import DataError
from vqa2.core.records import Answer

SPATIAL = ("spatial blur", "motion blur", "noise", "blur")
TEMPORAL = ("flicker", "stuttering")
ROWS = [("noise", "noise"), ("motion blur", "motion blur"), ("flicker", "shake"), ("stuttering", "stutter")]


@pytest.mark.parametrize(
    ("reply", "name"),
    [
        ("It is noise.", "noise"),
        ("NOISE", "noise"),
        ("It is motion  blur.", "motion blur"),
        ("noise, clearly noise", "noise"),
        ("a blur", "blur"),
        ("noisy", None),
        ("", None),
        ("noise and flicker", None),
        ("motion blur, or just blur", None),
    ],
)
def test_a_reply_is_read_where_it_holds_exactly_one_name(reply, name):
    assert name_in(reply, SPATIAL + TEMPORAL) == name


@pytest.fixture
def made(write_set, make_row):
    rows = [make_row(n, "<video>\nWhich?", kind="video", distortion=d, variant=v) for n, (d, v) in enumerate(ROWS)]
    write_set("a.jsonl", rows[:2])
    root = write_set("b.jsonl", rows[2:])
    return Distortion(
        label="distortion",
        root=str(root),
        prepare=None,
        files=("a.jsonl", "b.jsonl"),
        spatial=SPATIAL,
        temporal=TEMPORAL,
        batch_size=2,
        bootstrap=30,
        seed=0,
    )


def test_accuracies_count_the_unparseable_as_wrong_and_list_it(made, scripted, quiet, tmp_path):
    replies = {"c0": "It is noise.", "c1": "I cannot say", "c2": "It is stuttering.", "c3": "It is stuttering."}
    report = run(made, scripted(replies), tmp_path / "o", quiet)
    accuracy, parsed = report.metrics
    assert (accuracy.value, accuracy.n) == (0.5, 4)
    assert (parsed.value, parsed.n) == (0.75, 4)
    assert report.failures == (("c1", "unparseable reply: 'I cannot say'"),)
    assert (report.n_scored, report.n_expected) == (3, 4)
    by_kind = {m.name: m for m in report.groups["accuracy by kind"]}
    assert {k: m.value for k, m in by_kind.items()} == {"spatial": 0.5, "temporal": 0.5}
    assert {k: chance_of(m) for k, m in by_kind.items()} == {"spatial": 0.25, "temporal": 0.5}
    assert chance_of(accuracy) == 0.375
    variants = {m.name: m.value for m in report.groups["accuracy by temporal variant"]}
    assert variants == {"shake": 0.0, "stutter": 1.0}


def test_an_item_without_an_answer_is_in_no_accuracy(made, scripted, quiet, tmp_path):
    replies = {"c0": "noise", "c1": "motion blur", "c2": "flicker", "c3": "stuttering"}
    report = run(made, scripted(replies, broken=["c2"]), tmp_path / "o", quiet)
    assert (report.metrics[0].value, report.metrics[0].n) == (1.0, 3)
    assert report.failures == (("c2", "cannot decode"),)


def test_an_unknown_distortion_is_an_error(made, write_set, make_row):
    write_set("a.jsonl", [make_row(0, "q", distortion="rain", variant="rain")])
    with pytest.raises(DataError, match=r"a\.jsonl: c0: tags\.distortion: 'rain' is unknown"):
        made.items()


def test_differences_are_paired_over_what_both_answered(made):
    right = ["noise", "motion blur", "flicker", "stuttering"]
    items = made.items()
    ours = [Answer(id=i.query.id, text=t) for i, t in zip(items, right)]
    theirs = [Answer(id="c0", error="gone"), *(Answer(id=i.query.id, text=t) for i, t in
              zip(items[1:], ["motion blur", "stuttering", "unreadable"]))]  # fmt: skip
    found = {m.name: m for m in made.compare(items, ours, theirs)}
    assert (found["accuracy"].value, found["accuracy"].n) == (pytest.approx(2 / 3), 3)
    assert found["accuracy by kind / temporal"].value == 1.0
    assert found["accuracy by kind / temporal"].note.startswith("p = 0.0645 "), (
        "2 (1 + 0) / 31: every resample is above 0"
    )
    assert found["accuracy by distortion / motion blur"].value == 0.0
    assert "accuracy by distortion / noise" not in found
    same = made.compare(items, ours, ours)[0]
    assert (same.value, same.note.split()[2]) == (0.0, "1")
    assert made.compare(items, ours, [Answer(id=i.query.id, error="x") for i in items])[0].note == "undefined: no items"
