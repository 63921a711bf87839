"""`train.py stage=... --dry-run`: what would run, on how much data, what trains, and whether it fits, before it starts.

Memory per process is weights, gradients and optimizer state as the engine partitions them (ZeRO-1/2/3) or moves them to
main memory, and the larger of what the longest batch keeps for its backward pass (vqa2/model/memory.py) and the float32
gradients of DeepSpeed's update. Not counted: the engine's communication buckets and gathered layers, the allocator's
fragmentation, the framework itself, and, with gradient checkpointing, the one layer that is made again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from data_prep.run import MARKER
from vqa2.core.errors import DataError
from vqa2.core.prompts import SCORE_PREFIX
from vqa2.core.records import Instruction, read_jsonl
from vqa2.core.run import world_size
from vqa2.core.scale import LEVELS
from vqa2.data.dataset import ClipCache
from vqa2.experts.measure import rated
from vqa2.model.adapter import base_of
from vqa2.model.build import blueprint
from vqa2.model.hub import NotAtHand
from vqa2.model.memory import Shape, activation_bytes, blank
from vqa2.model.modeling import VQA2Config
from vqa2.model.processing import VQA2Processor
from vqa2.model.tune import apply_policy, count_parameters
from vqa2.train._lengths import Length, lengths
from vqa2.train.common import kinds, set_texts, usable_rows
from vqa2.train.plan import EngineSpec, Job
from vqa2.train.stages.grpo import Grpo
from vqa2.train.stages.router import Router

GIB = 2**30
_STAND_IN_VOCABULARY = 8192
"""Of the tokenizer that counts text where the model's own cannot be had."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes per process on its device, and `host`, what the engine moves to main memory."""

    weights: int
    gradients: int
    optimizer: int
    update: int
    activations: int
    host: int

    @property
    def total(self) -> int:
        """The peak: activations are gone when the update widens the gradients."""
        return self.weights + self.gradients + self.optimizer + max(self.activations, self.update)


def preview(jobs: list[Job], console: Console) -> None:
    """Prints the plan and, for every stage that would run, its numbers. A stage whose predecessor is yet to be trained
    is shown with the model that the configuration describes."""
    data = jobs[0].spec.data
    if not (Path(data.root) / MARKER).is_file():
        raise DataError(f"{data.root}: no prepared data to look at; run `{data.command}` first")
    console.print("plan: " + " -> ".join(f"{j.label} ({j.run.state})" for j in jobs))
    for job in (j for j in jobs if j.run.state != "done"):
        console.print(_table(job, console), markup=False)


def _table(job: Job, console: Console) -> Table:
    stage = job.stage
    if isinstance(stage, Router):
        return _router_table(job, stage, console)
    context, table = job.context(ClipCache(0), {}), Table("what", "value", title=job.label)
    rows, quarantined = usable_rows(context, stage.sets, "train")
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds(rows).items() if count)
    table.add_row("rows", f"{counted}; {quarantined} left out by the quarantine list")
    if isinstance(stage, Grpo):
        table.add_row("held-out prompts", str(len(stage.held_out(context, None))))
    table.add_row("optimizer steps", str(steps(len(rows), stage.optim)))
    _add_memory(table, job, rows, console)
    return table


def _router_table(job: Job, stage: Router, console: Console) -> Table:
    """With a frozen backbone the gate alone trains, on hidden states that are kept: not worth a line of memory."""
    root, table = Path(job.spec.data.root), Table("what", "value", title=job.label)
    found = rated(root, stage.rows, stage.limit)
    table.add_row("rated clips", f"{len(found)}, of which {stage.held_out:.0%} validate by content")
    table.add_row("experts in the pool", ", ".join(stage.experts.tools))
    table.add_row("optimizer steps", f"about {steps(round((1 - stage.held_out) * len(found)), stage.optim)}")
    if stage.tune.frozen:
        table.add_row("trains", "the gate alone, on hidden states of one pass of the frozen model")
        return table
    chosen = {item.media.id for item in found}
    rows = [row for row in read_jsonl(root / stage.rows, Instruction) if row.clip_id in chosen]
    _add_memory(table, job, rows, console)
    return table


def _add_memory(table: Table, job: Job, rows: Sequence[Instruction], console: Console) -> None:
    """Parameters, the longest of the rows, and what a process needs for it."""
    stage, (config, processor, known) = job.stage, _model(job)
    table.add_row("model", known)
    model = blank(config, getattr(torch, job.spec.model.dtype))
    apply_policy(model, stage.tune)
    if stage.optim.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    parts = count_parameters(model)
    multiple = job.spec.model.video.frame_multiple
    found = lengths(rows, Path(job.spec.data.root), processor, multiple, console)
    shape = longest(max(found), stage)
    memory = estimate(model, parts, shape, job.spec.engine)
    for part, (train, total) in parts.items():
        table.add_row(f"parameters, {part}", f"{train:,} train of {total:,}")
    clip = f"{shape.keys} key frames, {shape.motion} motion frames" if shape.keys else "text"
    table.add_row("longest row", f"{shape.tokens} tokens: {clip}; {shape.rows} rows a pass")
    table.add_row("longest rows come first", _order(job))
    for name in ("weights", "gradients", "optimizer", "activations", "update", "total", "host"):
        table.add_row(f"memory, {name}", f"{getattr(memory, name) / GIB:.3f} GiB a process")


def _order(job: Job) -> str:
    """Whether a batch that does not fit fails at once."""
    if isinstance(job.stage, Grpo):
        return "no: prompts are drawn at random"
    if isinstance(job.stage, Router):
        return "no: clips are drawn at random"
    return "yes, in the first batch" if job.spec.engine.longest_first else "no (engine.longest_first=true)"


def _model(job: Job) -> tuple[VQA2Config, VQA2Processor, str]:
    """The configuration and processor that the stage would start from, and where they are from."""
    folder, model = None if job.start is None else base_of(job.start), job.spec.model
    if folder is not None and (folder / "config.json").is_file():
        return VQA2Config.from_pretrained(folder), VQA2Processor.from_pretrained(folder), str(folder)
    yet = "" if job.start is None or job.after == job.start else f"{job.start} is not there; shown is "
    texts = set_texts(Path(job.spec.data.root))
    try:
        return *blueprint(model, texts), f"{yet}{model.weights or 'random weights'}"
    except NotAtHand:
        if not (model.vision and model.text):
            raise
    levels = [f"{SCORE_PREFIX} {level}." for level in LEVELS]
    stand_in = replace(model, weights=None, tokenizer=None, vocab_size=_STAND_IN_VOCABULARY)
    said = f"{yet}the size of {model.weights} by its YAML; text is counted by a tokenizer made of the sets"
    return *blueprint(stand_in, [*levels, *texts]), said


def steps(rows: int, optim) -> int:
    """Optimizer steps of a run, as the Trainer counts them."""
    if optim.max_steps > 0:
        return optim.max_steps
    batches = math.ceil(rows / (optim.batch_size * world_size()))
    return math.ceil(max(1, math.ceil(batches / optim.accumulate)) * optim.epochs)


def longest(found: Length, stage) -> Shape:
    """The batch that takes most memory: of rows as long as `found`, the longest one."""
    tokens, answer = found.tokens, found.answer
    if isinstance(stage, Grpo):
        # One packed row: the prompt once, and every completion at its full length.
        answer = stage.policy.num_generations * stage.policy.max_completion_length
        return Shape(rows=1, keys=found.keys, motion=found.motion, tokens=tokens + answer, answer=answer)
    rows = stage.optim.batch_size
    return Shape(rows=rows, keys=found.keys, motion=found.motion, tokens=tokens, answer=max(1, answer))


def estimate(model, parts: dict[str, tuple[int, int]], shape: Shape, engine: EngineSpec) -> Memory:
    """Bytes per process; see the module's docstring for what is left out."""
    zero = (engine.deepspeed or {}).get("zero_optimization", {})
    level, world = zero.get("stage", 0), world_size()
    trained, total = (sum(p[i] for p in parts.values()) for i in (0, 1))
    width = model.model.image_newline.element_size()
    if engine.precision == "bf16" and width == 4:
        # Autocast, or weights that DeepSpeed halves: what is kept for the backward pass is half as wide.
        model = model.to(torch.bfloat16)
        width = 2 if engine.deepspeed is not None else 4
    weights = total * width // (world if level == 3 else 1)
    share = trained // (world if level >= 1 else 1)
    # AdamW's two moments have the weights' type; DeepSpeed keeps both, and a copy of the weights, in float32, and
    # widens the gradients for the update.
    optimizer = share * (2 * width if engine.deepspeed is None else 12)
    widened = 0 if engine.deepspeed is None else share * 4
    moved = {"optimizer": "offload_optimizer" in zero, "weights": level == 3 and "offload_param" in zero}
    return Memory(
        weights=0 if moved["weights"] else weights,
        gradients=trained * width // (world if level >= 2 else 1),
        optimizer=0 if moved["optimizer"] else optimizer,
        update=0 if moved["optimizer"] else widened,
        activations=activation_bytes(model, shape),
        host=moved["optimizer"] * (optimizer + widened) + moved["weights"] * weights,
    )
