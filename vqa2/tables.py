"""What table.py does: collects evaluation reports into a paper's table; with `produce`, makes the missing ones first.

An entry-point module. A table of `conf/table/tiny` stands for its namesake where preset=tiny is asked for: the paper's
comparison on the embedded data, never beside the paper's figures.
"""

import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from vqa2.bench._paper import PaperTable, make_cells
from vqa2.bench._paper_text import as_csv, latex, markdown, page
from vqa2.bench._runner import REPORT, read_report
from vqa2.core.config import build, decode, spec, suggest
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.records import Report
from vqa2.core.run import say
from vqa2.launch import composed, conf_dir, options, pop


@spec
class TableRun:
    """`runs`: folder of the run folders; `out`: where the table's four files go, called `name`."""

    name: str
    runs: str
    out: str
    table: PaperTable


def main(overrides: list[str]) -> None:
    """Prints the table and writes `<out>/<name>.md`, `.tex`, `.csv` and `.html`."""
    made = decode(TableRun, composed("table", _chosen(overrides)), "table")
    if made.table.produce:
        _produce(made)
    cells = make_cells(made.table, lambda run, benchmark: _report(made, run, benchmark), cache(_missing))
    texts = {"md": markdown(made.table, cells), "tex": latex(made.table, cells),
             "csv": as_csv(cells), "html": page(made.table, cells)}  # fmt: skip
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
    name, known = pop(rest, "table") or "", options("table")
    if name not in known:
        raise ConfigError(f"table={name}: no such table{suggest(name, known)}")
    preset = pop(rest, "preset") or "tiny"
    if preset not in options("preset"):
        raise ConfigError(f"preset={preset}: no such preset{suggest(preset, options('preset'))}")
    embedded = preset == "tiny" and (conf_dir() / "table" / "tiny" / f"{name}.yaml").is_file()
    return [f"table={'tiny/' if embedded else ''}{name}", f"name={name}{'-tiny' if embedded else ''}", *rest]


def _produce(made: TableRun) -> None:
    """Runs the commands of every row; each command skips or continues what it finds done."""
    benchmarks = {c.benchmark for c in made.table.columns.values()}
    commands = [c for row in made.table.measured.values() for c in row.commands]
    for command in dict.fromkeys(c.format(benchmark=b) for c in commands for b in sorted(benchmarks)):
        say(command)
        words = shlex.split(command)
        done = subprocess.run([sys.executable, *words[1:]], check=False, stdout=subprocess.DEVNULL)
        if done.returncode:
            raise DataError(f"`{command}` failed (exit code {done.returncode}); its error is above")


def _report(made: TableRun, run: str, benchmark: str) -> Report | None:
    path = Path(made.runs) / run / "eval" / benchmark / REPORT
    return read_report(path) if path.is_file() else None


def _missing(benchmark: str) -> list[str]:
    """The input files that a benchmark of conf/ lacks, with the command that makes them where there is one."""
    if benchmark not in options("benchmark"):
        return [f"the benchmark {benchmark} (not in conf/benchmark)"]
    values = composed("eval", [f"benchmark={benchmark}"])["benchmarks"][benchmark]
    lacking = [str(path) for path in build("benchmark", values, benchmark).inputs() if not path.exists()]
    made = f" (`{values['prepare']}`)" if values.get("prepare") else ""
    return [f"{path}{made}" for path in lacking]
