"""`train.py stage=... --dry-run`: what would run, on how much data, what trains, and whether it fits, before it starts.

Memory per process is weights, gradients and optimizer state as the engine partitions them (ZeRO-1/2/3), and what the
longest batch keeps for its backward pass (vqa2/model/memory.py). Not counted: the engine's communication buckets, the
allocator's fragmentation, the framework itself, and, with gradient checkpointing, the one layer that is made again.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from data_prep.run import MARKER
from vqa2.core.errors import DataError
from vqa2.core.records import Instruction, inside
from vqa2.core.run import world_size
from vqa2.data.dataset import ClipCache
from vqa2.data.video import probe
from vqa2.model.build import blueprint
from vqa2.model.memory import Shape, activation_bytes, blank
from vqa2.model.modeling import VQA2Config
from vqa2.model.processing import VQA2Processor
from vqa2.model.tune import apply_policy, count_parameters
from vqa2.train.common import kinds, set_texts, usable_rows
from vqa2.train.plan import EngineSpec, Job
from vqa2.train.stages.grpo import Grpo

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes per process."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


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
    rows, quarantined = usable_rows(job.context(ClipCache(0)), stage.sets, "train")
    config, processor = _model(job)
    model = blank(config, getattr(torch, job.spec.model.dtype))
    apply_policy(model, stage.tune)
    if stage.optim.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    parts = count_parameters(model)
    shape = longest(rows, Path(job.spec.data.root), processor, job, console)
    memory = estimate(model, parts, shape, job.spec.engine)
    table = Table("what", "value", title=job.label)
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds(rows).items() if count)
    table.add_row("rows", f"{counted}; {quarantined} left out by the quarantine list")
    table.add_row("optimizer steps", str(steps(len(rows), stage.optim)))
    for part, (train, total) in parts.items():
        table.add_row(f"parameters, {part}", f"{train:,} train of {total:,}")
    clip = f"{shape.keys} key frames, {shape.motion} motion frames" if shape.keys else "text"
    table.add_row("longest row", f"{shape.tokens} tokens: {clip}; {shape.rows} rows a pass")
    for name in ("weights", "gradients", "optimizer", "activations", "total"):
        table.add_row(f"memory, {name}", f"{getattr(memory, name) / GIB:.3f} GiB a process")
    return table


def _model(job: Job) -> tuple[VQA2Config, VQA2Processor]:
    """The configuration and processor that the stage would start from."""
    folder = job.start
    if folder is not None and (folder / "config.json").is_file():
        return VQA2Config.from_pretrained(folder), VQA2Processor.from_pretrained(folder)
    return blueprint(job.spec.model, set_texts(Path(job.spec.data.root)))


def steps(rows: int, optim) -> int:
    """Optimizer steps of a run, as the Trainer counts them."""
    if optim.max_steps > 0:
        return optim.max_steps
    batches = math.ceil(rows / (optim.batch_size * world_size()))
    return math.ceil(max(1, math.ceil(batches / optim.accumulate)) * optim.epochs)


def longest(rows: list[Instruction], root: Path, processor: VQA2Processor, job: Job, console: Console) -> Shape:
    """The row with most tokens, and a batch of its kind. File headers tell the frames."""
    sizes: dict[str, tuple[int, int]] = {}
    best = (0, 0, 0, 0)
    for row in track(rows, "probing headers", console=console, disable=not console.is_terminal):
        keys = motion = 0
        if row.media is not None:
            if row.media not in sizes:
                path = inside(root, row.media)
                sizes[row.media] = probe(path, row.kind, job.spec.model.video.frame_multiple)
            keys, motion = sizes[row.media]
        answer = sum(len(processor.tokenizer.encode(t.assistant)) for t in row.turns)
        text = answer + sum(len(processor.tokenizer.encode(t.user)) + 12 for t in row.turns)
        tokens = min(text + (keys * processor.tokens_per_frame + 1 + motion if keys else 0), processor.max_length)
        best = max(best, (tokens, keys, motion, answer))
    tokens, keys, motion, answer = best
    if isinstance(job.stage, Grpo):
        # One packed row: the prompt once, and every completion at its full length.
        answer = job.stage.policy.num_generations * job.stage.policy.max_completion_length
        return Shape(rows=1, keys=keys, motion=motion, tokens=tokens + answer, answer=answer)
    return Shape(rows=job.stage.optim.batch_size, keys=keys, motion=motion, tokens=tokens, answer=max(1, answer))


def estimate(model, parts: dict[str, tuple[int, int]], shape: Shape, engine: EngineSpec) -> Memory:
    """Bytes per process; see the module's docstring for what is left out."""
    zero = (engine.deepspeed or {}).get("zero_optimization", {})
    level, world = zero.get("stage", 0), world_size()
    trained, total = (sum(p[i] for p in parts.values()) for i in (0, 1))
    width = model.model.image_newline.element_size()
    # AdamW's two moments, and under DeepSpeed in bf16 a float32 copy of the weights.
    state = trained * (8 + 4 * (engine.deepspeed is not None and engine.precision == "bf16"))
    offloaded = "offload_optimizer" in zero
    if engine.precision == "bf16" and width == 4:
        # Autocast: weights stay, what is kept for the backward pass is half as wide.
        model = model.to(torch.bfloat16)
    return Memory(
        weights=total * width // (world if level == 3 else 1),
        gradients=trained * width // (world if level >= 2 else 1),
        optimizer=0 if offloaded else state // (world if level >= 1 else 1),
        activations=activation_bytes(model, shape),
    )
