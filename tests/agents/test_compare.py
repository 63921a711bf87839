"""The comparison: baselines by hand, the embedded table end to end on a few experts, real scores against known SRCC."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from agent_test_parts import Finding

from vqa2.agents import __main__ as command
from vqa2.agents._ablate import Weighed, ablation
from vqa2.agents._baselines import Grid, Judge, baselines, best_expert, fitted_weights, oracle
from vqa2.agents._real import real
from vqa2.agents._spec import RouterSpec
from vqa2.agents.compare import EQUAL, CompareRun, Helpers, compared
from vqa2.agents.fusion import Adjustment
from vqa2.core.config import decode
from vqa2.core.errors import DataError
from vqa2.launch import composed

REAL = Path(__file__).parents[3] / "shared" / "data" / "labels" / "DOVER-predictions"


def grid(seed: int, n: int = 60) -> Grid:
    """Expert `good` is the target with little noise, `bad` noise alone, `gap` is good but silent on some clips."""
    rng = np.random.default_rng(seed)
    mos = rng.uniform(0, 100, n)
    good, bad = mos + rng.normal(0, 5, n), rng.uniform(0, 100, n)
    gap = np.where(np.arange(n) % 5 == 0, np.nan, mos + rng.normal(0, 30, n))
    return Grid(("good", "bad", "gap"), np.stack((good, bad, gap), 1), mos)


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
    assert lines["plain mean"].experts == 3


def test_the_oracle_takes_the_nearest():
    scores = np.array([[10.0, 90.0, np.nan], [50.0, 20.0, 31.0]])
    assert oracle(scores, np.array([80.0, 30.0])).tolist() == [90.0, 31.0]


def settings(data_root: Path, tmp_path: Path) -> list[str]:
    """Three quick experts in this process, nothing but the embedded set."""
    tools = composed("routing", [])["measured"]["experts"]["tools"]
    drop = [f"~measured.experts.tools.{n}" for n in tools if n not in ("blur", "noise", "contrast")]
    return [
        *drop, f"measured.root={data_root}", "measured.fit_limit=20", "measured.bootstrap=10", "timed=2",
        "measured.forms=[logistic4,linear,isotonic]", "measured.experts.isolation=none",
        f"measured.out={tmp_path / 'm'}", f"measured.experts.calibration={tmp_path / 'c'}", f"out={tmp_path / 'o'}",
        f"camera.folder={tmp_path / 'none'}", f"real.folder={tmp_path / 'none'}",
        f"routed.decider.gate={tmp_path / 'none'}", f"routed.localize.detector={tmp_path / 'none'}",
    ]  # fmt: skip


def test_the_command_on_the_embedded_set(data_root, tmp_path, capsys):
    command.main(settings(data_root, tmp_path))
    made = json.loads((tmp_path / "o" / "routing.json").read_text())
    table, parts = made["tables"]
    by = {line["method"]: line for line in table["lines"]}
    methods = {"plain mean", "oracle", "rules router, tier 0", EQUAL, "agent, rules and tools"}
    assert methods <= set(by)
    assert by["rules router, tier 0"]["experts"] == 1.0
    assert by[EQUAL]["experts"] == sum(m.startswith("expert ") for m in by)
    assert by[EQUAL]["srcc"]["n"] == table["n"]
    pieces = {line["method"]: line for line in parts["lines"]}
    assert pieces["all terms, median rule: the router"]["srcc"] == by[EQUAL]["srcc"]
    assert pieces["neither: base weights, mean"]["srcc"]["value"] == pytest.approx(by["plain mean"]["srcc"]["value"])
    assert "the median decides on" in parts["notes"][0]
    tiers = {tier["method"]: tier for tier in made["tiers"]}
    assert tiers["rules router, tier 0"]["experts"] == 1
    assert all(0 < tier["seconds"] <= tier["most"] for tier in tiers.values())
    written = (tmp_path / "o" / "routing.md").read_text()
    assert "| plain mean |" in written
    assert f"- learned router: left out: {tmp_path / 'none'}: no learned router here" in written
    assert f"- tier 2: left out: {tmp_path / 'none'}: no detector" in written
    given = ["priors@predictor.router.priors=fitted", f"predictor.router.priors.file={tmp_path / 'priors.yaml'}"]
    router = composed("eval", ["predictor=router", *given])["predictor"]["router"]
    priors = decode(RouterSpec, router, "router").priors
    assert set(priors.types["ugc"]) == {"blur", "noise", "contrast"} & {m.removeprefix("expert ") for m in by}
    assert sum(priors.types["ugc"].values()) == pytest.approx(1)
    assert priors.source.endswith("scoring_ugc.train.jsonl")
    said = capsys.readouterr().err
    assert "no camera clips here; their table is left out" in said
    assert "the tables of real videos are left out" in said


class Contrast:
    """A learned gate that trusts one expert alone (whose curve is not flat on so few rows)."""

    name = "contrast"

    def __call__(self, path, kind, experts):
        return {"content_type": "x", "weights": {"contrast": 1.0}, "uncertainty": 1.0, "note": ""}


def test_the_learned_router_and_tier_2_have_rows_and_costs(data_root, tmp_path):
    made = decode(CompareRun, composed("routing", settings(data_root, tmp_path)), "routing")
    helpers = Helpers(
        gates={"learned router": Contrast()},
        localizer=Finding({"types": ["noise"], "findings": []}),
        notes=(),
    )
    roots = {made.measured.root: made.measured.test}
    (table, _), tiers = compared(made, roots, lambda pool: helpers, lambda *_: None)
    by, costs = ({row.method: row for row in rows} for rows in (table.lines, tiers))
    assert by["learned router"].srcc.value == pytest.approx(by["expert contrast"].srcc.value)
    assert (by["learned router"].experts, by["learned router"].models) == (1, 1)
    assert by["rules router, tier 2"].srcc.n == table.n
    assert (costs["rules router, tier 2"].localizations, costs[EQUAL].localizations) == (1, 0)
    assert costs["learned router"].models == 1


def test_the_parts_of_the_fusion_by_hand():
    """`a` says 10 with a perfect fit, `b` 60 and `c` 62 with none: far apart, so that the median decides."""
    none = {"specialty": 0.0, "agreement": 0.0, "out_of_bounds": 0.0, "base": 1.0}
    told = {"a": {**none, "confidence": 1.0}, "b": {**none, "confidence": 0.0}, "c": {**none, "confidence": 0.0}}
    clip = Weighed({"a": 10.0, "b": 60.0, "c": 62.0}, told)
    constants = Adjustment(
        specialty=0.5, agreement=0.3, confidence=0.2, out_of_bounds=0.3, spread=20.0, worst_rmse=30.0
    )
    judge = Judge(mos=np.array([1.0, 2.0]), single=np.zeros(2), mean=np.zeros(2), bootstrap=0, seed=0)
    assert clip.apart == 52.0
    assert clip.fused(constants, 20.0) == 60.0
    assert clip.fused(constants, np.inf) == pytest.approx((1.2 * 10 + 60 + 62) / 3.2)
    lines = ablation([clip, replace(clip, scores={"a": 30.0, "b": 61.0, "c": 62.0})], constants, judge)
    assert len(lines) == 12
    assert np.isnan(Weighed({}, {}).fused(constants, 20.0))


@pytest.mark.skipif(not REAL.is_dir(), reason="no recorded scores of real videos here")
def test_real_scores_give_the_known_correlations():
    made = decode(CompareRun, composed("routing", [f"real.folder={REAL}", "real.test=[val-livevqc.csv]",
                                                   "real.bootstrap=20"]), "routing")  # fmt: skip
    table, parts = real(made.real, made.programs()[0])
    by = {line.method: line for line in table.lines}
    assert table.n == 585
    # Ranks do not change by a monotone curve: the raw branches' own SRCC on LIVE-VQC.
    assert by["expert technical"].srcc.value == pytest.approx(0.824, abs=1e-3)
    assert by["plain mean"].srcc.value > by["expert technical"].srcc.value > by["expert aesthetic"].srcc.value
    assert by["oracle"].over_mean.lo > 0
    assert abs(by["rules router, tier 1"].over_mean.value) < 0.01
    assert parts.lines[0].srcc == by["rules router, tier 1"].srcc


@pytest.mark.parametrize(
    ("lines", "say"),
    [
        (["name,mos,resize,fragments"], "no rows below the header"),
        (["name,mos,resize,fragments", "a,3,0.1,good"], "x.csv:2: fragments: a number is needed, got 'good'"),
        (["name,mos,resize,fragments", "a,3,0.1,0.2", "a,3,0.1,0.3"], "x.csv:3: a: a second, different score"),
        (["name,mos,resize", "a,3,0.1"], "x.csv:2: no column 'fragments'"),
    ],
)
def test_recorded_scores_that_cannot_be_used_are_named(lines, say, tmp_path):
    (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
    made = decode(CompareRun, composed("routing", [f"real.folder={tmp_path}", "real.fit=x.csv"]), "routing")
    with pytest.raises(DataError, match=re.escape(say)):
        real(made.real, made.programs()[0])
