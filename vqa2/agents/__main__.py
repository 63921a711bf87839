"""`python -m vqa2.agents [key=value ...]`: what routing and the agent add over single experts and means, as tables."""

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from vqa2.core.config import decode
from vqa2.core.progress import bars
from vqa2.core.records import Metric
from vqa2.core.run import say
from vqa2.launch import composed, guarded


def main(overrides: list[str]) -> None:
    from vqa2.agents._real import real
    from vqa2.agents.compare import CompareRun, embedded

    made = decode(CompareRun, composed("routing", overrides), "routing")
    with bars() as shown:
        tables = [embedded(made, shown.at)]
    if Path(made.real.folder).is_dir():
        tables += real(made.real, made.programs()[0])
    else:
        say(f"{made.real.folder}: no recorded scores here; the tables of real videos are left out")
    text = "\n\n".join(_markdown(table) for table in tables) + "\n"
    out = Path(made.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "routing.md").write_text(text, encoding="utf-8")
    (out / "routing.json").write_text(json.dumps([asdict(t) for t in tables], indent=1) + "\n", encoding="utf-8")
    console = Console(highlight=False, soft_wrap=True)
    console.print(text, markup=False)
    console.print(f"written: {out / 'routing.md'}", markup=False)


def _markdown(table) -> str:
    head = "| method | SRCC [95 %] | PLCC [95 %] | over single | over mean | n | s a clip | experts | model calls |"
    rows = ["| " + " | ".join(_cells(made)) + " |" for made in table.lines]
    notes = [f"- {note}" for note in table.notes]
    return "\n".join(
        [f"## {table.name} (n = {table.n})", "", head, "|" + "---|" * 9, *rows, *([""] if notes else []), *notes]
    )


def _cells(made) -> list[str]:
    gains = [_gain(made.over_single), _gain(made.over_mean)]
    cost = [_number(made.seconds, 3), _number(made.experts, 1), _number(made.models, 1)]
    return [made.method, _cell(made.srcc), _cell(made.plcc), *gains, str(made.srcc.n), *cost]


def _cell(metric: Metric) -> str:
    if metric.value is None:
        return metric.note
    interval = f" [{metric.lo:.3f}, {metric.hi:.3f}]" if metric.lo is not None else ""
    return f"{metric.value:.3f}{interval}"


def _gain(metric: Metric) -> str:
    """A difference with its interval; exactly none where a method is what it is compared with."""
    return (
        "0" if metric.value == 0 else metric.note if metric.value is None else f"{metric.value:+.3f} " + _bounds(metric)
    )


def _bounds(metric: Metric) -> str:
    return f"[{metric.lo:+.3f}, {metric.hi:+.3f}]"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    guarded(main, "routing")
