"""From label files to a table's cell: the published scoring sets as data_prep writes them, and DOVER's predictions for
six of them through data_prep, eval.py and table.py.

Needs the label files beside the repository; nothing of them is kept.
"""

import csv
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from data_prep.run import DataPrepRun, prepare
from vqa2.bench._runner import run
from vqa2.core.config import build, decode
from vqa2.core.records import Answer
from vqa2.evaluate import EvalRun, evaluate
from vqa2.launch import composed
from vqa2.tables import main as table_main

LABELS = Path(__file__).parents[2] / ".." / "shared" / "data" / "labels"
HERE = ("lsvq-1080p", "live-vqc", "konvid-1k", "yt-ugc", "yt-ugc-1147", "cvd2014", "live-yt-gaming", "live-yt-hfr",
        "waterloo-ivc-4k", "vdpve", "waterloo-iv")  # fmt: skip
"""Benchmarks whose label files are at hand; the other lists have to be obtained (their YAML under conf/source)."""

pytestmark = pytest.mark.skipif(not LABELS.is_dir(), reason="shared label files are not here")


@pytest.fixture
def prepared(tmp_path):
    """Runs a benchmark's own `prepare` command on the label files and returns the benchmark."""

    def make(name):
        values = composed("eval", [f"benchmark={name}"])["benchmarks"][name]
        words = shlex.split(values["prepare"])
        assert words[:3] == ["python", "-m", "data_prep"]
        assert words[-1] == f"out={values['root']}"
        overrides = [*words[3:-1], f"root={LABELS}", f"out={tmp_path / name}", "media=skip", "workers=1"]
        prepare(decode(DataPrepRun, composed("data_prep", overrides), "data_prep"), progress=False)
        return build("benchmark", values | {"root": str(tmp_path / name), "bootstrap": 20}, name)

    return make


class Known:
    """score01 by clip id."""

    name, fingerprint = "known", "1"

    def __init__(self, table):
        self._table = table

    def score(self, queries):
        return [Answer(id=q.id, score01=self._table[q.id]) if q.id in self._table else Answer(id=q.id, error="lost")
                for q in queries]  # fmt: skip


@pytest.mark.parametrize("name", HERE)
def test_prepared_rows_are_the_published_items(name, prepared, quiet, tmp_path):
    benchmark = prepared(name)
    items = benchmark.items()
    assert len(items) == benchmark.published_n
    perfect = Known({i.query.id: i.target["mos"] / 100 for i in items})
    report = run(benchmark, perfect, tmp_path / "out", quiet)
    assert report.deviations == ()
    assert report.metrics[0].value == pytest.approx(1.0)
    if name == "waterloo-iv":
        groups = {m.name.partition("/")[2]: m.n for m in report.groups["SRCC by content"]}
        assert groups == dict.fromkeys(("document", "game", "movie", "nature", "sports"), 270)


DOVER = {
    "konvid-1k": ("konvid_1k", "val-kv1k", 1200),
    "live-vqc": ("live_vqc", "val-livevqc", 585),
    "lsvq-test": ("lsvq_test", "val-ltest", 7186),
    "lsvq-1080p": ("lsvq_1080p", "val-l1080p", 3573),
    "yt-ugc-1147": ("youtube_ugc_1147", "val-ytugc", 1147),
    "cvd2014": ("cvd2014", "val-cvd2014", 234),
}
"""Benchmark -> source, file of DOVER's predictions, videos. Of LSVQ test DOVER has the official list; VQA²'s and
VQAThinker's is four videos shorter."""


@pytest.fixture
def dover(tmp_path):
    """From DOVER's label file and two branches to a report, by data_prep and eval.py with predictor=saved. `lost`:
    videos without a prediction; `split`: what the rows are said to be."""

    def make(name, lost=0, split="test"):
        source, predictions, count = DOVER[name]
        with (LABELS / "DOVER-predictions" / f"{predictions}.csv").open() as handle:
            rows = list(csv.DictReader(handle))
        technical, aesthetic = (np.array([float(r[k]) for r in rows]) for k in ("fragments", "resize"))
        fused = 0.6104 * stats.zscore(technical) + 0.3896 * stats.zscore(aesthetic)
        scores = (fused - fused.min()) / np.ptp(fused)
        saved = [{"id": f"{source}/{r['name']}", "score01": float(s)} for r, s in zip(rows, scores, strict=True)]
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in saved[lost:]))
        root = tmp_path / f"{name}-{split}"
        values = composed("data_prep", [f"source={source}", "set=scoring_ugc", f"root={LABELS}", f"out={root}",
                                        "media=skip", "workers=1"])  # fmt: skip
        if split != "test":
            values["source"] |= {k: {split: values["source"][k]["test"]} for k in ("files", "expected")}
        prepare(decode(DataPrepRun, values, "data_prep"), progress=False)
        key = f"benchmarks.{name}"
        overrides = [f"benchmark={name}", f"{key}.root={root}", f"{key}.file=scoring_ugc.{split}.jsonl",
                     f"{key}.bootstrap=20", "predictor=saved", f"predictor.answers={file}", f"runs={tmp_path}",
                     "run=dover", "samples=0", "worst=0"]  # fmt: skip
        (report,) = evaluate(decode(EvalRun, composed("eval", overrides), "eval"), pytest.fail)
        assert (report.n_expected, report.n_scored) == (count, count - lost)
        return report

    return make


LONG = ("lsvq-test", "lsvq-1080p")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in DOVER])
def test_saved_predictions_give_the_golden_figures(name, dover):
    golden = json.loads((LABELS / "DOVER-predictions" / "golden_metrics.json").read_text())[DOVER[name][1]]
    report = dover(name)
    found = {m.name: m for m in report.metrics}
    for metric, key in (("SRCC", "SRCC"), ("KRCC", "KRCC"), ("PLCC raw", "PLCC_raw")):
        assert found[metric].value == pytest.approx(golden[key], abs=2e-6)
        assert found[metric].n == golden["n"]
    assert report.deviations == (("7186 items, published on 7182",) if name == "lsvq-test" else ())


def table_cells(name, row, tmp_path, capsys):
    """(row, column) -> the line of table.py's CSV, with the row measured from the run `dover`."""
    ours = f"+table.measured.{row}={{run: dover, of: null, minus: null, model: null, commands: [python eval.py]}}"
    out = tmp_path / "tables"
    table_main([f"table={name}", ours, f"runs={tmp_path}", f"out={out}", "preset=paper"])
    capsys.readouterr()
    with (out / f"{name}.csv").open() as handle:
        return {(line["row"], line["column"]): line for line in csv.DictReader(handle)}


def test_saved_predictions_fill_the_cells_of_the_papers_tables(dover, tmp_path, capsys):
    """What the papers report for DOVER beside what its own predictions give."""
    for name in ("konvid-1k", "live-vqc"):
        dover(name)
    ugc = table_cells("vqa2-2", "Dover", tmp_path, capsys)
    konvid = ugc["Dover", "konvid-1k srcc"]
    assert (konvid["published"], konvid["n"], konvid["state"]) == ("0.89", "1200", "measured")
    assert float(konvid["measured"]) == pytest.approx(0.8825, abs=2e-6)
    assert float(konvid["difference"]) == pytest.approx(-0.0075, abs=2e-6)
    assert float(konvid["lo"]) < 0.8825 < float(konvid["hi"])
    assert ugc["Dover", "live-vqc srcc"]["state"] == "not run", "VQA² reports on 88 of the 585: another benchmark"
    thinker = table_cells("vqathinker-1", "DOVER", tmp_path, capsys)
    live = thinker["DOVER", "live-vqc srcc"]
    assert (live["published"], live["n"], live["state"]) == ("0.817", "585", "measured")
    assert float(live["measured"]) == pytest.approx(0.831897, abs=2e-6)
    assert thinker["DOVER", "in-domain mean srcc"]["state"] == "not run", "two of its five sets"


@pytest.mark.slow
def test_four_videos_more_are_seen_in_the_cell(dover, tmp_path, capsys):
    """DOVER's predictions for LSVQ test are on the official list, the papers' figures on one that is shorter."""
    dover("lsvq-test")
    longer = table_cells("vqa2-2", "Dover", tmp_path, capsys)["Dover", "lsvq-test srcc"]
    assert (longer["state"], longer["n"], longer["difference"]) == ("not comparable", "7186", "")
    assert longer["reason"] == "7186 items, published on 7182"


def test_one_lost_prediction_and_another_split_are_seen_in_the_cell(dover, tmp_path, capsys):
    def konvid(**changes):
        dover("konvid-1k", **changes)
        return table_cells("vqa2-2", "Dover", tmp_path, capsys)["Dover", "konvid-1k srcc"]

    fewer = konvid(lost=1)
    assert (fewer["state"], fewer["n"], fewer["difference"]) == ("not comparable", "1199", "")
    assert fewer["reason"] == "1 items not scored"
    assert float(fewer["measured"]) == pytest.approx(0.8825, abs=1e-3)
    train = konvid(split="train")
    assert (train["state"], train["n"], train["difference"]) == ("not comparable", "1200", "")
    assert train["reason"] == "rows of split train, published on test"
