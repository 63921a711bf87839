"""Tables and the page hold the numbers, the counts and the failures, and nothing from elsewhere."""

import io
import json
import re

import pytest
from PIL import Image
from rich.console import Console

from vqa2.bench._figures import loss_curves, read_metrics, reward_curves
from vqa2.bench._items import Item
from vqa2.bench._matrix import Row
from vqa2.bench._matrix import markdown as matrix_markdown
from vqa2.bench._report import duration, write_html
from vqa2.bench._samples import draw, thumbnail, worst
from vqa2.bench._summary import Point, RunSummary, Sample, Stage
from vqa2.bench._table import markdown, table, write_markdown
from vqa2.bench._wandb import log_tables
from vqa2.core.errors import DataError, MediaError
from vqa2.core.records import Answer, Metric, Query, Report

REPORT = Report(
    benchmark="synthetic",
    predictor="runs/x",
    metrics=(
        Metric(name="SRCC", value=0.8125, n=118, lo=0.7512, hi=0.8694),
        Metric(name="KRCC", value=None, n=118, note="undefined: constant predictions"),
    ),
    n_expected=120,
    n_scored=118,
    failures=(("clip-7", "cannot decode <frame>"), ("clip-9", "no such file")),
    groups={
        "accuracy by distortion": (Metric(name="noise", value=0.625, n=8, lo=0.25, hi=0.875, note="chance 0.091"),)
    },
    notes=("raw scores",),
    deviations=("120 items, published on 7182",),
    provenance={"items": "f00d", "sessions": [{"processes": 2, "predictor": {"name": "runs/x"}}]},
)


def ability(value, lo, hi):
    return Metric(name="SRCC", value=value, n=60, lo=lo, hi=hi)


MATRIX = (
    Row(stage="base", after=None, step=9, abilities={"scoring": ability(0.1, 0.0, 0.2), "words": None},
        larger={"scoring": True, "words": True}),
    Row(stage="scoring", after="base", step=8, abilities={"scoring": ability(0.7, 0.6, 0.8), "words": ability(1, 1, 1)},
        larger={"scoring": True, "words": True}),
    Row(stage="grpo", after="scoring", step=7, abilities={"scoring": ability(0.4, 0.3, 0.5), "words": ability(1, 1, 1)},
        larger={"scoring": True, "words": True}),
)  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("page")
    rows = [
        {"step": s, "loss": 3.0 / s, "reward": s / 10, "rewards/bell/mean": 0.5, "parse_rate": 1.0} for s in (1, 2, 3)
    ]
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(r) + "\n" for r in rows))
    run = RunSummary(
        data_note="pseudo-MOS is not MOS",
        stages=(
            Stage(name="grpo", metrics=metrics, seconds=200.0, numbers={"train_loss": 0.44837, "rows": 1876}),
            Stage(name="base", metrics=tmp_path / "none.jsonl", seconds=None, numbers={}),
        ),
        points={"synthetic": [Point(predicted=10.0 * n, target=9.0 * n, group="noise") for n in range(9)]},
        samples=(
            Sample(id="a", question="Which?\nA. a", reference="noise", reply="<b>blur", mark=0.0, thumbnail=picture()),
            Sample(id="b", question="Why?", reference="r", reply="", mark=None),
        ),
        worst={
            "synthetic": [
                Sample(id="c", question="c.mp4", reference="63.0", reply="21.5", mark=0.585, thumbnail=picture())
            ]
        },
        abilities=MATRIX,
        samples_note="random draw, seed 0",
        ablation={"full": (REPORT,), "no motion": ()},
        environment={"python": "3.11", "git": {"commit": "abc123", "dirty": True}},
        config="stage:\n  lr: 0.001",
    )
    write_html(tmp_path / "out" / "report.html", "Run of today", [REPORT], run)
    return (tmp_path / "out" / "report.html").read_text()


def picture():
    out = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(out, "JPEG")
    return out.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "Run of today", "pseudo-MOS is not MOS", "0.812", "0.751 … 0.869", "118 / 120",
        "undefined: constant predictions",
        "clip-7", "cannot decode &lt;frame&gt;", "no such file", "0.625", "chance 0.091", "raw scores", "3 min 20 s",
        "0.4484", "1,876", "No metrics.jsonl: base", "no motion", "&lt;b&gt;blur", "(empty)", "not graded", "wrong",
        "random draw, seed 0", "abc123", "lr: 0.001", "118 of 120 items scored, 2 failures listed below",
        "120 items, published on 7182", "f00d", "off by 41.5", "Worst answers", "Stages and abilities",
        '<span class="pill good">gained</span>', '<span class="pill bad">lost</span>',
    ],
)  # fmt: skip
def test_the_page_contains_numbers_counts_failures_and_provenance(page, text):
    assert text in re.sub(r"\s+", " ", page) or text in page


def test_the_page_loads_nothing_from_elsewhere(page):
    sources = re.findall(r'(?:src|href)="([^"]{1,22})', page)
    assert len(sources) == 6  # scatter, bars, losses, rewards, two thumbnails
    assert all(s.startswith("data:image/") for s in sources)
    assert not re.search(r"<script[^>]|<link|@import|url\(|fetch\(|https?://", page)


def test_tables_can_be_sorted(page):
    assert page.count('class="metrics sortable"') == 2
    assert page.count("<script>") == 1
    # The script sorts by the number behind a cell where its text is more than the number.
    assert 'data-value="0.7"' in page


def test_the_matrix_tells_what_a_stage_has_lost():
    text = matrix_markdown(MATRIX)
    assert "| scoring | base | 0.700 (0.600 … 0.800, n 60), gained | 1.000 (1.000 … 1.000, n 60) |" in text
    assert "| grpo | scoring | 0.400 (0.300 … 0.500, n 60), lost |" in text
    assert "| base | – | 0.100 (0.000 … 0.200, n 60) | not measured |" in text


def test_the_same_run_gives_the_same_figure(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    stage = Stage(name="grpo", metrics=tmp_path / "m.jsonl", seconds=1.0, numbers={})
    assert loss_curves([stage]) == loss_curves([stage])


def test_a_page_of_reports_alone(tmp_path):
    write_html(tmp_path / "r.html", "t", [REPORT], RunSummary(data_note="n"))
    assert "Training" not in (tmp_path / "r.html").read_text()


def test_curves_are_absent_where_nothing_was_logged(tmp_path):
    assert read_metrics(tmp_path / "none.jsonl") == []
    assert reward_curves([{"step": 1, "loss": 2.0}]) is None
    (tmp_path / "m.jsonl").write_text('{"step": 1}\n{"loss": 2}\n')
    with pytest.raises(DataError, match=r"m\.jsonl:2: step: missing"):
        read_metrics(tmp_path / "m.jsonl")


def test_the_terminal_table_shows_interval_n_and_coverage():
    out = io.StringIO()
    Console(file=out, width=160).print(table([REPORT]))
    line = next(line for line in out.getvalue().splitlines() if "SRCC" in line)
    for text in ("0.812", "0.751 … 0.869", "118", "118 / 120"):
        assert text in line


def test_markdown_lists_groups_notes_and_failures(tmp_path):
    write_markdown(tmp_path / "r.md", [REPORT])
    text = (tmp_path / "r.md").read_text()
    assert text == markdown([REPORT])
    assert "| synthetic | runs/x | SRCC | 0.812 | 0.751 … 0.869 | 118 | 118 / 120 |  |" in text
    assert "| noise | 0.625 | 0.250 … 0.875 | 8 | chance 0.091 |" in text
    assert "### 2 not scored" in text
    assert "- clip-9: no such file" in text


@pytest.mark.parametrize(("seconds", "text"), [(None, "–"), (12.4, "12 s"), (200, "3 min 20 s"), (3725, "1 h 02 min")])
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


def test_samples_are_a_seeded_draw_with_marks_and_pictures(tmp_path):
    Image.new("RGB", (64, 48), "blue").save(tmp_path / "a.png")
    names = ["a.png", "gone.png", "a.png", "a.png"]
    items = [
        Item(query=Query(id=str(n), path=tmp_path / f, kind="image", question="<video>\nWhat?"), mode="answer",
             target={"reference": "x"})
        for n, f in enumerate(names)
    ]  # fmt: skip
    answers = [Answer(id="0", text="x"), Answer(id="1", text="y"), Answer(id="2", error="e"), Answer(id="3", text="x")]
    marks, pairs = {"0": 1.0, "1": 0.0, "3": 0.5}, list(zip(items, answers))
    drawn = draw(pairs, marks, count=9, seed=0)
    assert [(s.reply, s.mark, s.thumbnail is None) for s in drawn] == [
        ("x", 1.0, False), ("y", 0.0, True), ("x", 0.5, False)]  # fmt: skip
    assert drawn[0].question == "What?"
    assert Image.open(io.BytesIO(drawn[0].thumbnail)).size == (160, 120)
    assert draw(pairs, marks, count=2, seed=1) == draw(pairs, marks, count=2, seed=1)
    assert [s.id for s in worst(pairs, marks, count=2, seed=0)] == ["1", "3"]


def test_the_worst_scores_are_those_furthest_off(tmp_path):
    items = [
        Item(query=Query(id=str(n), path=tmp_path / f"{n}.mp4", kind="video"), mode="score", target={"mos": 50.0})
        for n in range(3)
    ]
    pairs = [(i, Answer(id=i.query.id, score01=s)) for i, s in zip(items, (0.5, 0.9, 0.3))]
    found = worst(pairs, {"0": 1.0, "1": 0.6, "2": 0.8}, count=2, seed=0)
    assert [(s.id, s.question, s.reference, s.reply) for s in found] == [
        ("1", "1.mp4", "50.0", "90.0"), ("2", "2.mp4", "50.0", "30.0")]  # fmt: skip


def test_tables_go_to_weights_and_biases(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    sample = Sample(id="c", question="q", reference="r", reply="x", mark=0.0, thumbnail=picture())
    log_tables("p", "n", [REPORT], {"synthetic": [sample]}, tmp_path)
    (found,) = (tmp_path / "wandb").glob("offline-run-*")
    tables = {p.name.split("_")[0]: json.loads(p.read_text()) for p in found.rglob("*.table.json")}
    assert tables["metrics"]["data"][0][:6] == ["synthetic", "runs/x", "", "SRCC", 0.8125, 0.7512]
    assert [row[3] for row in tables["metrics"]["data"]] == ["SRCC", "KRCC", "noise"]
    assert tables["worst"]["data"][0][1] == "c"
    assert "Image" in tables["worst"]["data"][0][2]


def test_a_file_without_pictures_has_no_thumbnail(tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"no video")
    with pytest.raises(MediaError):
        thumbnail(tmp_path / "x.mp4", 8)
