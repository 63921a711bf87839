"""What eval.py does: benchmarks x predictor -> reports on the terminal, as JSON, Markdown and one HTML page.

An entry-point module: the only place where benchmarks, predictors and training meet.
"""

import json
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import yaml
from annotated_types import Ge, MinLen
from pydantic import TypeAdapter
from rich.console import Console

from vqa2.bench._answers import ANSWERS, read_answers
from vqa2.bench._items import Benchmark
from vqa2.bench._judge import Judge
from vqa2.bench._matrix import read_rows
from vqa2.bench._origin import embedded
from vqa2.bench._paper import difference_group
from vqa2.bench._report import write_html
from vqa2.bench._runner import ALONE, REPORT, Shard, read_report, write_report
from vqa2.bench._runner import run as run_benchmark
from vqa2.bench._samples import draw, worst
from vqa2.bench._summary import Point, RunSummary, Sample, Stage
from vqa2.bench._table import table, write_markdown
from vqa2.bench._wandb import log_tables
from vqa2.core.config import build, spec
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.progress import bars
from vqa2.core.records import Answer, Report
from vqa2.core.run import DONE, environment, rank, wandb_mode, world_size
from vqa2.predictors.saved import SavedPredictor

DATA_NOTE = (
    "photographs and textures in motion, degraded at known strength. Scores are compared with pseudo_mos (VMAF or the "
    "known strength, docs/data.md), a stand-in that is not a mean opinion score."
)
"""What the embedded data are."""


@spec
class EvalLog:
    """`wandb`: disabled, offline or online."""

    wandb: Literal["disabled", "offline", "online"]
    project: str


@spec
class EvalRun:
    """`benchmarks` and `predictor` are components by name; with predictor `model` and folder `auto`, `stages` says
    which stage's model of `run` answers which benchmark. `against`: saved answers that the new ones are tested
    against, item by item. `llm`, `second_llm`: what `judge` grades open answers with. `samples` random and the `worst`
    answers of each benchmark are shown in the report."""

    benchmarks: dict[str, dict[str, Any]]
    predictor: dict[str, Any]
    runs: str
    run: Annotated[str, MinLen(1)]
    train_preset: str
    stages: dict[str, str]
    ablation: tuple[str, ...]
    against: str | None
    llm: dict[str, Any]
    second_llm: dict[str, Any]
    judge: Judge
    log: EvalLog
    samples: Annotated[int, Ge(0)]
    worst: Annotated[int, Ge(0)]
    seed: Annotated[int, Ge(0)]


@runtime_checkable
class Scored(Protocol):
    """A benchmark that can draw predicted against target."""

    def points(self, items, answers) -> list[Point]:
        """One point per scored item."""


@dataclass
class _Page:
    """What the report collects while benchmarks run."""

    reports: list[Report] = field(default_factory=list)
    points: dict[str, list[Point]] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    worst: dict[str, list[Sample]] = field(default_factory=dict)


def evaluate(made: EvalRun, ensure: Callable[[str], None]) -> list[Report]:
    """Runs every benchmark, prints the table, writes `<runs>/<run>/eval/` and the page `report.html`; started by
    torchrun, the processes share the items and the first one reports (the others return nothing). Table and page also
    have the reports that earlier evaluations of this run left, each with who answered.

    `ensure(stage)` trains a stage of the run that is missing, or raises.
    """
    home, page, shard = Path(made.runs) / made.run, _Page(), _shard()
    against = None if made.against is None else SavedPredictor(Path(made.against))
    benchmarks = {key: build("benchmark", values, f"benchmarks.{key}") for key, values in made.benchmarks.items()}
    predictors = {key: _resolved(made, key, home, ensure) for key in benchmarks}
    _check(benchmarks)
    earlier = _reports(home, leave_out=benchmarks)
    for key, benchmark in benchmarks.items():
        predictor = build("predictor", predictors[key], "predictor").open()
        out = home / "eval" / key
        report = _run(benchmark, predictor, out, key, shard)
        if report is None:
            continue
        answers = read_answers(out / ANSWERS)
        if against is not None:
            report = _compared(report, benchmark, answers, against)
            write_report(out / REPORT, report)
        page.reports.append(report)
        _collect(page, benchmark, report, answers, made)
    if page.reports:
        _publish(made, home, page, earlier)
    return page.reports


def _check(benchmarks: Mapping[str, Benchmark]) -> None:
    """DataError that names whatever any of the benchmarks lacks, before the first is asked."""
    problems = []
    for benchmark in benchmarks.values():
        try:
            benchmark.items()
        except DataError as err:
            problems.append(str(err))
    if problems:
        raise DataError("; ".join(problems))


def _reports(home: Path, leave_out: Container[str] = ()) -> list[Report]:
    """What evaluations of a run have left, by benchmark."""
    paths = sorted((home / "eval").glob(f"*/{REPORT}"))
    return [read_report(path) for path in paths if path.parent.name not in leave_out]


def _publish(made: EvalRun, home: Path, page: _Page, earlier: list[Report]) -> None:
    """The table on the terminal and in Markdown, the page, and a wandb run where that is on."""
    # Into a file or a pipe the table keeps its columns; a terminal has its own width.
    console = Console() if Console().is_terminal else Console(width=160)
    console.print(table(page.reports))
    reports = [*page.reports, *earlier]
    write_markdown(home / "eval" / "report.md", reports)
    own = [r.benchmark for r in reports if embedded(r)]
    summary = RunSummary(
        data_note=f"Embedded data ({', '.join(own)}): {DATA_NOTE}" if own else "",
        earlier=[r.benchmark for r in earlier],
        stages=_stages(home),
        points=page.points,
        samples=page.samples,
        samples_note="drawn at random with the seed of this evaluation",
        worst=page.worst,
        abilities=read_rows(home),
        ablation=_ablation(made),
        environment=environment(made.seed),
        config=yaml.safe_dump(json.loads(TypeAdapter(EvalRun).dump_json(made)), sort_keys=False),
    )
    write_html(home / "report.html", f"vqa2: {made.run}", reports, summary)
    if made.log.wandb != "disabled":
        wandb_mode(made.log.wandb)
        log_tables(made.log.project, f"{made.run}-eval", page.reports, page.worst, home)
    console.print(f"report: {home / 'report.html'}")


def _shard() -> Shard:
    """This process among those that torchrun started; they meet through a process group of their own."""
    if world_size() == 1:
        return ALONE
    import torch.distributed as dist

    if not dist.is_initialized():
        # The slowest process may take hours longer than the first to come to a barrier.
        dist.init_process_group("gloo", timeout=timedelta(days=7))
    return Shard(rank(), world_size(), dist.barrier)


def _resolved(made: EvalRun, key: str, home: Path, ensure: Callable[[str], None]) -> dict[str, Any]:
    """The predictor's values for one benchmark; `folder: auto` becomes the model of the stage that serves it."""
    if made.predictor.get("folder") != "auto":
        return made.predictor
    if key not in made.stages:
        raise ConfigError(f"stages.{key}: required, or name a model folder with predictor.folder=...")
    stage = made.stages[key]
    if not (home / stage / DONE).is_file():
        ensure(stage)
    return {**made.predictor, "folder": str(home / stage / "model")}


def _run(benchmark, predictor, out: Path, key: str, shard: Shard) -> Report | None:
    with bars(shard.rank == 0) as shown:
        return run_benchmark(benchmark, predictor, out, partial(shown.at, key), shard)


def _compared(report: Report, benchmark: Benchmark, answers: dict[str, Answer], saved: SavedPredictor) -> Report:
    """The report with the differences to saved answers as one more group."""
    items = benchmark.items()
    others = [(saved.score if i.mode == "score" else saved.answer)([i.query])[0] for i in items]
    made = benchmark.compare(items, [answers[i.query.id] for i in items], others)
    against = {"against": saved.provenance}
    return replace(report, groups={**report.groups, difference_group(saved.name): made},
                   provenance=report.provenance | against)  # fmt: skip


def _collect(page: _Page, benchmark, report: Report, answers: dict[str, Answer], made: EvalRun) -> None:
    """Scatter points of scoring benchmarks, sample answers of question benchmarks, the worst items of all."""
    items = benchmark.items()
    pairs = [(i, answers[i.query.id]) for i in items]
    if isinstance(benchmark, Scored):
        page.points[report.benchmark] = benchmark.points(items, [a for _, a in pairs])
    elif "reference" in items[0].target:
        page.samples += draw(pairs, report.marks, count=made.samples, seed=made.seed)
    page.worst[report.benchmark] = worst(pairs, report.marks, count=made.worst, seed=made.seed)


def _stages(home: Path) -> list[Stage]:
    """The finished stages of a run, in the order in which they finished."""
    done = sorted(home.glob(f"*/{DONE}"), key=lambda p: p.stat().st_mtime)
    made = []
    for path in done:
        numbers = json.loads(path.read_text())
        flat = {k: v for k, v in numbers.items() if isinstance(v, int | float) and k != "seconds"}
        for when in ("held_out_before", "held_out_after"):
            if when in numbers:
                flat[f"{when}_reward"] = numbers[when]["reward"]
        made.append(Stage(name=path.parent.name, metrics=path.parent / "metrics.jsonl", seconds=numbers["seconds"],
                          numbers=flat))  # fmt: skip
    return made


def _ablation(made: EvalRun) -> dict[str, list[Report]]:
    """Reports of the runs named in `ablation` that have been evaluated."""
    found = {name: _reports(Path(made.runs) / name) for name in made.ablation}
    return {name: reports for name, reports in found.items() if reports}
