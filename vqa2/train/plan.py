"""What one invocation of train.py runs: the stage asked for, and the stages before it that are missing.

Stages are chained by `stage.after`; a stage starts from its predecessor's saved model (`init_from: auto`), from a given
folder, or, with no predecessor, from the model's YAML.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, MinLen
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from vqa2.bench._matrix import write as write_matrix
from vqa2.core.config import build, decode, spec
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.run import Run, fingerprint, rank, say, world_size
from vqa2.data.dataset import ClipCache
from vqa2.model.adapter import base_of
from vqa2.model.build import ModelSpec
from vqa2.train.card import set_facts, write_card
from vqa2.train.data import DataSpec, ensure_data
from vqa2.train.evaluation import Evaluation, benchmarks


@spec
class EngineSpec:
    """`device` cpu or cuda (asked for and absent is an error); `precision` of the computation; `longest_first`: the
    longest rows of a supervised stage make its first batch, so that memory that does not suffice is seen at once;
    `deepspeed` its JSON configuration or null."""

    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16"]
    longest_first: bool
    deepspeed: dict[str, Any] | None

    @property
    def partitions_weights(self) -> bool:
        """Whether it is ZeRO-3."""
        return (self.deepspeed or {}).get("zero_optimization", {}).get("stage") == 3


@spec
class LogSpec:
    """`wandb`: disabled, offline or online; `report_to`: other trackers of transformers; `every`: optimizer steps
    between log rows."""

    wandb: Literal["disabled", "offline", "online"]
    report_to: tuple[Literal["tensorboard", "trackio", "swanlab", "mlflow"], ...]
    project: str
    every: Annotated[int, Ge(1)]


@spec
class TrainRun:
    """Everything train.py needs. `train_missing`: train predecessors that are missing instead of stopping. `dry_run`:
    show the plan, the data and the memory, and stop."""

    name: Annotated[str, MinLen(1)]
    preset: str
    out: str
    seed: Annotated[int, Ge(0)]
    overwrite: bool
    dry_run: bool
    train_missing: bool
    chain: tuple[str, ...]
    stage: dict[str, Any]
    model: ModelSpec
    data: DataSpec
    engine: EngineSpec
    log: LogSpec
    evaluation: Evaluation


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a stage's `run` receives. `init` is the model folder to start from, None to build a new model; `clips` what
    the stages before it in this invocation have decoded; `benchmarks` those of `spec.evaluation`, by name."""

    spec: TrainRun
    run: Run
    init: Path | None
    clips: ClipCache
    benchmarks: dict[str, Any]

    @property
    def stage_before(self) -> str | None:
        """The stage whose model this one starts from."""
        return None if self.init is None else self.init.parent.name


@dataclass(frozen=True, kw_only=True)
class Job:
    """One stage to run."""

    label: str
    spec: TrainRun
    stage: Any
    run: Run
    after: Path | None

    @property
    def start(self) -> Path | None:
        """The model folder to start from, None to build a new model."""
        return self.after if self.stage.init_from == "auto" else Path(self.stage.init_from)

    def context(self, clips: ClipCache, benchmarks: dict[str, Any]) -> Context:
        """What the stage's `run` receives."""
        return Context(spec=self.spec, run=self.run, init=self.start, clips=clips, benchmarks=benchmarks)


def train(wanted: str, overrides: list[str], composed: Callable[..., dict[str, Any]], say_done: bool = False) -> None:
    """Plans and runs `wanted` with command-line overrides; a single finished stage returns at once.

    `composed(config, overrides)` is vqa2.launch's. Overrides of `stage` are those of `wanted`; a missing stage before
    it is trained as its own YAML says. The data is made first where the preset allows it.
    """

    def compose(label: str) -> dict[str, Any]:
        kept = overrides if wanted in (label, "all") else [o for o in overrides if not _of_stage(o)]
        return composed("train", [f"stage={label}", *kept])

    jobs = plan(wanted, compose)
    if jobs[0].spec.dry_run:
        from vqa2.train.preview import preview

        preview(jobs, Console(stderr=True, highlight=False))
        return
    if len(jobs) == 1 and jobs[0].run.state == "done" and not say_done:
        return
    ensure_data(jobs[0].spec.data, composed)
    execute(jobs, benchmarks(jobs[0].spec.evaluation, jobs[0].spec.out, composed))


def _of_stage(override: str) -> bool:
    """Whether an override changes what the stage is: `stage.optim.epochs=2`, `~stage.sets.x`, `hparams@stage=...`."""
    key = override.partition("=")[0].lstrip("+~")
    return (key.partition("@")[2] or key).partition(".")[0] == "stage"


def plan(wanted: str, compose: Callable[[str], dict[str, Any]]) -> list[Job]:
    """The jobs in order: `wanted` (or every stage of the chain for `all`) and its missing predecessors.

    `compose(label)` gives the plain config of a stage. ConfigError where a predecessor is missing and may not be
    trained (`train_missing: false`), unless they are only shown.
    """
    if wanted == "all":
        first = decode_run(compose, None)
        return [_job(label, compose) for label in first.chain]
    jobs = [_job(wanted, compose)]
    while jobs[0].after is not None and jobs[0].run.state != "done":
        before = _job(jobs[0].after.parent.name, compose)
        if before.run.state == "done":
            break
        if not (jobs[0].spec.train_missing or jobs[0].spec.dry_run):
            raise ConfigError(
                f"{jobs[0].after}: stage {jobs[0].label} starts from {before.label}, which is not there; "
                f"run `python train.py stage={before.label} preset={before.spec.preset} "
                f"name={before.spec.name}` first or set stage.init_from"
            )
        jobs.insert(0, before)
    return jobs


def decode_run(compose: Callable[[str], dict[str, Any]], label: str | None) -> TrainRun:
    """The decoded config of a stage (`None`: of no particular one)."""
    return decode(TrainRun, compose(label or "base"), "train")


def _job(label: str, compose: Callable[[str], dict[str, Any]]) -> Job:
    plain = compose(label)
    made = decode(TrainRun, plain, "train")
    stage = build("stage", made.stage, "stage")
    folder = Path(made.out) / made.name / label
    identity = {k: plain[k] for k in ("stage", "model", "seed")} | {"data": made.data.root}
    if made.data.streaming:
        check_streaming(made, label)
        identity["shuffle_buffer"] = made.data.shuffle_buffer
    if made.evaluation.keep == "best":
        identity["evaluation"] = plain["evaluation"]
    run = Run(folder, plain, identity, made.seed)
    after = None
    if stage.init_from != "auto":
        after = None
    elif stage.after is not None:
        after = Path(made.out) / made.name / stage.after / "model"
    return Job(label=label, spec=made, stage=stage, run=run, after=after)


def execute(jobs: list[Job], benchmarks: dict[str, Any]) -> None:
    """Runs the jobs; a finished one is skipped, a killed one continues. `benchmarks`: see Context."""
    check_device(jobs[0].spec.engine)
    disable_progress_bar()
    clips = ClipCache(jobs[0].spec.data.decode_cache_mb)
    if world_size() > 1:
        say(f"processes: {world_size()}")
    say("plan: " + " -> ".join(f"{j.label}{_mark(j.run)}" for j in jobs))
    for job in jobs:
        if not job.run.open(job.spec.overwrite):
            say(f"{job.label}: already done in {job.run.dir} (overwrite=true to train again)")
            continue
        if job.start is not None and not (base_of(job.start) / "config.json").is_file():
            raise DataError(
                f"{job.start}: no model to start stage {job.label} from; `vqa2 convert` makes one of published weights "
                "(docs/convert.md), or set stage.init_from"
            )
        summary = job.stage.run(job.context(clips, benchmarks))
        _finish(job, summary)
        if job.spec.evaluation.abilities and rank() == 0:
            say(f"stages x abilities: {write_matrix(job.run.dir.parent)}")
        say(f"{job.label}: done, {job.run.dir}")


def _finish(job: Job, summary: dict[str, Any]) -> None:
    """Marks the run as done, with what it started from and learned from, and writes the model's card."""
    made = {
        "label": job.label,
        "fingerprint": fingerprint(job.run.identity),
        "start": None if job.start is None else str(job.start),
        "sets": set_facts(Path(job.spec.data.root), job.spec.stage.get("sets", {})),
    }
    job.run.finish({**summary, **made})
    if rank() == 0 and (job.run.dir / "model" / "config.json").is_file():
        write_card(job.run.dir)


def _mark(run: Run) -> str:
    return {"done": " (done)", "partial": " (continue)", "new": ""}[run.state]


def check_streaming(made: TrainRun, label: str) -> None:
    """ConfigError where a stage needs what a stream of rows does not have."""
    if made.stage["name"] != "sft":
        raise ConfigError(f"data.streaming: stage {label} needs its rows in memory; supervised stages stream")
    for key, asked in (("stage.group_by_length", made.stage["group_by_length"]),
                       ("engine.longest_first", made.engine.longest_first)):  # fmt: skip
        if asked:
            raise ConfigError(f"data.streaming: a stream cannot be ordered by length; set {key}=false")


def check_device(engine: EngineSpec) -> None:
    """ConfigError where a GPU is asked for and there is none, or one process sees several: the library would split
    its batches over them in threads, without a word."""
    if engine.device != "cuda":
        # DeepSpeed, which transformers imports, warns where it finds no GPU by itself.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        return
    if not torch.cuda.is_available():
        raise ConfigError("engine.device: cuda is asked for but no GPU is visible; use engine=cpu")
    gpus = torch.cuda.device_count()
    if world_size() == 1 and gpus > 1:
        raise ConfigError(
            f"engine: one process and {gpus} GPUs; start with torchrun --nproc_per_node {gpus}, or show it one GPU "
            "(CUDA_VISIBLE_DEVICES)"
        )
