"""What every stage shares: optimizer settings, the model to start from, rows without quarantined clips, saving."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from accelerate import PartialState
from annotated_types import Ge, Gt, Lt
from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from vqa2.core.config import spec
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.records import Instruction, inside, read_jsonl
from vqa2.core.run import rank, say, wandb_mode
from vqa2.data.dataset import QUARANTINE, load_rows
from vqa2.data.stream import Stream
from vqa2.data.video import Quarantine
from vqa2.model.adapter import ADAPTER, base_of, load_adapter, save_adapter
from vqa2.model.build import ModelSpec, build, kernels_of, quantization
from vqa2.model.tune import Tune, apply_policy, count_parameters, has_lora, merged_state
from vqa2.train._leaves import mark_leaves
from vqa2.train.plan import Context, LogSpec, TrainRun


@spec
class Optim:
    """Optimizer and loop. `epochs` over the mixture, or `max_steps` where it is above 0; `batch_size` rows per device
    and micro-batch; `warmup` as a share of all steps; `save_every` optimizer steps between checkpoints; `workers`
    decode clips beside the training process."""

    epochs: Annotated[float, Gt(0)]
    max_steps: Annotated[int, Ge(-1)]
    batch_size: Annotated[int, Ge(1)]
    accumulate: Annotated[int, Ge(1)]
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"]
    warmup: Annotated[float, Ge(0), Lt(1)]
    weight_decay: Annotated[float, Ge(0)]
    max_grad_norm: Annotated[float, Gt(0)]
    adam_beta2: Annotated[float, Gt(0), Lt(1)]
    gradient_checkpointing: bool
    save_every: Annotated[int, Ge(1)]
    workers: Annotated[int, Ge(0)]


def training_arguments(optim: Optim, context: Context) -> dict[str, Any]:
    """Keyword arguments of transformers.TrainingArguments, every value taken from the configuration."""
    made = context.spec
    wandb_mode(made.log.wandb)
    engine = made.engine
    # The newer name where the library has it: the older one is warned about.
    names = TrainingArguments.__dataclass_fields__
    checkpointing = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    return {
        "output_dir": str(context.run.dir),
        "run_name": f"{made.name}-{context.run.dir.name}",
        "project": made.log.project,
        "report_to": _trackers(made.log),
        "use_cpu": engine.device == "cpu",
        "bf16": engine.precision == "bf16",
        "deepspeed": engine.deepspeed,
        "seed": made.seed,
        "data_seed": made.seed,
        "num_train_epochs": optim.epochs,
        "max_steps": optim.max_steps,
        "gradient_accumulation_steps": optim.accumulate,
        "lr_scheduler_type": optim.schedule,
        "warmup_steps": optim.warmup,
        "weight_decay": optim.weight_decay,
        "max_grad_norm": optim.max_grad_norm,
        "adam_beta2": optim.adam_beta2,
        checkpointing: optim.gradient_checkpointing,
        "save_strategy": "steps",
        "save_steps": optim.save_every,
        "save_total_limit": 1,
        "logging_steps": made.log.every,
        "logging_first_step": True,
        "dataloader_num_workers": optim.workers,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "average_tokens_across_devices": True,
    }


def _trackers(log: LogSpec) -> list[str]:
    """Trackers as transformers names them. ConfigError for one that is not installed."""
    asked = [*([] if log.wandb == "disabled" else ["wandb"]), *log.report_to]
    missing = [name for name in asked if name not in get_available_reporting_integrations()]
    if missing:
        raise ConfigError(f"log.report_to: {missing[0]} is not installed; pip install {missing[0]}")
    return asked


def starting_model(context: Context, tune: Tune):
    """Model and processor: the predecessor's, or a new one from the model's YAML (random weights are seeded). `tune` is
    applied, and where training continues from an adapter, its weights are loaded."""
    check_quantize(context.spec, context.init, tune)
    if context.init is None:
        network, processor = build(context.spec.model, set_texts(Path(context.spec.data.root)))
    else:
        network, processor = _saved(context.spec.model, base_of(context.init))
    if network.config.text_config.tie_word_embeddings:
        # The head is the embedding: a checkpoint without it lacks nothing, and a resumed run need not be warned.
        network._keys_to_ignore_on_save = {"lm_head.weight"}
    apply_policy(network, tune)
    mark_leaves(network, context.spec.engine)
    if context.init is not None and base_of(context.init) != context.init:
        load_adapter(network, context.init)
    return network, processor


def _saved(model: ModelSpec, folder: Path):
    """Model and processor of a folder."""
    quantized = quantization(model)
    network = AutoModelForImageTextToText.from_pretrained(
        folder,
        dtype=model.dtype,
        attn_implementation=kernels_of(model.attention),
        quantization_config=quantized,
        device_map=None if quantized is None else {"": PartialState().device},
    )
    if quantized is not None:
        # The Trainer would refuse adapters that it has not injected itself.
        network.is_quantized = False
    if network.config.layout != model.layout:
        raise ConfigError(
            f"model.layout: {folder} was trained with layout {network.config.layout}, "
            f"the configuration asks for {model.layout}"
        )
    processor = AutoProcessor.from_pretrained(folder)
    processor.use_motion = model.use_motion
    return network, processor


def check_quantize(spec: TrainRun, init: Path | None, tune: Tune) -> None:
    """ConfigError where quantized weights cannot be trained as the rest of the configuration asks."""
    if spec.model.quantize is None:
        return
    if tune.parts["lm"] == "full":
        raise ConfigError("stage.tune.parts.lm: full, but model.quantize leaves 4 bits of its weights; use lora")
    if init is None:
        raise ConfigError("model.quantize: needs a saved model to start from; set stage.init_from (see vqa2 convert)")
    if spec.engine.partitions_weights:
        raise ConfigError("model.quantize: ZeRO-3 cannot partition 4-bit weights; use engine=ddp or zero2")


def set_texts(root: Path) -> list[str]:
    """All training texts under a data root: the corpus of a tokenizer trained on the spot."""
    paths = sorted(root.glob("*.train.jsonl"))
    if not paths:
        raise DataError(f"{root}: no instruction sets (*.train.jsonl) to build a tokenizer from")
    return [text for p in paths for r in read_jsonl(p, Instruction) for t in r.turns for text in (t.user, t.assistant)]


def usable_rows(
    context: Context, sets: dict[str, float], split: str, quarantine: Path | None = None
) -> tuple[list[Instruction], int]:
    """The mixture's rows without those whose clip is on the quarantine list (the data root's, where no other is given);
    also how many were left out."""
    root = Path(context.spec.data.root)
    rows = load_rows(root, sets, split, context.spec.seed)
    bad = Quarantine.read(quarantine or root / QUARANTINE)
    kept = [r for r in rows if not bad or r.media is None or str(inside(root, r.media)) not in bad]
    if not kept:
        raise DataError(f"{root}: every row of {', '.join(sets)} is quarantined")
    return kept, len(rows) - len(kept)


def usable_stream(context: Context, sets: dict[str, float], split: str) -> Stream:
    """The mixture's rows as `usable_rows` has them, streamed (`data.streaming`)."""
    data = context.spec.data
    root = Path(data.root)
    bad = Quarantine.read(root / QUARANTINE)
    return Stream(root, sets, split, seed=context.spec.seed, buffer=data.shuffle_buffer, bad=set(bad))


def report_parts(model) -> dict[str, dict[str, int]]:
    """Says and returns trainable and total parameters per part."""
    counts = count_parameters(model)
    text = ", ".join(f"{part} {train:,}/{total:,}" for part, (train, total) in counts.items())
    say(f"trainable/all parameters: {text}")
    return {part: {"trainable": train, "total": total} for part, (train, total) in counts.items()}


def save_model(trainer: Trainer, processor, folder: Path, context: Context) -> None:
    """Weights (safetensors, LoRA folded in), processor, and with LoRA the adapter in `adapter/`; written beside and
    renamed, so that a kill leaves no half model. Under ZeRO-3 every rank must come here: the partitions are gathered
    onto rank 0.

    Adapters trained on 4-bit weights are folded into the weights that were quantized, as QLoRA does.
    """
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if rank() == 0:
        write_model(trainer.accelerator.unwrap_model(trainer.model_wrapped), state, processor, folder, context)
    # The next stage of a chain looks for this folder on every rank.
    trainer.accelerator.wait_for_everyone()


def write_model(model, state: dict[str, Any], processor, folder: Path, context: Context) -> None:
    """What `save_model` writes, of a gathered state."""
    part = folder.with_name(folder.name + ".part")
    if has_lora(model):
        base = "" if context.init is None else str(base_of(context.init))
        save_adapter(model, state, part / ADAPTER, base)
    if model.config.text_config.tie_word_embeddings:
        state.pop("lm_head.weight", None)  # the same tensor as the embeddings, which engines copy apart
    _write_weights(model, state, part, context)
    processor.save_pretrained(part)
    part.replace(folder)


def _write_weights(model, state, part: Path, context: Context) -> None:
    whole, base = model, None
    if context.spec.model.quantize is not None:
        assert context.init is not None
        whole = AutoModelForImageTextToText.from_pretrained(base_of(context.init), dtype=context.spec.model.dtype)
        base = whole.state_dict()
    whole.save_pretrained(part, state_dict=merged_state(model, state, base))


def kinds(rows: Sequence[Instruction]) -> dict[str, int]:
    """Rows per kind."""
    return {kind: sum(r.kind == kind for r in rows) for kind in ("image", "video", "text")}
