"""Benchmarks as a Trainer callback: asked of the model in training, logged, the best model kept, abilities noted.

An evaluation changes nothing of the training: answers are greedy, decoding workers draw no random numbers, and the
model is put back into training mode by the Trainer's next step.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import broadcast_object_list
from transformers import Trainer, TrainerCallback

from vqa2.bench._items import Benchmark, Item
from vqa2.bench._matrix import ABILITIES, find
from vqa2.bench._runner import REPORT, Shard, read_report
from vqa2.bench._runner import run as run_benchmark
from vqa2.core.records import Answer, Report
from vqa2.core.run import say
from vqa2.model.predict import Inference, ModelPredictor, weights_of
from vqa2.predictors.reasoning import ReasoningPredictor, reasoning
from vqa2.train.common import save_model
from vqa2.train.plan import Context

BEST = "best.json"


@dataclass(frozen=True)
class Limited:
    """`count` items of a benchmark, a seeded draw in the benchmark's order."""

    inner: Benchmark
    count: int
    label: str
    batch_size: int
    seed: int

    def inputs(self) -> tuple[Path, ...]:
        """The files of the whole benchmark."""
        return self.inner.inputs()

    def items(self) -> list[Item]:
        """The items that were drawn."""
        found = self.inner.items()
        index = np.random.default_rng(self.seed).permutation(len(found))[: self.count]
        return [found[i] for i in sorted(index)]

    def report(self, items: Sequence[Item], answers: Sequence[Answer], predictor: str) -> Report:
        """The benchmark's own report, on fewer items."""
        return self.inner.report(items, answers, predictor)


class Evaluate(TrainerCallback):
    """Every rank must take part: the items are shared out, under ZeRO-3 every rank asks all of them (a forward pass
    needs all ranks there)."""

    def __init__(self, trainer: Trainer, processor, context: Context) -> None:
        self.trainer, self.processor, self.context = trainer, processor, context
        self.spec, self.home = context.spec.evaluation, context.run.dir
        self.reports: dict[str, Report] = {}
        self.step = -1

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if self.spec.every and state.global_step % self.spec.every == 0 and state.global_step < state.max_steps:
            should_log = control.should_log
            self._evaluate(state.global_step, self.spec.benchmarks)
            control.should_log = should_log  # a log row of ours takes it back, and the step's own would be missing

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self._evaluate(state.global_step, self.spec.named())
        if self.spec.abilities and self.trainer.is_world_process_zero():
            self._note_abilities(state.global_step)

    def _evaluate(self, step: int, names: Sequence[str]) -> None:
        predictor = self._predictor(step)
        self.step, self.reports = step, {}
        for name in names:
            report = self._ask(name, predictor, self.home / "eval" / name / f"step-{step:06d}")
            if report is not None:
                self.reports[name] = report
        logs = {
            f"eval/{name}/{metric.name}": metric.value
            for name, report in self.reports.items()
            for metric in report.metrics
            if metric.value is not None
        }
        if names:
            self.trainer.log(logs)  # on every rank: the trainer sums counts there
            if self.spec.best is not None:
                self._keep_best()

    def _predictor(self, step: int) -> ModelPredictor | ReasoningPredictor:
        made = Inference(
            video=self.context.spec.model.video,
            device=str(self.trainer.args.device),
            max_new_tokens=self.spec.max_new_tokens,
            workers=self.spec.workers,
        )
        # Under ZeRO-3 these modules gather their weights by themselves, pass by pass.
        model = self.trainer.accelerator.unwrap_model(self.trainer.model_wrapped).eval()
        where = f"{self.home}@{step}"
        # No process has whole weights under ZeRO-3: run folder and step stand for them.
        checkpoint = where if _partitioned(self.context) else weights_of(model)
        found = ModelPredictor(model, self.processor, where, checkpoint, made)
        return found if self.spec.predictor == "model" else reasoning(found)

    def _ask(self, name: str, predictor: ModelPredictor | ReasoningPredictor, out: Path) -> Report | None:
        accelerator, benchmark = self.trainer.accelerator, self.context.benchmarks[name]
        if self.spec.limit is not None:
            benchmark = Limited(benchmark, self.spec.limit, benchmark.label, benchmark.batch_size, benchmark.seed)
        own = out
        shard = Shard(accelerator.process_index, accelerator.num_processes, accelerator.wait_for_everyone)
        if _partitioned(self.context):
            own = out if accelerator.is_main_process else out / f"rank{accelerator.process_index}"
            shard = Shard(0, 1, accelerator.wait_for_everyone)
        # Answers of an earlier life of this run were given by other weights of the same name.
        if accelerator.is_main_process:
            shutil.rmtree(out, ignore_errors=True)
        accelerator.wait_for_everyone()
        report = run_benchmark(benchmark, predictor, own, lambda done, total: None, shard)
        if own != out:
            shutil.rmtree(own)
            return None
        return report

    def _keep_best(self) -> None:
        """Saves the model where it is the best so far; `best.json` says which that is."""
        better = [False]
        if self.trainer.is_world_process_zero():
            better = [self._is_better()]
        if not broadcast_object_list(better)[0]:
            return
        save_model(self.trainer, self.processor, self.home / f"best-{self.step}", self.context)
        if self.trainer.is_world_process_zero():
            best = {"step": self.step, "value": self._value(), **asdict(self.spec.best)}
            part = self.home / f"{BEST}.part"
            part.write_text(json.dumps(best) + "\n", encoding="utf-8")
            part.replace(self.home / BEST)
            for folder in self.home.glob("best-*"):
                if folder.name != f"best-{self.step}":
                    shutil.rmtree(folder)
            say(f"best so far: {self.spec.best.benchmark} {best['value']:.4f} at step {self.step}")

    def _is_better(self) -> bool:
        value, best = self._value(), self.spec.best
        if value is None:
            return False
        before = read_best(self.home)
        if before is None:
            return True
        return value > before["value"] if best.larger else value < before["value"]

    def _value(self) -> float | None:
        assert self.spec.best is not None
        found = find(self.reports[self.spec.best.benchmark], self.spec.best.metric)
        return None if found is None else found.value

    def _note_abilities(self, step: int) -> None:
        """What this stage's model can do, for the matrix: of the model that the stage hands on."""
        best = read_best(self.home) if self.spec.keep == "best" else None
        found, where = self.reports, step
        if best is not None and best["step"] != step:
            where = best["step"]
            found = {m.benchmark: self._stored(m.benchmark, where) for m in self.spec.abilities.values()}
        measured = {name: find(found[m.benchmark], m.metric) for name, m in self.spec.abilities.items()}
        made = {
            "stage": self.home.name,
            "after": self.context.stage_before,
            "step": where,
            "abilities": {name: None if metric is None else asdict(metric) for name, metric in measured.items()},
            "larger": {name: m.larger for name, m in self.spec.abilities.items()},
        }
        (self.home / ABILITIES).write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")

    def _stored(self, name: str, step: int) -> Report:
        return read_report(self.home / "eval" / name / f"step-{step:06d}" / REPORT)


def read_best(home: Path) -> dict[str, Any] | None:
    """What `best.json` says, None where there is none."""
    path = home / BEST
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def callbacks(trainer: Trainer, processor, context: Context) -> list[TrainerCallback]:
    """The callback, where anything is to be evaluated."""
    return [Evaluate(trainer, processor, context)] if context.benchmarks else []


def save_final(trainer: Trainer, processor, context: Context) -> None:
    """`model/`, what the stage hands on: the last model, or the best one with evaluation.keep=best (the last stays as
    `last/`)."""
    home = context.run.dir
    save_model(trainer, processor, home / "model", context)
    best = read_best(home) if context.spec.evaluation.keep == "best" else None
    if best is not None and trainer.is_world_process_zero():
        (home / "model").replace(home / "last")
        shutil.copytree(home / f"best-{best['step']}", home / "model.part")
        (home / "model.part").replace(home / "model")
    trainer.accelerator.wait_for_everyone()


def _partitioned(context: Context) -> bool:
    deepspeed = context.spec.engine.deepspeed
    return deepspeed is not None and deepspeed["zero_optimization"]["stage"] == 3
