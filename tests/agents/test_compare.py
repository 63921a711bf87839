"""The comparison: baselines by hand, the embedded table end to end on a few experts, real scores against known SRCC."""

import json
from pathlib import Path

import numpy as np
import pytest

from vqa2.agents import __main__ as command
from vqa2.agents._baselines import Grid, Judge, baselines, best_expert, fitted_weights, oracle
from vqa2.agents._real import real
from vqa2.agents.compare import CompareRun
from vqa2.core.config import decode
from vqa2.launch import composed

REAL = Path(__file__).parents[3] / "shared" / "data" / "labels" / "DOVER-predictions"


def grid(seed: int, n: int = 60) -> Grid:
    """Expert `good` is the target with little noise, `bad` noise alone, `gap` is good but silent on some clips."""
    rng = np.random.default_rng(seed)
    mos = rng.uniform(0, 100, n)
    good, bad = mos + rng.normal(0, 5, n), rng.uniform(0, 100, n)
    gap = np.where(np.arange(n) % 5 == 0, np.nan, mos + rng.normal(0, 30, n))
    return Grid(("good", "bad", "gap"), np.stack((good, bad, gap), 1), mos, np.full((n, 3), 0.5))


def test_baselines_on_known_experts():
    train, test = grid(0), grid(1)
    weights = fitted_weights(train)
    assert weights.sum() == pytest.approx(1)
    assert weights[0] > 0.9
    assert best_expert(train, np.ones(60, bool)) == 0
    judge = Judge(mos=test.mos, single=test.scores[:, 0], mean=np.nanmean(test.scores, 1), bootstrap=200, seed=0)
    kinds = (["x"] * 30 + ["y"] * 30, ["x"] * 60)
    lines = {line.method: line for line in baselines(train, test, kinds, judge)}
    assert next(iter(lines)) == "expert good"
    assert lines["expert gap"].srcc.n == 48
    assert lines["expert good"].over_single.value == 0
    assert lines["type classifier + one expert"].srcc == lines["expert good"].srcc
    assert lines["plain mean"].over_single.hi < 0
    assert lines["priors only (fitted on the training rows)"].over_mean.lo > 0
    assert lines["oracle"].srcc.value > 0.98
    assert lines["plain mean"].seconds == 1.5


def test_the_oracle_takes_the_nearest():
    scores = np.array([[10.0, 90.0, np.nan], [50.0, 20.0, 31.0]])
    assert oracle(scores, np.array([80.0, 30.0])).tolist() == [90.0, 31.0]


def test_the_command_on_the_embedded_set(data_root, tmp_path, capsys):
    drop = [
        n for n in composed("routing", [])["measured"]["experts"]["tools"] if n not in ("blur", "noise", "contrast")
    ]
    command.main(
        [*(f"~measured.experts.tools.{n}" for n in drop), f"measured.root={data_root}", "measured.fit_limit=20",
         "measured.bootstrap=10", "measured.forms=[logistic4,linear,isotonic]", "measured.experts.isolation=none",
         f"measured.out={tmp_path / 'm'}", f"measured.experts.calibration={tmp_path / 'c'}", f"out={tmp_path / 'o'}",
         f"real.folder={tmp_path / 'none'}"]
    )  # fmt: skip
    (table,) = json.loads((tmp_path / "o" / "routing.json").read_text())
    by = {line["method"]: line for line in table["lines"]}
    assert {"plain mean", "oracle", "rules router, tier 0", "rules router, tier 1", "agent, rules and tools"} <= set(by)
    assert by["rules router, tier 0"]["experts"] == 1.0
    assert by["rules router, tier 1"]["experts"] == sum(m.startswith("expert ") for m in by)
    assert by["rules router, tier 1"]["srcc"]["n"] == table["n"]
    assert "| plain mean |" in (tmp_path / "o" / "routing.md").read_text()
    assert "left out" in capsys.readouterr().err


@pytest.mark.skipif(not REAL.is_dir(), reason="no recorded scores of real videos here")
def test_real_scores_give_the_known_correlations():
    made = decode(CompareRun, composed("routing", [f"real.folder={REAL}", "real.test=[val-livevqc.csv]",
                                                   "real.bootstrap=20"]), "routing")  # fmt: skip
    (table,) = real(made.real, made.programs()[0])
    by = {line.method: line for line in table.lines}
    assert table.n == 585
    # Ranks do not change by a monotone curve: the raw branches' own SRCC on LIVE-VQC.
    assert by["expert technical"].srcc.value == pytest.approx(0.824, abs=1e-3)
    assert by["plain mean"].srcc.value > by["expert technical"].srcc.value > by["expert aesthetic"].srcc.value
    assert by["oracle"].over_mean.lo > 0
    assert abs(by["rules router, tier 1"].over_mean.value) < 0.01
