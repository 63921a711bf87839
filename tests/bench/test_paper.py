"""Paper tables: states of cells, differences between comparable figures only, means, every YAML of conf/."""

import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import typer

from data_prep.run import DataPrepRun
from vqa2 import cli
from vqa2.bench._paper import PUBLISHED, Besides, Column, Model, Row, make_cells, origins, read_published
from vqa2.core.config import build, decode
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.records import Metric, Report
from vqa2.evaluate import EvalRun
from vqa2.experts.measure import ExpertsCommand
from vqa2.launch import composed, conf_dir, options, split_arguments
from vqa2.tables import TableRun, missing_files
from vqa2.train.plan import TrainRun

TABLES = options("table")
TINY = sorted(p.stem for p in (conf_dir() / "table" / "tiny").glob("*.yaml"))
ALL = [*TABLES, *(f"tiny/{n}" for n in TINY)]


def nothing(run, benchmark):
    return None


@cache
def layout(name):
    return decode(TableRun, composed("table", [f"table={name}", "name=x"]), "table").table


@pytest.fixture
def cell(paper_table):
    def make(report, column="konvid-1k srcc", **changes):
        made = paper_table(**changes)
        cells = make_cells(made, lambda run, b: report if (run, b) == ("mix", "konvid-1k") else None, lambda b: [])
        return next(c for c in cells if (c.row, c.column) == ("Mix", column))

    return make


def test_predictions_of_known_srcc_fill_their_cell(konvid, cell):
    made = cell(konvid())
    assert made.state == "measured"
    assert made.metric.value == pytest.approx(1 - 12 / 990)
    assert made.metric.n == 10
    assert made.published == 0.895
    assert made.difference == pytest.approx(1 - 12 / 990 - 0.895)


def test_one_item_less_changes_n_and_marks_the_cell(konvid, cell):
    fewer = cell(konvid(count=9))
    assert (fewer.state, fewer.metric.n, fewer.difference) == ("not comparable", 9, None)
    assert fewer.reason == "9 items, published on 10"
    failed = cell(konvid(broken=["c3"]))
    assert (failed.state, failed.metric.n, failed.reason) == ("not comparable", 9, "1 items not scored")


def test_another_split_benchmark_or_number_of_frames_is_refused(konvid, cell):
    assert cell(konvid(split="train")).reason == "rows of split train, published on test"
    other = cell(konvid(label="lsvq-test"))
    assert (other.state, other.reason) == ("not comparable", "a report of lsvq-test, not of konvid-1k")
    short = cell(konvid(short=["c1", "c2"]))
    assert (short.state, short.reason) == ("not comparable", "2 items lost key frames to fit the model")


def test_a_table_without_published_figures_still_tells_failures(konvid, cell):
    own = cell(konvid(broken=["c3"]), published=None)
    assert (own.state, own.published, own.difference) == ("measured", None, None)
    assert own.reason == "1 of 10 items not scored"


def test_undefined_and_absent_metrics_are_refused(cell):
    undefined = Metric(name="SRCC", value=None, n=5, note="undefined: constant predictions")
    report = Report(benchmark="konvid-1k", predictor="p", metrics=(undefined,), n_expected=5, n_scored=5)
    assert cell(report).reason == "undefined: constant predictions"
    assert cell(report, "konvid-1k plcc").reason == "the report has no PLCC raw"


def test_cells_without_a_report_say_what_is_missing_and_how_to_get_it(paper_table, tmp_path):
    (tmp_path / "here").touch()
    needs = {str(tmp_path / "here"): "python make.py here", "gone": "python make.py gone"}
    row = Row(run="mix", of=None, minus=None, model=Model(needs=needs, commands=("python train.py first",)),
              commands=("python eval.py run=mix benchmark={benchmark}",))  # fmt: skip
    made = paper_table(measured={"Mix": row}, commands=("python train.py",))
    cells = make_cells(made, nothing, lambda b: [(f"data/{b}", f"python prep.py {b}"), ("x.json", None)])
    mix = next(c for c in cells if c.row == "Mix" and c.column == "lsvq-test srcc")
    assert mix.state == "not run"
    assert mix.missing == ("data/lsvq-test", "x.json (obtain it: docs/evaluation.md)", "gone")
    assert mix.commands == ("python prep.py lsvq-test", "python make.py gone", "python train.py first",
                            "python train.py", "python eval.py run=mix benchmark=lsvq-test")  # fmt: skip
    assert {c.state for c in cells if c.row == "Sequential"} == {"published only"}
    assert len(cells) == 16


def test_figures_that_need_more_say_so_in_missing_files_and_commands(paper_table):
    more = Besides(benchmarks=("live-vqc",), figures=("PLCC raw",), needs={"gone.json": None}, words="llm=http")
    cells = make_cells(paper_table(besides=(more,)), nothing, lambda b: [])
    found = {c.column: (c.missing, c.commands) for c in cells if c.row == "Mix"}
    assert found["live-vqc plcc"] == (("gone.json (obtain it: docs/evaluation.md)",),
                                      ("python eval.py run=mix benchmark=live-vqc llm=http",))  # fmt: skip
    assert found["live-vqc srcc"] == ((), ("python eval.py run=mix benchmark=live-vqc",))
    assert found["konvid-1k plcc"] == ((), ("python eval.py run=mix benchmark=konvid-1k",))


def test_a_reason_for_some_figures_leaves_the_others_comparable(konvid, paper_table):
    report = replace(konvid(), limited={"another judge": ("PLCC raw", "by type / open")})
    cells = make_cells(paper_table(), lambda run, b: report if b == "konvid-1k" else None, lambda b: [])
    states = {c.column: (c.state, c.reason) for c in cells if c.row == "Mix" and c.column.startswith("konvid")}
    assert states["konvid-1k srcc"][0] == "measured"
    assert states["konvid-1k plcc"] == ("not comparable", "another judge")
    assert report.objections(["by type", "open"]) == ["another judge"]
    assert report.objections(["by type", "closed"]) == []


def test_published_columns_must_be_known_and_single(paper_table, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="'live-vqc plcc' is no column"):
        read_published(paper_table(columns={"live-vqc srcc": Column(benchmark="b", metric=("SRCC",), scale=1.0)}))
    monkeypatch.setattr("vqa2.bench._paper.PUBLISHED", tmp_path)
    (tmp_path / "twice.csv").write_text("model,dataset,metric,value\n" + "Mix,live-vqc,srcc,0.5\n" * 2)
    with pytest.raises(DataError, match=r"twice\.csv: two values of Mix / live-vqc srcc"):
        read_published(paper_table(published="twice.csv"))


def test_means_are_made_alike_from_published_and_measured_figures(konvid, paper_table):
    weights = {"lsvq-test srcc": 3.0, "konvid-1k srcc": 1.0}
    made = paper_table(means={"mean srcc": weights})

    def means(reports):
        cells = make_cells(made, lambda run, b: reports.get(b), lambda b: [])
        return {c.row: c for c in cells if c.column == "mean srcc"}

    report = konvid()
    both = {"konvid-1k": report, "lsvq-test": replace(report, benchmark="lsvq-test")}
    found = means(both)
    assert found["Sequential"].published == pytest.approx((3 * 0.882 + 0.883) / 4)
    assert found["Sequential"].state == "published only"
    mix = found["Mix"]
    assert (mix.state, mix.metric.n, mix.metric.lo) == ("measured", 20, None)
    assert mix.metric.value == pytest.approx(1 - 12 / 990)
    assert mix.published == pytest.approx((3 * 0.883 + 0.895) / 4)
    assert mix.reason == "mean weighted by items over 2 columns, without interval"
    one = means({"konvid-1k": report})["Mix"]
    assert (one.state, one.metric, one.reason) == ("not run", None, "not run: lsvq-test srcc")
    short = means(both | {"konvid-1k": konvid(count=9)})["Mix"]
    assert (short.state, short.difference) == ("not comparable", None)
    assert short.reason == "not comparable: konvid-1k srcc"


def test_a_table_names_its_columns_rightly(paper_table):
    columns = tuple(paper_table().columns)
    assert paper_table(parts={"a": columns[:2], "b": columns[2:]}).names == [*columns]
    with pytest.raises(ValueError, match=r"table\.means\.m: columns with weights are needed, got \['tid'\]"):
        paper_table(means={"m": {"tid": 1.0}})
    for parts in ({"a": columns[1:]}, {"a": columns, "b": columns[:1]}, {"a": (*columns, "z")}):
        with pytest.raises(ValueError, match="must be a column and stand in exactly one part"):
            paper_table(parts=parts)
    with pytest.raises(ValueError, match=r"table\.measured\.Mix\.commands: what makes the row is needed"):
        paper_table(measured={"Mix": Row(run="mix", of=None, minus=None, model=None, commands=())})


def test_who_answered_is_told(konvid, paper_table):
    report = konvid()
    (made,) = origins(paper_table(), lambda run, b: report)["Mix"]
    assert made.startswith("run mix: scripted")
    session = {"predictor": {"name": "runs/paper/scoring/model", "checkpoint": "0123456789abcdef"}}
    report = replace(report, provenance={"sessions": [session]})
    assert origins(paper_table(), lambda run, b: report) == {
        "Mix": ["run mix: runs/paper/scoring/model, checkpoint 0123456789ab"]
    }
    assert origins(paper_table(), nothing) == {}


@pytest.mark.parametrize("name", ALL)
def test_every_table_covers_its_csv_and_names_commands_that_compose(name):
    """Commands that make the missing files are checked too, as if nothing were here."""
    made = layout(name)
    benchmarks = sorted({c.benchmark for c in made.columns.values()})
    files = missing_files(benchmarks, everything=True)
    cells = make_cells(made, nothing, files.__getitem__)
    if made.published:
        lines = (PUBLISHED / made.published).read_text().splitlines()
        printed = [c for c in cells if c.published is not None and c.column in made.columns]
        own = [c for c in printed if made.published_row(c.row) == c.row]
        assert len(own) == len(lines) - 1, "no published value is lost or doubled"
    assert made.produce == name.startswith("tiny/")
    open_ = [c for c in cells if c.state == "not run" and c.column in made.columns]
    assert {c.row for c in open_} == {*made.measured}
    assert all(c.missing and c.commands for c in open_)
    prepares = {make for some in files.values() for _, make in some if make is not None}
    needs = {make for _, make in needed(made) if make is not None}
    asks = {c for row in made.measured.values() for c in made.makes(row)}
    words = " ".join(more.words for more in made.besides if {*more.benchmarks} & {*benchmarks})
    # one composition asks every benchmark of the table, with all that single figures need
    asked = {c.format(benchmark=f"[{','.join(benchmarks)}] {words}".rstrip()) if "eval.py" in c else c for c in asks}
    commands = prepares | needs | asked
    for step in {step for command in commands for step in command.split(" && ")}:
        check_command(step)


def needed(made):
    """(file, command that makes it) of models and of single figures."""
    owners = [*(row.model for row in made.measured.values() if row.model), *made.besides]
    return [pair for owner in owners for pair in owner.needs.items()]


@cache
def check_command(command):
    """Composes and decodes what the command would run."""
    words = shlex.split(command)
    if words[:3] == ["torchrun", "--nproc_per_node", "8"]:
        words = ["python", *words[3:]]
    if words[:2] == ["vqa2", "convert"]:
        assert typer.main.get_command(cli.app).commands["convert"].make_context("convert", words[2:])
    elif words[1] == "train.py":
        overrides = [w for w in split_arguments(words[2:]) if not w.startswith("stage=all")]
        made = decode(TrainRun, composed("train", overrides), "train")
        build("stage", made.stage, "stage")
    elif words[1] == "eval.py":
        made = decode(EvalRun, composed("eval", split_arguments(words[2:])), "eval")
        build("predictor", made.predictor, "predictor")
        for key, values in made.benchmarks.items():
            build("benchmark", values, key)
            assert key in made.stages or made.predictor.get("folder") != "auto", command
    elif words[1:3] == ["-m", "data_prep"]:
        prep_run(command)
    elif words[:2] not in (["hf", "download"], ["unzip", "-d"], ["mkdir", "-p"], ["tar", "-xf"]):
        assert words == ["python", "-m", "vqa2.experts"], command
        decode(ExpertsCommand, composed("experts", []), "experts")


@cache
def prep_run(command):
    return decode(DataPrepRun, composed("data_prep", split_arguments(shlex.split(command)[3:])), "data_prep")


@pytest.mark.parametrize("name", ALL)
def test_the_command_for_a_missing_file_makes_that_file(name):
    made = layout(name)
    files = [pair for some in missing_files((c.benchmark for c in made.columns.values()), everything=True).values()
             for pair in some]  # fmt: skip
    files += needed(made)
    for path, make in files:
        if make is not None and "data_prep" in make:
            run = prep_run(make)
            assert Path(path).relative_to(run.out).parts[0].split(".")[0] in run.sets, make
        elif make is not None and make.startswith("vqa2 convert"):
            assert shlex.split(make)[3] == path


def test_commands_that_do_not_compose_are_found():
    """The check above can fail."""
    for command in ("python train.py stage=scoring preset=paper nmae=x", "python eval.py benchmark=konvid",
                    "python -m data_prep source=konvid"):  # fmt: skip
        with pytest.raises(ConfigError):
            check_command(command)
    with pytest.raises(Exception, match="No such option: --slofast"):
        check_command("vqa2 convert a b --slofast c")


def test_a_row_may_stand_beside_another_published_row(konvid, cell, paper_table):
    """A second model of ours under the same published figures."""
    report = konvid()
    rows = {"Mix": Row(run="a", of=None, minus=None, model=None, commands=("x",)),
            "Mix (released)": Row(run="b", of="Mix", minus=None, model=None, commands=("x",))}  # fmt: skip
    made = paper_table(measured=rows)
    cells = make_cells(made, lambda run, b: report if (run, b) == ("b", "konvid-1k") else None, lambda b: [])
    found = next(c for c in cells if (c.row, c.column) == ("Mix (released)", "konvid-1k srcc"))
    assert (found.published, found.state) == (0.895, "measured")
    assert found.difference == pytest.approx(1 - 12 / 990 - 0.895)
    wrong = replace(rows["Mix (released)"], of="Mixx")
    with pytest.raises(DataError, match=r"table\.measured\.b\.of: no published row 'Mixx' \(did you mean 'Mix'\?\)"):
        make_cells(paper_table(measured={"b": wrong}), nothing, lambda b: [])


def test_the_tables_of_the_papers_are_all_there():
    assert {f"vqa2-{n}" for n in range(2, 10)} <= set(TABLES)
    assert {f"vqathinker-{n}" for n in ("1", "qbench", "reasoning")} <= set(TABLES)
    assert {"qrouter-qbench", *(f"agenticiqa-{n}" for n in range(1, 5))} <= set(TABLES)
    assert set(TINY) == {"vqathinker-reasoning", *(f"vqa2-{n}" for n in (6, 7, 8, 9))}
    assert {p.name for p in PUBLISHED.glob("*.csv")} == {layout(n).published for n in TABLES} - {None}


@pytest.mark.parametrize("name", ALL)
def test_weights_of_means_are_the_benchmarks_numbers_of_items(name):
    made = layout(name)
    if not made.means:
        return
    every = composed("eval", ["benchmark=scoring"])["benchmarks"]
    for weights in made.means.values():
        assert dict(weights) == {n: every[made.columns[n].benchmark]["published_n"] for n in weights}


def test_rows_of_one_table_have_columns_of_the_paper_in_its_order():
    """Where a part regroups columns, it keeps their order."""
    for name in TABLES:
        made = layout(name)
        order = {column: n for n, column in enumerate(made.names)}
        for columns in made.parts.values():
            assert list(columns) == sorted(columns, key=order.__getitem__), name
        assert list(dict.fromkeys(column for _, column in read_published(made))) == [
            c for c in made.columns if c in {column for _, column in read_published(made)}
        ], name


def test_the_ablations_of_the_embedded_data_compare_with_the_answers_of_the_other_arm():
    """A row of differences is filled by the evaluation that was made against those very answers."""
    for name in TINY:
        made = layout(f"tiny/{name}")
        rows = [row for row in made.measured.values() if row.minus is not None]
        assert len(rows) == 1, name
        assert any(f"run={rows[0].run} " in c and c.endswith(f"against={rows[0].minus}") for c in made.commands), name
