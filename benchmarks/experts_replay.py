"""Replayed experts on real videos: DOVER's two branches, calibrated and fused on KoNViD-1k, tested on other datasets.

    python benchmarks/experts_replay.py ../shared/data/labels/DOVER-predictions

The CSVs hold name, mos, resize (aesthetic branch) and fragments (technical branch) of 13,925 videos in six sets.
Nothing is fitted on a test set: the released fusion weights, tuned per set, are not used.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from rich.console import Console

from vqa2.core.config import decode
from vqa2.core.records import Metric
from vqa2.core.scale import quality_metric
from vqa2.experts.base import Media
from vqa2.experts.measure import Rated, calibrate
from vqa2.experts.pool import Pool, PoolSpec

FIT = "val-kv1k"
TESTS = {"KoNViD-1k (fitted on)": FIT, "LIVE-VQC": "val-livevqc", "LSVQ-test": "val-ltest", "LSVQ-1080p": "val-l1080p",
         "YouTube-UGC": "val-ytugc", "CVD2014": "val-cvd2014"}  # fmt: skip
BRANCHES = {"technical": "fragments", "aesthetic": "resize"}
INFO = {"kinds": ["video"], "reference": False, "prompt": False, "raw_range": [-1.0, 1.0], "higher_is_better": True,
        "cost_s": 0.0, "strengths": ["UGC"], "license": "S-Lab-1.0 (non-commercial)", "commercial": False,
        "weights": "DOVER v0.1", "trained_on": ["LSVQ-train"], "pooling": "the model's own"}  # fmt: skip


def pool(folder: Path, name: str) -> Pool:
    tools = {
        branch: {"name": "replay", "files": [str(folder / f"{name}.csv")], "id_column": "name", "column": column,
                 "parts": [], "info": INFO}
        for branch, column in BRANCHES.items()
    }  # fmt: skip
    values = {"tools": tools, "commercial_only": False, "isolation": "none", "timeout_s": 60.0, "calibration": "none"}
    return decode(PoolSpec, values, "experts").open()


def rated(folder: Path, name: str) -> list[Rated]:
    with (folder / f"{name}.csv").open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    mos = np.array([float(r["mos"]) for r in rows])
    scaled = 100 * (mos - mos.min()) / np.ptp(mos)  # for calibration; correlations do not see it
    return [
        Rated(media=Media(path=Path(r["name"]), kind="video", id=r["name"]), mos=float(m), distortion="")
        for r, m in zip(rows, scaled)
    ]


def readings(folder: Path, name: str):
    items, made = rated(folder, name), pool(folder, name)
    found = [made.run(list(BRANCHES), item.media, None, None, None) for item in items]
    return items, dict(zip(BRANCHES, zip(*found))), made


def main(folder: Path) -> None:
    items, found, made = readings(folder, FIT)
    curves = {b: calibrate(made.subject(b), ("logistic5",), FIT, items, found[b]) for b in BRANCHES}
    mos = np.array([i.mos for i in items])
    fitted = np.stack([[curves[b](r.raw) for r in found[b]] for b in BRANCHES], 1)
    # The weight of the technical branch that explains the fitting set's MOS best, between 0 and 1.
    apart = fitted[:, 0] - fitted[:, 1]
    weight = float(np.clip(apart @ (mos - fitted[:, 1]) / (apart @ apart), 0, 1))
    console = Console(width=150, highlight=False)
    console.print(f"weight of the technical branch, fitted on {FIT}: {weight:.3f}; n = {len(items)}")
    console.print("| set | n | expert | SRCC | PLCC of the calibrated score |\n|---|---|---|---|---|")
    for label, name in TESTS.items():
        items, found, _ = readings(folder, name)
        mos = [i.mos for i in items]
        scores = {b: np.array([curves[b](r.raw) for r in found[b]]) for b in BRANCHES}
        raw = {b: np.array([r.raw for r in found[b]]) for b in BRANCHES}
        both = np.stack(list(scores.values()), 1)
        rows = {b: (raw[b], scores[b]) for b in BRANCHES}
        rows["plain mean"] = (both.mean(1), both.mean(1))
        rows["fused on KoNViD-1k"] = (both @ [weight, 1 - weight],) * 2
        for expert, (ranked, scored) in rows.items():
            srcc = quality_metric("SRCC", ranked, mos, bootstrap=300, seed=0)
            plcc = quality_metric("PLCC raw", scored, mos, bootstrap=300, seed=0)
            console.print(f"| {label} | {len(mos)} | {expert} | {_cell(srcc)} | {_cell(plcc)} |")


def _cell(metric: Metric) -> str:
    return f"{metric.value:.4f} [{metric.lo:.4f}, {metric.hi:.4f}]"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
