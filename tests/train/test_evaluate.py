"""Benchmarks while training: they change no loss, keep the best model, fill the matrix; wrong settings are one line."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small import SMALL_MODEL

from vqa2.bench._matrix import read_rows
from vqa2.bench._runner import read_report
from vqa2.core.errors import ConfigError
from vqa2.launch import composed
from vqa2.train.plan import train

FAST = [*SMALL_MODEL, "stage.optim.max_steps=4", "stage.optim.batch_size=4", "stage.optim.save_every=2",
        "stage.optim.warmup=0.0", "log.every=1"]  # fmt: skip


def asked(data_root, *more):
    """Evaluation of the embedded benchmarks on few items."""
    root = [f"'benchmarks.synthetic.root={data_root}'", "'benchmarks.synthetic.bootstrap=20'"]
    return ["evaluation=embedded", "evaluation.every=1", "evaluation.limit=6",
            f"evaluation.overrides=[{','.join(root)}]",
            *(f"~evaluation.abilities.{name}" for name in ("distortion", "streaming", "questions")), *more]  # fmt: skip


@pytest.fixture(scope="module")
def scoring(data_root, tmp_path_factory):
    """A short scoring stage on top of one base model, with further settings."""
    base = tmp_path_factory.mktemp("base")
    train("base", [*FAST, f"data.root={data_root}", f"out={base}", "stage.optim.max_steps=1"], composed)

    def make(out, *more) -> Path:
        overrides = [
            *FAST,
            f"data.root={data_root}",
            f"out={out}",
            f"stage.init_from={base / 'tiny' / 'base' / 'model'}",
        ]
        train("scoring", [*overrides, *more], composed)
        return Path(out) / "tiny" / "scoring"

    return make


@pytest.fixture(scope="module")
def evaluated(scoring, data_root, tmp_path_factory):
    return scoring(tmp_path_factory.mktemp("runs"), *asked(data_root))


def rows(folder, key):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(r["step"], r[key]) for r in found if key in r]


def test_scores_can_be_asked_for_in_words(scoring, data_root, tmp_path):
    words = ["evaluation.predictor=reasoning", "evaluation.max_new_tokens=3", "evaluation.every=4"]
    folder = scoring(tmp_path, *asked(data_root, *words), "stage.optim.max_steps=1", "evaluation.limit=3")
    (report,) = reports(folder).values()
    assert report.predictor.endswith(" (reasoning)")
    assert [reason.startswith("unreadable rating") for _, reason in report.failures] == [True] * 3


def reports(folder):
    paths = sorted((folder / "eval" / "synthetic").glob("step-*"))
    return {int(p.name.split("-")[1]): read_report(p / "report.json") for p in paths}


def srcc(report):
    return next(m for m in report.metrics if m.name == "SRCC")


def test_every_step_is_evaluated_and_logged(evaluated):
    found = reports(evaluated)
    assert list(found) == [1, 2, 3, 4]
    assert {r.n_expected for r in found.values()} == {6}
    assert rows(evaluated, "eval/synthetic/SRCC") == [(step, srcc(r).value) for step, r in found.items()]
    checkpoints = {r.provenance["sessions"][0]["predictor"]["checkpoint"] for r in found.values()}
    assert (len(checkpoints), {len(c) for c in checkpoints}) == (4, {64}), "hashes of the weights"
    # The model in training was asked, not one and the same.
    assert len({json.dumps(r.marks) for r in found.values()}) == 4


def test_the_training_is_the_same_with_and_without(scoring, evaluated, tmp_path):
    plain = scoring(tmp_path / "plain")
    assert rows(plain, "loss") == rows(evaluated, "loss")
    one, other = (load_file(f / "model" / "model.safetensors") for f in (plain, evaluated))
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_the_best_model_is_kept_and_handed_on(scoring, evaluated, data_root, tmp_path):
    values = {step: srcc(r).value for step, r in reports(evaluated).items()}
    top = max(values, key=lambda step: (values[step], -step))
    best = json.loads((evaluated / "best.json").read_text())
    assert (best["step"], best["value"]) == (top, values[top])
    assert [p.name for p in evaluated.glob("best-*")] == [f"best-{top}"]
    # The worst by the same metric: some other step than the last, unless SRCC fell throughout.
    low = min(values, key=lambda step: (values[step], step))
    made = scoring(tmp_path / "low", *asked(data_root, "evaluation.best.larger=false", "evaluation.keep=best"))
    handed, kept = (load_file(made / name / "model.safetensors") for name in ("model", f"best-{low}"))
    assert all(torch.equal(handed[k], kept[k]) for k in kept)
    last = load_file(made / "last" / "model.safetensors")
    assert any(not torch.equal(handed[k], last[k]) for k in last) == (low != 4)
    (row,) = read_rows(made.parent)
    assert (row.step, row.abilities["scoring"].value) == (low, values[low])


def test_abilities_are_noted_at_the_end_of_a_stage(evaluated):
    (row,) = read_rows(evaluated.parent)
    assert (row.stage, row.after, row.step) == ("scoring", "base", 4)
    assert row.abilities["scoring"] == srcc(reports(evaluated)[4])
    assert "| scoring | base |" in (evaluated.parent / "abilities.md").read_text()


@pytest.mark.parametrize(
    ("more", "say"),
    [
        (["evaluation.every=0"], "evaluation.every: 0 evaluates never"),
        (["evaluation.best.benchmark=distortion"], "distortion is none of evaluation.benchmarks"),
        (["evaluation.best=null", "evaluation.keep=best"], "evaluation.keep: best needs evaluation.best"),
        (
            ["evaluation.benchmarks=[synthetc]", "evaluation.best=null"],
            "benchmark=synthetc: no such benchmark (did you mean 'synthetic'?)",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_training(scoring, data_root, tmp_path, more, say):
    with pytest.raises(ConfigError) as caught:
        scoring(tmp_path / "x", *asked(data_root, *more))
    assert say in str(caught.value)
    assert not (tmp_path / "x").exists()
