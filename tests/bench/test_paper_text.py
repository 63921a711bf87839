"""Layout and forms of a paper's table: parts, digits, best and second, the four forms, what was not run."""

import csv
import io
import re
import shutil
import subprocess

import pytest

from vqa2.bench._paper import Model, Row, make_cells
from vqa2.bench._paper_grid import MEASURED, parts, todo
from vqa2.bench._paper_text import as_csv, latex, markdown, page

EVAL = "python eval.py run={run} benchmark={{benchmark}}"


def no_files(benchmark):
    return []


@pytest.fixture
def filled(konvid, paper_table):
    """The table with one measured column, `count` items of ten, and its cells."""

    def make(count=10, **changes):
        report, made = konvid(count=count), paper_table(**changes)
        return made, make_cells(made, lambda run, b: report if (run, b) == ("mix", "konvid-1k") else None, no_files)

    return make


def test_forms_agree_and_escape(filled):
    made, cells = filled()
    text = markdown(made, cells, {})
    assert re.search(r"\| measured here \|.*not run.*\| \*\*0\.988\*\* \|", text)
    assert "| Mix | konvid-1k srcc | 0.895 | 0.988 | +0.093 |" in text
    tex = latex(made, cells, {})
    assert r"T \& co" in tex
    assert tex.count(r"\\") == (2 + 3) + (1 + 2), "two grids: the paper's under datasets, and the cells with a value"
    assert r"Mix & konvid-1k srcc & 0.895 & 0.988 & +0.093" in tex
    odd = filled(title=r"50 % of a_b {$x$} \ ~^")
    caption = (
        r"\caption{50 \% of a\_b \{\$x\$\} \textbackslash{} \textasciitilde{}\textasciicircum{}. raw. Bold: best of"
    )
    assert caption in latex(*odd, {})
    assert "T &amp; co" in page(made, cells, {})
    rows = list(csv.DictReader(io.StringIO(as_csv(cells))))
    row = next(r for r in rows if (r["row"], r["column"]) == ("Mix", "konvid-1k srcc"))
    assert float(row["measured"]) == pytest.approx(1 - 12 / 990)
    assert (row["n"], row["state"]) == ("10", "measured")
    assert len(rows) == 16
    assert {r["reason"] for r in rows if r["state"] == "not run"} == {
        f"run python eval.py run=mix benchmark={b}" for b in ("live-vqc", "lsvq-1080p", "lsvq-test")
    }


def test_figures_that_must_not_be_compared_stand_in_brackets(filled):
    made, cells = filled(count=9)
    assert re.search(r"\| measured here \|.*\| \(0\.983\) \|", markdown(made, cells, {}))


def test_figures_are_shown_as_printed(filled):
    """Table 7 prints correlations with three decimals and percentages with two; its CSV leaves zeros out."""
    columns = filled()[0].columns
    column = next(iter(columns.values()))
    names = {f"{d} {m}": column for d in ("live-vqc", "konvid-1k") for m in ("srcc", "plcc")}
    names |= {f"qbench-video-dev {d}": column for d in ("tech", "temp", "overall")}
    made, cells = filled(published="vqa2_table7_ablation_motion.csv", key=("benchmark", "metric"), columns=names,
                         measured={}, digits=9)  # fmt: skip
    assert [e.text for e in parts(made, cells)[0].lines[1].entries] == [
        "0.785", "0.830", "0.894", "0.884", "61.04", "60.36", "56.5"
    ]  # fmt: skip


def test_best_and_second_are_marked_among_comparable_figures(filled):
    """Column konvid-1k srcc: published 0.895 and 0.883, measured 0.988."""

    def marks(column, **changes):
        made, cells = filled(**changes)
        lines = parts(made, cells)[0].lines
        at = list(made.columns).index(column)
        return {line.label: line.entries[at].mark for line in lines}

    assert marks("konvid-1k srcc") == {"Mix": "second", MEASURED: "best", "Sequential": ""}
    assert marks("konvid-1k srcc", count=9) == {"Mix": "best", MEASURED: "", "Sequential": ""}, "brackets take no part"
    assert marks("live-vqc srcc") == {"Mix": "best", MEASURED: "", "Sequential": ""}, "no second of two"
    assert marks("konvid-1k srcc", unranked=("Mix",)) == {"Mix": "", MEASURED: "", "Sequential": ""}
    assert set(marks("konvid-1k srcc", published=None).values()) == {""}, "arms are compared by their intervals"


def test_rows_of_ours_stand_below_the_published_row_they_belong_to(filled):
    ours = (("Own", "mix", None), ("Released", "mix", "Mix"), ("Sequential", "s", None))
    rows = {name: Row(run=run, of=of, minus=None, model=None, commands=("x",)) for name, run, of in ours}
    made, cells = filled(measured=rows)
    lines = parts(made, cells)[0].lines
    assert [(line.label, line.measured) for line in lines] == [
        ("Mix", False), ("Released", True), ("Sequential", False), (MEASURED, True), ("Own", True)
    ]  # fmt: skip
    released = next(line for line in lines if line.label == "Released")
    assert released.entries[list(made.columns).index("konvid-1k srcc")].text == "0.988"
    assert "| Released | konvid-1k srcc | 0.895 | 0.988 | +0.093 |" in markdown(made, cells, {})
    assert "| Own | konvid-1k srcc | – | 0.988 | – |" in markdown(made, cells, {})


def test_equal_figures_share_a_mark(filled, paper_table, tmp_path, monkeypatch):
    monkeypatch.setattr("vqa2.bench._paper.PUBLISHED", tmp_path)
    rows = "".join(f"{m},live-vqc,srcc,{v}\n" for m, v in zip("abcd", ("0.88", "0.881", "0.881", "0.1")))
    (tmp_path / "few.csv").write_text("model,dataset,metric,value\n" + rows)
    column = {"live-vqc srcc": next(iter(paper_table().columns.values()))}
    made = paper_table(published="few.csv", columns=column, measured={})
    lines = parts(made, make_cells(made, lambda run, b: None, no_files))[0].lines
    assert [line.entries[0].mark for line in lines] == ["second", "best", "best", ""]
    assert lines[0].entries[0].text == "0.880"
    text = markdown(made, make_cells(made, lambda run, b: None, no_files), {})
    assert "| a | _0.880_ |" in text
    assert r"a & \underline{0.880} \\" in latex(made, make_cells(made, lambda run, b: None, no_files), {})


def test_parts_show_their_columns_with_the_rows_that_have_any(filled):
    columns = list(filled()[0].columns)
    made, cells = filled(parts={"In": tuple(columns[:4]), "Out": (*columns[4:], "mean srcc")},
                         means={"mean srcc": {"lsvq-test srcc": 1.0, "konvid-1k srcc": 1.0}})  # fmt: skip
    first, second = parts(made, cells)
    assert (first.title, first.columns, second.columns[-1]) == ("In", tuple(columns[:4]), "mean srcc")
    assert first.heads == [("live-vqc", ["srcc", "plcc"]), ("lsvq-1080p", ["srcc", "plcc"])]
    text = markdown(made, cells, {"Mix": ["run mix: known"]})
    assert re.search(r"## In\n\n\|  \| live-vqc srcc .*\n(\|.*\n)*\n## Out\n\n\|  \| lsvq-test srcc", text)
    assert "- mean srcc: made here from the cells, plain mean over 2 columns, without interval\n" in text
    assert "- Mix: run mix: known\n" in text
    tex = latex(made, cells, {})
    assert r"\multicolumn{2}{c}{live-vqc} & \multicolumn{2}{c}{lsvq-1080p} \\" in tex
    assert r"\cmidrule(lr){2-3}\cmidrule(lr){4-5}" in tex
    assert '<th class="head" colspan="2">lsvq-1080p</th>' in page(made, cells, {})
    assert "<h2>Out</h2>" in page(made, cells, {})


def test_what_was_not_run_is_listed_once_for_what_rows_share(paper_table):
    needs = {"train.jsonl": "python prep.py"}
    model = Model(needs=needs, commands=("python train.py",))
    rows = {row: Row(run=row, of=None, minus=None, model=model, commands=(EVAL.format(run=run),))
            for row, run in (("Mix", "a"), ("Sequential", "a"), ("Other", "b"))}  # fmt: skip
    made = paper_table(measured=rows)
    cells = make_cells(made, lambda run, b: None, lambda b: [(f"data/{b}", f"python make.py {b}")])
    both, other = todo(made, cells)
    assert (both.row, other.row) == ("Mix, Sequential", "Other")
    assert (both.first.missing, both.first.commands) == (("train.jsonl",), ("python prep.py", "python train.py"))
    assert len(both.each) == 4
    assert both.each[0].columns == ("live-vqc srcc", "live-vqc plcc")
    assert both.each[0].missing == ("data/live-vqc",)
    assert both.each[0].commands == ("python make.py live-vqc", "python eval.py run=a benchmark=live-vqc")
    text = markdown(made, cells, {})
    assert "## Not run: Mix, Sequential\n\nMissing here: train.jsonl. First:\n\n```bash\npython prep.py\n" in text
    assert "| data/live-vqc | `python make.py live-vqc && python eval.py run=a benchmark=live-vqc` |" in text
    assert "<code>python make.py live-vqc</code>" in page(made, cells, {})


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(filled, tmp_path):
    """One page, nothing undefined; a table too wide for the line is scaled to it."""
    columns = list(filled()[0].columns)
    made, cells = filled(title=r"VQA², 50 % of a_b & c < d – … {$x$} \ ~^", unranked=("Sequential",),
                         parts={"In": tuple(columns[:2]), "Out": tuple(columns[2:])})  # fmt: skip
    wide = filled()
    body = latex(made, cells, {"Mix": ["run mix: runs/a_b/model"]}) + latex(*wide, {})
    (tmp_path / "t.tex").write_text(
        "\\documentclass{article}\n\\usepackage[T1]{fontenc}\n\\usepackage{booktabs,graphicx}\n\\begin{document}\n"
        + body
        + "\\end{document}\n",
        encoding="utf-8",
    )
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"], cwd=tmp_path,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    assert "undefined" not in done.stdout
