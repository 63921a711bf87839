"""Trainer callbacks: progress with time left, metrics as JSON lines, the first-step audit, whole checkpoints."""

import json
import shutil
import time
from pathlib import Path

from accelerate.utils import broadcast_object_list
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback

from vqa2.core.errors import ConfigError
from vqa2.core.run import rank, world_size
from vqa2.model.tune import Audit

METRICS = "metrics.jsonl"


class RichProgress(TrainerCallback):
    """A bar on terminals; a line about every ten seconds elsewhere; after the first steps, how long the rest takes."""

    ENOUGH = 4

    def __init__(self, label: str) -> None:
        self.label, self.console = label, Console(stderr=True)
        self.bar: Progress | None = None
        self.latest, self.said = "", 0.0

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if rank() == 0 and self.console.is_terminal:
            columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "left")
            self.bar = Progress(
                *columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=self.console
            )
            self.bar.start()
            self.task = self.bar.add_task(self.label, total=state.max_steps, completed=state.global_step, note="")
        self.start, self.first = time.monotonic(), state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        shown = ("loss", "reward", "parse_rate")
        self.latest = " ".join(f"{k} {logs[k]:.3f}" for k in shown if k in (logs or {})) or self.latest

    def on_step_end(self, args, state, control, **kwargs) -> None:
        now, done, left = time.monotonic(), state.global_step - self.first, state.max_steps - state.global_step
        if done == 1:
            self.warm = now
        # The first step is slow: kernels are chosen, clips are decoded for the first time.
        pace = (now - self.warm) / (done - 1) if done > 1 else now - self.start
        if self.bar is not None:
            self.bar.update(self.task, completed=state.global_step, note=self.latest)
        elif rank() == 0 and now - self.said > 10:
            self.said = now
            self.console.print(
                f"{self.label} {state.global_step}/{state.max_steps}, {pace * left:.0f} s left  {self.latest}"
            )
        if rank() == 0 and done == self.ENOUGH and left:
            text = f"{self.label}: {pace:.2f} s a step, about {pace * left / 60:.1f} min for the other {left}"
            self.console.print(text, highlight=False)

    def on_train_end(self, args, state, control, **kwargs) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


class JsonlLog(TrainerCallback):
    """Every log row, with its step, in the run folder; a resumed run drops the rows past its checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / METRICS

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if rank() == 0 and self.path.is_file():
            rows = [
                line for line in self.path.read_text().splitlines() if json.loads(line)["step"] <= state.global_step
            ]
            self.path.write_text("".join(row + "\n" for row in rows))

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if rank() == 0 and logs:
            with self.path.open("a", encoding="utf-8") as out:
                out.write(json.dumps({"step": state.global_step, **logs}) + "\n")


def logged_sum(folder: Path, key: str) -> int:
    """Sum of a count over all log rows of a run, resumed or not."""
    rows = map(json.loads, (folder / METRICS).read_text(encoding="utf-8").splitlines())
    return sum(row.get(key, 0) for row in rows)


class AuditFirstSteps(TrainerCallback):
    """After the first optimizer step with a learning rate above zero that used a part: did it move or stay as the
    policy says? Looks until every trained part was used, but not beyond PATIENCE steps: batches may hold one kind of
    rows.

    `used`: the parts that the rows of the current step used, kept by the trainer. `ready` tells whether there has been
    a gradient yet: GRPO has none while all completions of a group earn the same.
    """

    PATIENCE = 50

    def __init__(self, audit: Audit, used: set[str], say, ready=lambda: True) -> None:
        self.audit, self.used, self.say, self.ready = audit, used, say, ready
        self.waiting = {part for part, policy in audit.tune.parts.items() if policy != "frozen"}
        self.result: dict[str, bool] | None = None

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:
        self.audit.start(model)

    def on_step_end(self, args, state, control, model=None, **kwargs) -> None:
        # Warm-up makes the rate of the very first step zero: nothing can move there.
        first = 2 if args.warmup_steps else 1
        if self.result is not None or state.global_step < first or not self.ready():
            return
        found = self.audit.check(model, self.used)
        self.waiting -= self.used
        if self.waiting and state.global_step < min(first + self.PATIENCE, state.max_steps):
            return
        self.result = found
        moved = ", ".join(part for part, yes in found.items() if yes)
        stayed = ", ".join(part for part, yes in found.items() if not yes)
        unused = f"; not used by the rows: {', '.join(sorted(self.waiting))}" if self.waiting else ""
        self.say(f"audit: moved {moved or 'nothing'}; stayed {stayed or 'nothing'}{unused}")


class EngineStarted(TrainerCallback):
    """Before the first step: is the model in the engine that the configuration asks for? Launchers have been seen to
    fall back to plain data parallelism without a word."""

    def __init__(self, trainer, deepspeed: bool) -> None:
        self.trainer, self.deepspeed = trainer, deepspeed

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        found = type(self.trainer.model_wrapped).__name__
        wanted = "DeepSpeedEngine" if self.deepspeed else "DistributedDataParallel" if world_size() > 1 else found
        if found != wanted:
            raise ConfigError(
                f"engine: {wanted} is asked for but the model runs as {found}; start with torchrun or one of launchers/"
            )


def complete_checkpoints(folder: Path) -> list[Path]:
    """Newest first; one that a kill cut short lacks its state, which is written last."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]), reverse=True)
    return [path for path in found if (path / "trainer_state.json").is_file()]


def last_checkpoint(folder: Path) -> str | None:
    """Newest complete checkpoint; those cut short are removed. Rank 0 looks and tells the others, when the trainer has
    connected them: they might see what it is about to remove."""
    found: list[str | None] = [None]
    if rank() == 0:
        whole = complete_checkpoints(folder)
        for path in set(folder.glob("checkpoint-*")).difference(whole):
            shutil.rmtree(path)
        found = [str(whole[0]) if whole else None]
    broadcast_object_list(found)
    return found[0]


def remove_checkpoints(folder: Path) -> None:
    """Checkpoints serve resuming only; a finished run keeps its model."""
    if rank() == 0:
        for path in folder.glob("checkpoint-*"):
            shutil.rmtree(path)
