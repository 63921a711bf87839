"""Label files in tests: sources scanned, sets written, the published files where they are."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_prep._scan import scan
from data_prep.run import DataPrepRun, prepare
from data_prep.sources.labelled import Labelled
from vqa2.core.config import build, decode
from vqa2.core.records import Clip
from vqa2.launch import composed

LABELS = Path(__file__).parents[1].parent / "shared" / "data" / "labels"
with_labels = pytest.mark.skipif(not LABELS.is_dir(), reason="the published label files are not here")


def source(name: str) -> Labelled:
    return build("source", composed("data_prep", [f"source={name}"])["source"], "source")


def clips(name: str, root: Path) -> tuple[list[Clip], list[dict]]:
    """All usable clips, and the listed exclusions."""
    report = root / "report.jsonl"
    held = scan(source(name), root, report, None, lambda count: None)
    found = list(held.clips(root, np.ones(len(held.keys), bool)))
    return found, lines(report)


def run(root: Path, out: Path, *overrides: str) -> dict:
    values = composed("data_prep", [f"root={root}", f"out={out}", "media=skip", "workers=1", *overrides])
    return prepare(decode(DataPrepRun, values, "data_prep"), progress=False)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def link_published(root: Path) -> Path:
    """The published label files below `root`, in the folders that sources read."""
    root.mkdir(exist_ok=True)
    for folder in LABELS.iterdir():
        (root / folder.name).symlink_to(folder)
    (root / "CGVDS").symlink_to(LABELS / "Gaming-other")
    return root
