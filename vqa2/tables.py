"""What table.py does: collects evaluation reports into a paper's table; with `produce`, makes the missing ones first.

An entry-point module. A table of `conf/table/tiny` stands for its namesake where preset=tiny is asked for: the paper's
comparison on the embedded data, never beside the paper's figures.
"""

import shlex
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from vqa2.bench._paper import Missing, Model, PaperTable, make_cells, origins
from vqa2.bench._paper_text import as_csv, latex, markdown, page
from vqa2.bench._runner import REPORT, read_report
from vqa2.core.config import build, decode, spec, suggest
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.records import Report
from vqa2.core.run import say
from vqa2.launch import composed, conf_dir, options, pop

_RUNS, _RUNS_KEY = "runs", {"train.py": "out", "eval.py": "runs"}
"""The folder of runs that train.py and eval.py use unless told otherwise, and the setting that tells them."""


@spec
class TableRun:
    """`runs`: folder of the run folders; `out`: where the table's four files go, called `name`. `models`: for rows to
    refer to."""

    name: str
    runs: str
    out: str
    models: dict[str, Model]
    table: PaperTable


def main(overrides: list[str]) -> None:
    """Prints the table and writes `<out>/<name>.md`, `.tex`, `.csv` and `.html`."""
    made = _placed(decode(TableRun, composed("table", _chosen(overrides)), "table"))
    if made.table.produce:
        _produce(made.table)
    report = cache(partial(_report, made))
    pairs = [(row.run, c.benchmark) for row in made.table.measured.values() for c in made.table.columns.values()]
    missing = missing_files(benchmark for run, benchmark in pairs if report(run, benchmark) is None)
    cells = make_cells(made.table, report, missing.__getitem__)
    who = origins(made.table, report)
    texts = {"md": markdown(made.table, cells, who), "tex": latex(made.table, cells, who),
             "csv": as_csv(cells), "html": page(made.table, cells, who)}  # fmt: skip
    folder = Path(made.out)
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in texts.items():
        (folder / f"{made.name}.{suffix}").write_text(text, encoding="utf-8")
    console = Console()
    if console.is_terminal:
        console.print(Markdown(texts["md"]))
    else:
        sys.stdout.write(texts["md"])
    say(f"written: {folder / made.name}.md, .tex, .csv, .html")


def _chosen(overrides: list[str]) -> list[str]:
    """The overrides with `table=` and `preset=` turned into a choice and its name: with preset=tiny, the default, the
    table of the embedded data where there is one. (`preset` is a config group of training, no key of a table.)"""
    rest = list(overrides)
    name, known = pop(rest, "table"), options("table")
    if not name:
        raise ConfigError(f"table: name one, for example table=vqa2-2; known: {', '.join(known)}")
    if name not in known:
        raise ConfigError(f"table={name}: no such table{suggest(name, known)}")
    preset = pop(rest, "preset") or "tiny"
    if preset not in options("preset"):
        raise ConfigError(f"preset={preset}: no such preset{suggest(preset, options('preset'))}")
    embedded = preset == "tiny" and (conf_dir() / "table" / "tiny" / f"{name}.yaml").is_file()
    return [f"table={'tiny/' if embedded else ''}{name}", f"name={name}{'-tiny' if embedded else ''}", *rest]


def _placed(made: TableRun) -> TableRun:
    """The table with commands that work in its folder of runs, where that is not the one they have by default."""

    def placed(command: str) -> str:
        keys = [_RUNS_KEY[word] for word in command.split() if word in _RUNS_KEY]
        return command if made.runs == _RUNS else " ".join([command, *(f"{key}={made.runs}" for key in keys)])

    def within(owner: Any) -> Any:
        return owner and replace(owner, commands=tuple(map(placed, owner.commands)))

    rows = {name: replace(within(row), model=within(row.model)) for name, row in made.table.measured.items()}
    return replace(made, table=replace(within(made.table), measured=rows))


def _produce(table: PaperTable) -> None:
    """Runs the commands of the table and of every row; each skips or continues what it finds done."""
    benchmarks = {c.benchmark for c in table.columns.values()}
    commands = [c for row in table.measured.values() for c in table.makes(row)]
    for command in dict.fromkeys(c.format(benchmark=b) for c in commands for b in sorted(benchmarks)):
        say(command)
        words = shlex.split(command)
        done = subprocess.run([sys.executable, *words[1:]], check=False, stdout=subprocess.DEVNULL)
        if done.returncode:
            raise DataError(f"`{command}` failed (exit code {done.returncode}); its error is above")


def _report(made: TableRun, run: str, benchmark: str) -> Report | None:
    path = Path(made.runs) / run / "eval" / benchmark / REPORT
    return read_report(path) if path.is_file() else None


def missing_files(benchmarks: Iterable[str], everything: bool = False) -> dict[str, list[Missing]]:
    """By benchmark of conf/, the input files that are not here (or all of them), with the command that makes them
    where there is one. One composition serves all benchmarks."""
    names = sorted({*benchmarks})
    if not names:
        return {}
    values = composed("eval", [f"benchmark=[{','.join(names)}]"])["benchmarks"]
    return {
        name: [(str(path), values[name].get("prepare")) for path in build("benchmark", values[name], name).inputs()
               if everything or not path.exists()]
        for name in names
    }  # fmt: skip
