"""Where figures come from: hashes of what was asked and of the files it was read from, and who answered."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vqa2.bench._answers import item_key
from vqa2.bench._items import Benchmark, Item
from vqa2.core.errors import DataError
from vqa2.core.records import Report
from vqa2.core.run import fingerprint, sha256_of

_EMBEDDED = "synthetic"
"""The source of data_prep that makes the embedded data."""
_SHOWN = 12
"""Digits of a hash that are enough to compare by eye."""


def origin(benchmark: Benchmark, items: Sequence[Item]) -> dict[str, Any]:
    """`items`: hash of every question with its file's name and size; `files`: sha256 of what the benchmark reads;
    `manifests`: of the manifests that list these files, with the source they name; `config`: the benchmark's
    settings."""
    paths = benchmark.inputs()
    made = {
        "items": fingerprint([[i.query.id, item_key(i)] for i in items]),
        "files": {str(path): sha256_of(path) for path in paths},
        "manifests": {str(m): values for path in paths for m, values in _manifests(path)},
        "config": asdict(benchmark),
    }
    return json.loads(json.dumps(made))


def _manifests(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The manifests of data_prep beside a file, or one folder up, that list it."""
    found = []
    for folder in (path.parent, path.parent.parent):
        for manifest in sorted(folder.glob("*.manifest.json")):
            try:
                values = json.loads(manifest.read_text(encoding="utf-8"))
            except (json.JSONDecodeError, UnicodeDecodeError):
                raise DataError(f"{manifest}: not JSON; prepare the data again") from None
            if path.relative_to(folder).as_posix() in values.get("sha256", {}):
                found.append((manifest, {"sha256": sha256_of(manifest), "source": values.get("source")}))
    return found


def embedded(report: Report) -> bool:
    """Whether its questions are about the embedded data."""
    return any(m["source"] == _EMBEDDED for m in report.provenance.get("manifests", {}).values())


def who(report: Report) -> list[str]:
    """Who answered: a line per session with predictor, checkpoint and commit, as far as they are known."""
    lines = []
    for session in report.provenance.get("sessions", []):
        asked, git = session["predictor"], session.get("environment", {}).get("git", {})
        parts = [asked["name"]]
        parts += [f"checkpoint {asked['checkpoint'][:_SHOWN]}"] if "checkpoint" in asked else []
        if git.get("commit"):
            parts.append(f"commit {git['commit'][:_SHOWN]}{' with changes' if git['dirty'] else ''}")
        lines.append(", ".join(parts))
    return [*dict.fromkeys(lines)] or [report.predictor]


def origin_line(report: Report) -> str:
    """Who answered what, in one line: `synthetic: ...; items 0a1b2c; scoring_ugc.test.jsonl 3d4e5f`."""
    hashes = [f"items {report.provenance['items'][:_SHOWN]}"] if "items" in report.provenance else []
    hashes += [f"{Path(p).name} {h[:_SHOWN]}" for p, h in report.provenance.get("files", {}).items()]
    return f"{report.benchmark}: {'; '.join([*who(report), *hashes])}"
