"""`python -m vqa2.experts.localization [key=value ...]`: damaged clips, detector, scores beside the baselines."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rich.console import Console

from vqa2.core.config import decode
from vqa2.core.progress import bars
from vqa2.core.records import Metric
from vqa2.launch import composed, guarded


def main(overrides: list[str]) -> None:
    from data_prep.localized import LocalizedSpec, make
    from vqa2.experts.localization.score import OF_KIND
    from vqa2.experts.localization.train import LocalizationRun, evaluate, seen, train

    made = decode(LocalizationRun, composed("localization", overrides), "localization")
    root, console = Path(made.root), Console(highlight=False, soft_wrap=True)
    splits = list(make(root, decode(LocalizedSpec, made.clips, "clips")))
    with bars() as shown:
        clips = {split: seen(root, split, partial(shown.at, split)) for split in splits}
    detector = train(made, clips["train"])
    metrics = evaluate(made, detector, clips["train"], clips["test"])
    over_all, of_kind = (
        {method: [m for m in row if m.name.startswith(OF_KIND) == single] for method, row in metrics.items()}
        for single in (False, True)
    )
    _table(console, over_all)
    _table(console, of_kind)
    path = Path(made.localize.detector).with_name("scores.json")
    path.write_text(json.dumps({k: [asdict(m) for m in v] for k, v in metrics.items()}, indent=1) + "\n")
    console.print(f"detector: {made.localize.detector}; scores: {path}", markup=False)


def _table(console: Console, rows: dict[str, list[Metric]]) -> None:
    """Methods down, metrics across."""
    names = [m.name for m in rows["ours"]]
    console.print("| method | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 1), markup=False)
    for method, row in rows.items():
        console.print(f"| {method} | " + " | ".join(_cell(m) for m in row) + " |", markup=False)
    console.print()


def _cell(metric: Metric) -> str:
    if metric.value is None or metric.lo is None:
        return f"- ({metric.note or 'no interval'})"
    return f"{metric.value:.2f} [{metric.lo:.2f}, {metric.hi:.2f}] ({metric.n})"


if __name__ == "__main__":
    guarded(main, "localization")
