"""From label files to a table's cell: the published scoring sets as data_prep writes them, and DOVER's predictions.

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
from vqa2.bench._paper import make_cells
from vqa2.bench._runner import run
from vqa2.core.config import build, decode
from vqa2.core.records import Answer
from vqa2.launch import composed
from vqa2.tables import TableRun

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


def test_real_predictions_fill_the_cell_of_their_table(prepared, quiet, tmp_path):
    """DOVER's two branches on KoNViD-1k; golden SRCC and PLCC of the fusion are given beside them."""
    golden = json.loads((LABELS / "DOVER-predictions" / "golden_metrics.json").read_text())["val-kv1k"]
    with (LABELS / "DOVER-predictions" / "val-kv1k.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    technical, aesthetic = (np.array([float(r[k]) for r in rows]) for k in ("fragments", "resize"))
    fused = 0.6104 * stats.zscore(technical) + 0.3896 * stats.zscore(aesthetic)
    scores = (fused - fused.min()) / np.ptp(fused)
    table = {f"konvid_1k/{r['name']}": float(s) for r, s in zip(rows, scores, strict=True)}
    benchmark = prepared("konvid-1k")
    layout = decode(TableRun, composed("table", ["table=vqa2-2", "name=x"]), "table").table

    def cell(known, column):
        report = run(benchmark, Known(known), tmp_path / f"o{len(known)}", quiet)
        cells = make_cells(layout, lambda run, b: report if b == "konvid-1k" else None, lambda b: [])
        return next(c for c in cells if (c.row, c.column) == ("UGC-scorer", column))

    made = cell(table, "konvid-1k srcc")
    assert (made.state, made.metric.n) == ("measured", 1200)
    assert made.metric.value == pytest.approx(golden["SRCC"], abs=2e-6)
    assert made.difference == pytest.approx(golden["SRCC"] - 0.894, abs=2e-6)
    assert cell(table, "konvid-1k plcc").metric.value == pytest.approx(golden["PLCC_raw"], abs=2e-6)
    del table["konvid_1k/" + rows[7]["name"]]
    fewer = cell(table, "konvid-1k srcc")
    assert (fewer.state, fewer.metric.n, fewer.reason) == ("not comparable", 1199, "1 items not scored")
