"""The model card of a finished run: how to use it, what it was trained on, how it did, what it cannot do."""

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from jinja2 import Environment, StrictUndefined

from vqa2.bench._runner import REPORT, read_report
from vqa2.bench._table import coverage, interval, number
from vqa2.core.errors import ConfigError
from vqa2.core.run import DONE
from vqa2.model.predict import checkpoint_of

CARD = "README.md"
_NETWORK = HfHubHTTPError.__bases__
"""OSError and what the HTTP client of this release of the hub raises, without a network for example."""
_SHOWN = ("torch", "transformers")


def write_card(run: Path, license: str | None = None) -> None:
    """Writes `model/README.md` of a finished run folder. `license`: of the weights, where their owner has named it."""
    done, kept = _read(run / DONE), _read(run / "config.json")["config"]
    environment, model = _read(run / "environment.json"), kept["model"]
    sets = [{"name": name, **facts} for name, facts in done.get("sets", {}).items()]
    env = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    template = env.from_string(resources.files("vqa2.train").joinpath("card.md.j2").read_text(encoding="utf-8"))
    text = template.render(
        license=license,
        base=model["weights"],
        name=f"{run.parent.name}-{run.name}",
        label=run.name,
        run=run.parent.name,
        parameters=sum(part["total"] for part in done["parameters"].values()),
        # Run and stage, not the whole path: the card is made to be published.
        start="/".join(Path(done["start"]).parts[-3:-1]) if done["start"] else model["weights"] or "random weights",
        steps=done["steps"],
        seed=kept["seed"],
        commit=environment["git"]["commit"],
        versions=", ".join(f"{name} {environment['versions'][name]}" for name in _SHOWN),
        sets=sets,
        embedded=any(s["source"] == "synthetic" for s in sets),
        results=_results(run),
        image=_read(run / "model" / "config.json")["vision_config"]["image_size"],
        motion=model["motion"]["image_size"],
        frames=model["video"]["max_motion_frames"],
        config=yaml.safe_dump({"stage": {**kept["stage"], "init_from": "auto"}, "model": model}, sort_keys=False),
    )
    (run / "model" / CARD).write_text(text, encoding="utf-8")


def set_facts(root: Path, sets: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Source, weight, rows, tasks and hash of the instruction sets a stage trains on, from their manifests."""
    facts = {}
    for name, weight in sets.items():
        path = root / f"{name}.manifest.json"
        made = _read(path) if path.is_file() else {}
        facts[name] = {
            "source": made.get("source", "unknown"),
            "weight": weight,
            "rows": made.get("rows", {}).get("train", "unknown"),
            "tasks": ", ".join(sorted(made.get("tasks", {}).get("train", {}))),
            "sha256": made.get("sha256", {}).get(f"{name}.train.jsonl", ""),
        }
    return facts


def push(run: Path, repo: str, license: str, public: bool) -> str:
    """Writes the card and uploads `model/` to a repository of the Hugging Face hub (new ones are private unless
    `public`); its address. ConfigError where the run is not finished or the hub refuses."""
    if not (run / DONE).is_file() or not (run / "model").is_dir():
        raise ConfigError(f"{run}: no finished run with a model here; name a stage's folder, such as runs/tiny/scoring")
    write_card(run, license)
    hub = HfApi()
    try:
        url = hub.create_repo(repo, private=not public, exist_ok=True)
        hub.upload_folder(repo_id=repo, folder_path=run / "model", commit_message=f"{run.parent.name}/{run.name}")
    except LocalTokenNotFoundError:
        raise ConfigError("push: not logged in; run `hf auth login`") from None
    except (*_NETWORK, HFValidationError) as err:
        raise ConfigError(f"push: {repo}: {err}") from None
    return str(url)


def _results(run: Path) -> list[tuple[str, ...]]:
    """Headline metrics of the benchmarks that were answered by just these weights."""
    checkpoint, rows = checkpoint_of(run / "model"), []
    for path in sorted(run.parent.glob(f"eval/*/{REPORT}")):
        report = read_report(path)
        asked = [s["predictor"].get("checkpoint") for s in report.provenance.get("sessions", [])]
        if asked and all(one == checkpoint for one in asked):
            rows += [
                (report.benchmark, m.name, number(m.value), interval(m), str(m.n), coverage(report))
                for m in report.metrics
            ]
    return rows


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
