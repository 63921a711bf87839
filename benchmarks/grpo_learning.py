"""What each GRPO reward teaches: `python benchmarks/grpo_learning.py --start runs/tiny/understanding/model`.

Trains stage `grpo` from one starting model once per arm and seed: all rewards; each one switched off (weight 0: still
measured); rewards handed out at random within their group, which must not teach anything. The same held-out prompts are
sampled with the same random numbers before and after. Changes, and differences from the arm with all rewards, are means
over the seeds, with 95 % intervals of a paired bootstrap over contents (clips of one content are drawn together); the
changes of the single seeds stand beside them. Prints tables and writes
OUT/results.csv. Further arguments are overrides of every arm, for example `stage.eval_prompts=180`.
"""

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from vqa2.core.records import Clip, read_jsonl
from vqa2.core.scale import METRICS, difference_metric
from vqa2.rewards._answer import read_answer

ROOT = Path(__file__).parents[1]
REWARDS = ("regression", "ranking", "temporal", "format")
ARMS = {
    "all": [],
    **{f"without {name}": [f"stage.rewards.{name}.weight=0.0"] for name in REWARDS},
    "shuffled": ["stage.control.shuffle_rewards=true"],
}
BOOTSTRAP = 2000
Rows = list[list[dict[str, Any]]]
"""The completions of each held-out prompt, prompts in one order everywhere."""


def trained(arm: str, seed: int, start: Path, out: Path, overrides: list[str]) -> Path:
    """The run folder of an arm."""
    folder = out / f"{arm.replace(' ', '_')}_{seed}"
    # One step between a log row and the next, so that metrics.jsonl holds the whole curve.
    command = [sys.executable, "train.py", "stage=grpo", f"out={folder}", f"seed={seed}", "log.every=1"]
    subprocess.run([*command, f"stage.init_from={start}", *ARMS[arm], *overrides], cwd=ROOT, check=True)
    return folder / "tiny" / "grpo"


def prompts(path: Path) -> Rows:
    """A held-out table by prompt."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found.setdefault(row["prompt_id"], []).append(row)
    return [found[key] for key in sorted(found)]


def contents(rows: Rows, data: Path) -> list[np.ndarray]:
    """Prompts by the content of their clip, which has the row's id."""
    content = {clip.id: clip.content for clip in read_jsonl(data / "clips.jsonl", Clip)}
    names = [content[group[0]["prompt_id"]] for group in rows]
    return [np.flatnonzero(np.array(names) == name) for name in sorted(set(names))]


def srcc(rows: Rows) -> Callable[[np.ndarray], float]:
    """Of each prompt's mean readable answer and its target, over some prompts."""
    read = [[r["answer"] for r in group if r["answer"] is not None] for group in rows]
    answer = np.array([np.mean(some) if some else np.nan for some in read])
    target = np.array([group[0]["target"] for group in rows])

    def value(index: np.ndarray) -> float:
        some = index[np.isfinite(answer[index])]
        return METRICS["SRCC"](answer[some], target[some])

    return value


def mean(rows: Rows, one: Callable[[dict[str, Any]], float | None]) -> Callable[[np.ndarray], float]:
    """Of `one` over the completions of some prompts, those left out where it is None."""
    values = [[v for r in group if (v := one(r)) is not None] for group in rows]
    total, count = np.array([sum(v) for v in values]), np.array([len(v) for v in values])
    return lambda index: float(total[index].sum() / count[index].sum())


def measures(rows: Rows) -> dict[str, Callable[[np.ndarray], float]]:
    """What is reported, each as a function of the prompts drawn; `sum`: the four rewards, whatever their weights."""
    parts = {name: mean(rows, lambda r, name=name: r["rewards"][name]) for name in REWARDS}
    return {
        "SRCC": srcc(rows),
        "parsed": mean(rows, lambda r: float(r["answer"] is not None)),
        **parts,
        "sum": lambda index: sum(part(index) for part in parts.values()),
    }


def compared(name: str, first: Sequence[Rows], second: Sequence[Rows], groups: list[np.ndarray]) -> dict[str, Any]:
    """`second` minus `first` in one measure, seed by seed, averaged."""
    pairs = [(measures(a)[name], measures(b)[name]) for a, b in zip(first, second, strict=True)]

    def of(drawn: np.ndarray) -> list[float]:
        index = np.concatenate([groups[k] for k in drawn])
        return [b(index) - a(index) for a, b in pairs]

    made = difference_metric(name, lambda k: float(np.mean(of(k))), len(groups), bootstrap=BOOTSTRAP, seed=0)
    each = of(np.arange(len(groups)))
    return {"difference": made.value, "low": made.lo, "high": made.hi, "seeds": " ".join(f"{v:+.3f}" for v in each)}


def results(folders: dict[str, list[Path]], data: Path) -> list[dict[str, Any]]:
    """A row per arm, measure and comparison."""
    held = {
        (arm, when): [prompts(folder / f"held_out_{when}.jsonl") for folder in some]
        for arm, some in folders.items()
        for when in ("before", "after")
    }
    groups = contents(next(iter(held.values()))[0], data)
    whole, made = np.concatenate(groups), []
    for arm in folders:
        after = held[arm, "after"]
        against = {"before": held[arm, "before"]} | ({"all": held["all", "after"]} if arm != "all" else {})
        for name in measures(after[0]):
            value = float(np.mean([measures(rows)[name](whole) for rows in after]))
            for other, rows in against.items():
                common = {"arm": arm, "measure": name, "value": value, "against": other}
                counts = {"prompts": len(whole), "contents": len(groups)}
                made.append(common | compared(name, rows, after, groups) | counts)
    return made


def by_perturbation(held: Sequence[Rows]) -> Table:
    """How far each perturbation moves a clip's mean rating, and how often the clean clip's is nearer to the target."""
    found: dict[str, list[tuple[float, bool]]] = {}
    for group in (group for rows in held for group in rows):
        clean = [a for r in group if (a := read_answer(r["completion"])) is not None]
        off = [a for r in group if (a := read_answer(r["perturbed"])) is not None]
        if clean and off:
            gap, target = np.mean(clean) - np.mean(off), group[0]["target"]
            nearer = abs(np.mean(clean) - target) < abs(np.mean(off) - target)
            found.setdefault(group[0]["perturbation"], []).append((float(gap), bool(nearer)))
    table = Table(
        "perturbation", "prompts", "rating, clean minus perturbed", "clean is nearer", title="after all rewards"
    )
    for name, pairs in sorted(found.items()):
        gaps, nearer = np.array(pairs, float).T
        error = gaps.std(ddof=1) / len(gaps) ** 0.5
        table.add_row(name, str(len(gaps)), f"{gaps.mean():+.2f} ± {error:.2f}", f"{nearer.mean():.0%}")
    return table


def show(rows: list[dict[str, Any]], against: str, console: Console) -> None:
    """A row per arm: each measure after training, and its difference with its interval."""
    names = list(dict.fromkeys(r["measure"] for r in rows))
    table = Table("arm", *names, title=f"after training, and minus {against}")
    for arm in dict.fromkeys(r["arm"] for r in rows if r["against"] == against):
        found = [r for r in rows if (r["arm"], r["against"]) == (arm, against)]
        table.add_row(
            arm, *(f"{r['value']:.3f} {r['difference']:+.3f}\n[{r['low']:+.3f}, {r['high']:+.3f}]" for r in found)
        )
    console.print(table)


def main(
    start: Annotated[Path, typer.Option(help="model folder that every arm starts from")],
    out: Annotated[Path, typer.Option(help="folder of the runs and of results.csv")] = Path("runs/grpo_learning"),
    data: Annotated[Path, typer.Option(help="data root, for the contents of the clips")] = Path("data/synthetic"),
    arms: Annotated[str, typer.Option(help="comma-separated; all of them by default")] = ",".join(ARMS),
    seeds: Annotated[str, typer.Option(help="comma-separated")] = "0,1,2",
    overrides: Annotated[list[str] | None, typer.Argument(help="overrides of every arm")] = None,
) -> None:
    """Trains the arms, one after the other; an arm that is finished is not trained again."""
    folders: dict[str, list[Path]] = {}
    for seed in map(int, seeds.split(",")):
        for arm in arms.split(","):
            made = trained(arm, seed, start.resolve(), out.resolve(), overrides or [])
            folders.setdefault(arm, []).append(made)
    rows = results(folders, data)
    with (out / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    console = Console(width=160)
    for against in ("before", "all"):
        show(rows, against, console)
    console.print(by_perturbation([prompts(folder / "held_out_after.jsonl") for folder in folders["all"]]))


if __name__ == "__main__":
    typer.run(main)
