"""What each GRPO reward teaches: `python benchmarks/grpo_learning.py --start runs/tiny/understanding/model`.

Trains stage `grpo` from one starting model once per arm: all rewards; each one switched off (weight 0: still measured);
rewards handed out at random within their group, which must not teach anything. The same held-out prompts are sampled
with the same random numbers before and after each arm. Prints a table and writes it, with every number, to OUT.
Further arguments are overrides of every arm, for example `stage.optim.max_steps=20`.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
REWARDS = ("regression", "ranking", "temporal", "format")
ARMS = {
    "all": [],
    **{f"without {name}": [f"stage.rewards.{name}.weight=0.0"] for name in REWARDS},
    "shuffled": ["stage.control.shuffle_rewards=true"],
}
SHOWN = {
    "SRCC": "srcc",
    "PLCC": "plcc",
    "parsed": "parse_rate",
    **{name: f"rewards/{name}/mean" for name in REWARDS},
}


def trained(arm: str, start: Path, out: Path, overrides: list[str]) -> dict[str, dict[str, float]]:
    """Held-out numbers of an arm before and after training; `sum`: the four rewards, whatever their weights."""
    folder = out / arm.replace(" ", "_")
    # One step between a log row and the next, so that metrics.jsonl holds the whole curve.
    command = [sys.executable, "train.py", "stage=grpo", f"out={folder}", f"stage.init_from={start}", "log.every=1"]
    subprocess.run([*command, *ARMS[arm], *overrides], cwd=ROOT, check=True)
    done = json.loads((folder / "tiny" / "grpo" / "done.json").read_text(encoding="utf-8"))
    made = {}
    for when in ("before", "after"):
        numbers = done[f"held_out_{when}"]
        made[when] = {label: numbers[key] for label, key in SHOWN.items() if key in numbers}
        made[when]["sum"] = sum(numbers[f"rewards/{name}/mean"] for name in REWARDS)
    return made | {"prompts": done["held_out_after"]["prompts"], "steps": done["steps"], "seconds": done["seconds"]}


def table_of(results: dict[str, dict]) -> Table:
    """A row before training, and one per arm after it."""
    names = [*SHOWN, "sum"]
    first = next(iter(results.values()))
    table = Table(title=f"{first['prompts']} held-out prompts, {first['steps']} steps")
    table.add_column("arm")
    for name in names:
        table.add_column(name, justify="right")
    rows = {"before": first["before"], **{arm: result["after"] for arm, result in results.items()}}
    for label, numbers in rows.items():
        table.add_row(label, *(f"{numbers[n]:.3f}" if n in numbers else "–" for n in names))
    return table


def main(
    start: Annotated[Path, typer.Option(help="model folder that every arm starts from")],
    out: Annotated[Path, typer.Option(help="folder of the runs and of results.json")] = Path("runs/grpo_learning"),
    arms: Annotated[str, typer.Option(help="comma-separated; all of them by default")] = ",".join(ARMS),
    overrides: Annotated[list[str] | None, typer.Argument(help="overrides of every arm")] = None,
) -> None:
    """Trains the arms, one after the other; an arm that is finished is not trained again."""
    results = {}
    for arm in arms.split(","):
        results[arm] = trained(arm, start.resolve(), out.resolve(), overrides or [])
        (out / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    Console(width=140).print(table_of(results))


if __name__ == "__main__":
    typer.run(main)
