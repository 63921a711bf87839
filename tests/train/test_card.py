"""The model card: true for the weights it lies beside, safe to publish, uploaded with them."""

import json
import re
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from huggingface_hub.errors import LocalTokenNotFoundError

from vqa2.bench._runner import write_report
from vqa2.core.errors import ConfigError
from vqa2.core.records import Metric, Report
from vqa2.model.predict import checkpoint_of
from vqa2.train import card


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs" / "tiny" / "base"))


def text_of(run: Path) -> str:
    return (run / "model" / "README.md").read_text(encoding="utf-8")


def report(run: Path, name: str, checkpoint: str) -> None:
    metric = Metric(name="SRCC", value=0.5, n=11, lo=0.25, hi=0.75)
    sessions = {"sessions": [{"predictor": {"checkpoint": checkpoint}}]}
    made = Report(benchmark=name, predictor="x", metrics=(metric,), n_expected=12, n_scored=11,
                  failures=(("a", "b"),), provenance=sessions)  # fmt: skip
    write_report(run.parent / "eval" / name / "report.json", made)


def test_a_finished_stage_has_a_card_with_its_training_sets(run, data_root):
    text = text_of(run)
    front = yaml.safe_load(text.split("---")[1])
    assert front == {"library_name": "transformers", "pipeline_tag": "video-text-to-text",
                     "tags": ["vqa2", "video-quality-assessment"]}  # fmt: skip
    manifest = json.loads((data_root / "base.manifest.json").read_text())
    row = f"| base | synthetic | 1.0 | {manifest['rows']['train']} | "
    assert row in text
    assert manifest["sha256"]["base.train.jsonl"][:16] in text
    assert "is not a mean opinion score" in text
    assert "started from random weights" in text
    assert "None recorded with these weights." in text


def test_a_card_names_no_folder_of_the_machine(run):
    assert str(run.parents[1]) not in text_of(run)
    assert "/tmp" not in text_of(run)


def test_the_snippet_of_a_card_runs(run, data_root, tmp_path, monkeypatch):
    shutil.copytree(run / "model", tmp_path / "model")
    shutil.copy(next((data_root / "media" / "test").glob("*.mp4")), tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```", text_of(run), re.M | re.S)
    names: dict = {}
    exec(code, names)
    assert 0 <= names["score"].score100 <= 100


def test_results_are_those_of_just_these_weights(run):
    report(run, "synthetic", checkpoint_of(run / "model"))
    report(run, "other", "0" * 64)
    card.write_card(run, "apache-2.0")
    assert "| synthetic | SRCC | 0.500 | 0.250 … 0.750 | 11 | 11 / 12 |" in text_of(run)
    assert "other" not in text_of(run)
    assert yaml.safe_load(text_of(run).split("---")[1])["license"] == "apache-2.0"


def test_the_card_does_not_change_what_the_weights_are(run):
    before = checkpoint_of(run / "model")
    (run / "model" / "README.md").write_text("another")
    assert checkpoint_of(run / "model") == before
    (run / "model" / "config.json").write_text("{}")
    assert checkpoint_of(run / "model") != before


def test_push_uploads_model_and_card(run, monkeypatch):
    asked = []

    class Hub:
        def create_repo(self, repo, **options):
            asked.append((repo, options))
            return f"https://hub/{repo}"

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            asked.append((repo_id, sorted(p.name for p in folder_path.iterdir()), commit_message))

    monkeypatch.setattr(card, "HfApi", Hub)
    assert card.push(run, "user/name", "mit", public=False) == "https://hub/user/name"
    assert asked[0] == ("user/name", {"private": True, "exist_ok": True})
    assert asked[1][0] == "user/name"
    assert {"README.md", "config.json", "model.safetensors"} <= set(asked[1][1])
    assert "license: mit" in text_of(run)


def test_push_without_a_run_or_a_login_is_one_line(run, monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match="no finished run with a model here"):
        card.push(tmp_path, "user/name", "mit", public=False)

    def refused(*_, **__):
        raise LocalTokenNotFoundError("no token")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refused)
    with pytest.raises(ConfigError, match="run `hf auth login`"):
        card.push(run, "user/name", "mit", public=False)
