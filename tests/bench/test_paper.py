"""Paper tables: states of cells, differences between comparable figures only, the four forms, every YAML of conf/."""

import csv
import io
import re
import shlex
from functools import cache

import pytest

from vqa2.bench._paper import PUBLISHED, Column, PaperTable, Row, make_cells, read_published
from vqa2.bench._paper_text import as_csv, latex, markdown, page
from vqa2.bench._runner import run, write_report
from vqa2.bench.scoring import Scoring
from vqa2.core.config import decode
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.prompts import SCORE_QUESTION
from vqa2.core.records import Metric, Report
from vqa2.launch import composed, conf_dir, options, split_arguments
from vqa2.tables import TableRun
from vqa2.tables import main as table_main

TABLES = options("table")
TINY = sorted(p.stem for p in (conf_dir() / "table" / "tiny").glob("*.yaml"))


def table(**changes):
    values = {
        "title": "T & co",
        "note": "raw",
        "published": "vqa2_table8_mixture_scoring.csv",
        "key": ("dataset", "metric"),
        "digits": 3,
        "produce": False,
        "columns": {f"{d} {m}": Column(benchmark=d, metric=("SRCC",) if m == "srcc" else ("PLCC raw",), scale=1.0)
                    for d in ("live-vqc", "lsvq-1080p", "lsvq-test", "konvid-1k") for m in ("srcc", "plcc")},
        "measured": {"Mix": Row(run="mix", minus=None, commands=("python eval.py run=mix benchmark={benchmark}",))},
    }  # fmt: skip
    return PaperTable(**(values | changes))


@pytest.fixture
def konvid(write_set, make_row, scripted, quiet, tmp_path):
    """Evaluates predictions of a known SRCC on `count` clips under the published protocol of 10."""

    def evaluate(count=10, label="konvid-1k", split="test", broken=()):
        rows = [make_row(n, SCORE_QUESTION, mos=9.0 * n, split=split) for n in range(count)]
        root = write_set("s.jsonl", rows)
        made = Scoring(label=label, root=str(root), prepare=None, file="s.jsonl", where={}, without=(), groups=(),
                       published_n=10, batch_size=4, bootstrap=50, seed=0)  # fmt: skip
        order = [0.1, 0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]  # one swap of neighbours: SRCC = 1 - 12 / 990
        predictor = scripted({f"c{n}": order[n] for n in range(count)}, broken=broken)
        return run(made, predictor, tmp_path / "out" / f"{label}-{count}-{split}-{len(broken)}", quiet)

    return evaluate


def cell(report, column="konvid-1k srcc"):
    cells = make_cells(table(), lambda run, b: report if (run, b) == ("mix", "konvid-1k") else None, lambda b: [])
    return next(c for c in cells if (c.row, c.column) == ("Mix", column))


def test_predictions_of_known_srcc_fill_their_cell(konvid):
    made = cell(konvid())
    assert made.state == "measured"
    assert made.metric.value == pytest.approx(1 - 12 / 990)
    assert made.metric.n == 10
    assert made.published == 0.895
    assert made.difference == pytest.approx(1 - 12 / 990 - 0.895)


def test_one_item_less_changes_n_and_marks_the_cell(konvid):
    fewer = cell(konvid(count=9))
    assert (fewer.state, fewer.metric.n, fewer.difference) == ("not comparable", 9, None)
    assert fewer.reason == "9 items, published on 10"
    failed = cell(konvid(broken=["c3"]))
    assert (failed.state, failed.metric.n, failed.reason) == ("not comparable", 9, "1 items not scored")


def test_another_split_or_benchmark_is_refused(konvid):
    assert cell(konvid(split="train")).reason == "rows of split train, published on test"
    other = cell(konvid(label="lsvq-test"))
    assert (other.state, other.reason) == ("not comparable", "a report of lsvq-test, not of konvid-1k")


def test_undefined_and_absent_metrics_are_refused():
    nothing = Metric(name="SRCC", value=None, n=5, note="undefined: constant predictions")
    report = Report(benchmark="konvid-1k", predictor="p", metrics=(nothing,), n_expected=5, n_scored=5)
    assert cell(report).reason == "undefined: constant predictions"
    assert cell(report, "konvid-1k plcc").reason == "the report has no PLCC raw"


def test_cells_without_a_report_say_what_is_missing_and_how_to_get_it():
    cells = make_cells(table(), lambda run, b: None, lambda b: [f"data/{b}/x.jsonl"])
    mix = next(c for c in cells if c.row == "Mix" and c.column == "lsvq-test srcc")
    assert mix.state == "not run"
    assert mix.reason == "needs data/lsvq-test/x.jsonl; run python eval.py run=mix benchmark=lsvq-test"
    assert {c.state for c in cells if c.row == "Sequential"} == {"published only"}
    assert len(cells) == 16


def test_published_columns_must_be_known():
    with pytest.raises(DataError, match="'live-vqc plcc' is no column"):
        read_published(table(columns={"live-vqc srcc": Column(benchmark="b", metric=("SRCC",), scale=1.0)}))


def test_forms_agree_and_escape(konvid):
    report = konvid()
    made = table()
    cells = make_cells(made, lambda run, b: report if b == "konvid-1k" else None, lambda b: [])
    text = markdown(made, cells)
    assert re.search(r"\| measured here \|.*not run.*\| 0\.988 \|", text)
    assert "| Mix | konvid-1k srcc | 0.895 | 0.988 | +0.093 |" in text
    assert r"T \& co" in latex(made, cells)
    assert latex(made, cells).count(r"\\") == (1 + 3) + (1 + 2), "two grids: the paper's, and the cells with a value"
    assert r"Mix & konvid-1k srcc & 0.895 & 0.988 & +0.093" in latex(made, cells)
    odd = table(title=r"50 % of a_b {$x$} \ ~^", columns=made.columns)
    assert r"\caption{50 \% of a\_b \{\$x\$\} \textbackslash{} \textasciitilde{}\textasciicircum{}. raw}" in latex(
        odd, cells
    )
    assert "T &amp; co" in page(made, cells)
    rows = list(csv.DictReader(io.StringIO(as_csv(cells))))
    row = next(r for r in rows if (r["row"], r["column"]) == ("Mix", "konvid-1k srcc"))
    assert float(row["measured"]) == report.metrics[0].value
    assert (row["n"], row["state"]) == ("10", "measured")
    assert len(rows) == 16


def test_figures_that_must_not_be_compared_stand_in_brackets(konvid):
    report = konvid(count=9)
    cells = make_cells(table(), lambda run, b: report if b == "konvid-1k" else None, lambda b: [])
    assert re.search(r"\| measured here \|.*\| \(0\.983\) \|", markdown(table(), cells))


@pytest.mark.parametrize("name", [*TABLES, *(f"tiny/{n}" for n in TINY)])
def test_every_table_decodes_covers_its_csv_and_names_commands_that_compose(name):
    made = decode(TableRun, composed("table", [f"table={name}", "name=x"]), "table").table
    cells = make_cells(made, lambda run, b: None, lambda b: [])
    if made.published:
        lines = (PUBLISHED / made.published).read_text().splitlines()
        assert sum(c.published is not None for c in cells) == len(lines) - 1, "no published value is lost or doubled"
    assert made.produce == name.startswith("tiny/")
    for found in cells:
        if found.state == "not run":
            assert found.column in made.columns
            for command in found.reason.removeprefix("run ").split(" && "):
                check_command(command)


@cache
def check_command(command):
    words = shlex.split(command)
    assert words[0] == "python"
    config = words[1].removesuffix(".py")
    assert config in ("train", "eval")
    composed(config, [w for w in split_arguments(words[2:]) if w != "stage=all"])


def test_main_writes_four_files_from_reports_on_disk(konvid, tmp_path, capsys):
    write_report(tmp_path / "runs" / "paper" / "eval" / "konvid-1k" / "report.json", konvid())
    where = [f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'tables'}"]
    table_main(["table=vqa2-2", *where])
    assert sorted(p.suffix for p in (tmp_path / "tables").iterdir()) == [".csv", ".html", ".md", ".tex"]
    text = (tmp_path / "tables" / "vqa2-2.md").read_text()
    assert "| UGC-scorer | konvid-1k srcc | 0.894 | 0.988 | +0.094 |" in text
    needs = (
        "needs data/lsvq-test/scoring_ugc.test.jsonl (`python -m data_prep source=vqathinker_lsvq_test set=scoring_ugc"
    )
    assert f"{needs} out=data/lsvq-test`); run python train.py stage=scoring preset=paper train_missing=true" in text
    assert capsys.readouterr().out.startswith("# VQA², table 2")
    with pytest.raises(ConfigError, match=r"table=vqa-2: no such table \(did you mean 'vqa2-2'\?\)"):
        table_main(["table=vqa-2"])


def test_the_preset_chooses_between_embedded_and_published(tmp_path, capsys):
    table_main(["table=vqa2-7", "preset=paper", f"runs={tmp_path}", f"out={tmp_path}"])
    assert capsys.readouterr().out.startswith("# VQA², table 7")
    assert (tmp_path / "vqa2-7.md").is_file()
    table_main(["table=vqa2-7", "table.produce=false", f"runs={tmp_path}", f"out={tmp_path}"])
    assert capsys.readouterr().out.startswith("# Embedded data: VQA², table 7")
    table_main(["table=vqa2-2", "preset=tiny", f"runs={tmp_path}", f"out={tmp_path}"])
    assert capsys.readouterr().out.startswith("# VQA², table 2"), "no embedded counterpart: the published table"
    with pytest.raises(ConfigError, match=r"preset=papr: no such preset \(did you mean 'paper'\?\)"):
        table_main(["table=vqa2-7", "preset=papr"])


def test_the_tables_of_the_papers_are_all_there():
    assert {f"vqa2-{n}" for n in range(2, 10)} <= set(TABLES)
    assert {f"vqathinker-{n}" for n in ("1", "qbench", "reasoning")} <= set(TABLES)
    assert {"qrouter-qbench", *(f"agenticiqa-{n}" for n in range(1, 5))} <= set(TABLES)
    assert set(TINY) == {"vqathinker-reasoning", *(f"vqa2-{n}" for n in (6, 7, 8, 9))}
    used = {decode(TableRun, composed("table", [f"table={n}", "name=x"]), "t").table.published for n in TABLES}
    assert {p.name for p in PUBLISHED.glob("*.csv")} == used - {None}


def test_produce_runs_the_commands_and_stops_at_a_failure(tmp_path, capsys, write_set, make_row):
    """Two predictions files of known SRCC through eval.py itself: an ablation's table from nothing."""
    root = write_set("scoring_ugc.test.jsonl", [make_row(n, SCORE_QUESTION, mos=10.0 * n, distortion="noise",
                                                         mos_rule="vmaf") for n in range(6)])  # fmt: skip
    arms = []
    for name, order in (("right", [0, 1, 2, 3, 4, 5]), ("swapped", [1, 0, 2, 3, 4, 5])):
        rows = [f'{{"id": "c{n}", "score01": {0.1 * order[n]}}}\n' for n in range(6)]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
        command = (
            f"python eval.py benchmark=synthetic benchmarks.synthetic.root={root} predictor=saved "
            f"predictor.answers={tmp_path / name}.jsonl runs={tmp_path} run={name} samples=0"
        )
        arms.append(f'{name}: {{run: {name}, minus: null, commands: ["{command}"]}}')
    saved = f"{tmp_path}/right/eval/synthetic/answers.jsonl"
    command = command.replace("samples=0", f"samples=0 against={saved}")
    arms[1] = arms[1].replace("samples=0", f"samples=0 against={saved}")
    arms.append(f'difference: {{run: swapped, minus: {saved}, commands: ["{command}"]}}')
    where = [f"runs={tmp_path}", f"out={tmp_path / 'tables'}"]
    table_main(["table=vqa2-6", "~table.measured", f"+table.measured={{{', '.join(arms)}}}", *where])
    shown = capsys.readouterr().out
    assert "swapped | synthetic srcc | – | 0.943 | – |" in shown
    difference = next(line for line in shown.splitlines() if line.startswith("| difference | synthetic srcc |"))
    assert re.search(r"\| – \| -0\.057 \| – \| .+ … .+ \| 6 \| measured \| p = .+ \(paired bootstrap", difference)
    assert (tmp_path / "tables" / "vqa2-6-tiny.csv").is_file()
    broken = "{wrong: {run: wrong, minus: null, commands: [python no-such-file.py]}}"
    with pytest.raises(DataError, match=r"`python no-such-file.py` failed \(exit code 2\)"):
        table_main(["table=vqa2-6", "~table.measured", f"+table.measured={broken}", *where])
