"""Stage `router`: a gate over our model's hidden states that says which experts to trust with a clip.

Q-Router (arXiv 2510.08789) leaves this decision to a prompted language model; a learned gate is ours. With a frozen
backbone (`tune.parts`: all frozen) every clip passes it once, its hidden state is kept, and the gate alone trains; with
`lora` in any part, gate and adapters train together. Both are the Trainer of the other stages, on every engine. The
experts' readings are kept on disk and shared with `python -m vqa2.experts`, whose calibrations are needed.

Whole contents of the training rows are held out. Where the gate is not better on them than the best single expert, it
says so, is marked, and the decider uses that expert instead.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from annotated_types import Ge
from transformers import PrinterCallback, TrainingArguments, set_seed

from vqa2.core.config import register
from vqa2.core.errors import ConfigError, DataError, MediaError
from vqa2.core.progress import bars
from vqa2.core.records import Clip, Instruction, Query, read_jsonl
from vqa2.core.run import rank, say, world_size
from vqa2.experts.base import Media
from vqa2.experts.measure import Rated, rated
from vqa2.experts.pool import PoolSpec
from vqa2.model.gate import Gate, GateCard, Shape, save
from vqa2.model.predict import Inference, ModelPredictor, checkpoint_of
from vqa2.model.tune import Audit, Tune
from vqa2.train._panel import Panel, read
from vqa2.train._routed import BackboneAudit, Prompts, RoutedCollator, RoutedModel, RouterTrainer
from vqa2.train._router import GateFit, Material, Share, judge, split
from vqa2.train.callbacks import EngineStarted, JsonlLog, RichProgress, last_checkpoint, remove_checkpoints
from vqa2.train.common import Optim, report_parts, starting_model, training_arguments, write_model
from vqa2.train.plan import Context


@dataclass(frozen=True, kw_only=True)
class Data:
    """Clips with all that is known of them: `types` are the names of `material.types`; rows to fit and to judge on."""

    material: Material
    media: list[Media]
    types: tuple[str, ...]
    to_fit: list[int]
    to_judge: list[int]


@register("stage", "router")
class Router:
    """`rows`: a file of rated training rows in the data root, of which at most `limit` clips (evenly spread; null: all)
    are used and `held_out`, a share, validate. `readings`: where raw scores are kept. `content_type`: the tag of a clip
    (in clips.jsonl; of published datasets, which have none, in the rows) that the content type is learned from. `tune`:
    what of the backbone trains beside the gate, by LoRA."""

    after: str | None
    init_from: str
    rows: str
    limit: Annotated[int, Ge(8)] | None
    held_out: Share
    content_type: str
    experts: PoolSpec
    readings: str
    bootstrap: Annotated[int, Ge(1)]
    fit: GateFit
    tune: Tune
    optim: Optim

    def __post_init__(self) -> None:
        for part, policy in self.tune.parts.items():
            if policy == "full":
                raise ConfigError(f"stage.tune.parts.{part}: full, but the router's backbone is frozen or takes lora")
        if any(self.tune.learn_from.values()) or self.tune.motion_batchnorm != "stored":
            raise ConfigError("stage.tune: a router's parts learn from all rows, with stored BatchNorm statistics")

    def run(self, context: Context) -> dict[str, Any]:
        """Trains, saves the gate in `model/` of the run folder, an adapted backbone in `backbone/`, and returns key
        numbers."""
        started = time.monotonic()
        set_seed(context.spec.seed)
        if context.init is None:
            raise ConfigError("stage.after: null, but a router needs a trained model to look through")
        if context.benchmarks:
            say("evaluation: left out, a router in training answers nothing")
        items = rated(Path(context.spec.data.root), self.rows, self.limit)
        panel = read(self.experts, Path(self.readings), items)
        # Before the engine is up: under ZeRO-3 a model that is loaded later has no weights of its own.
        mine = _features(_predictor(context), items, panel.scores, slice(rank(), None, world_size()))
        backbone, processor = (None, None) if self.tune.frozen else starting_model(context, self.tune)
        parts = {} if backbone is None else report_parts(backbone)
        arguments = self._arguments(context)
        features, silent = _gathered(mine)
        data = self._data(context, items, panel, features)
        model = RoutedModel(self._gate(data, tuple(panel.curves), context.spec.seed), backbone, self.fit)
        prompts = None
        if processor is not None:
            prompts = Prompts(processor, data.media, context.spec.model.video, context.clips)
        material, to_judge = data.material, data.to_judge
        trainer = self._trainer(context, arguments, model, RoutedCollator(material, prompts), data.to_fit)
        result = trainer.train(resume_from_checkpoint=last_checkpoint(context.run.dir))
        if backbone is not None:
            material = _seen_again(trainer, material, to_judge)
        verdict = self._finished(context, trainer, processor, material.take(to_judge), panel.curves)
        remove_checkpoints(context.run.dir)
        return {
            "seconds": time.monotonic() - started,
            "steps": result.global_step,
            "rows": len(data.media),
            "trained_on": len(data.to_fit),
            "left_out": silent,
            "parameters": parts,
            **verdict,
        }

    def _data(self, context: Context, items: Sequence[Rated], panel: Panel, features: dict[str, torch.Tensor]) -> Data:
        """The clips that have a hidden state, split by content."""
        shown = self._shown(Path(context.spec.data.root))
        kept = [i for i, item in enumerate(items) if item.media.id in features]
        used = [items[i].media.id for i in kept]
        types = [shown[ident][1] for ident in used]
        known = tuple(sorted(set(types)))
        to_fit, to_judge = split([shown[ident][0] for ident in used], self.held_out, context.spec.seed)
        _check_sizes(to_fit, to_judge)
        material = Material(
            features=torch.stack([features[ident] for ident in used]),
            scores=panel.scores[kept],
            mos=torch.tensor([items[i].mos for i in kept]),
            types=torch.tensor([known.index(kind) for kind in types]),
        )
        return Data(
            material=material, media=[items[i].media for i in kept], types=known, to_fit=to_fit, to_judge=to_judge
        )

    def _shown(self, root: Path) -> dict[str, tuple[str, str]]:
        """Clip id -> (content, content type). DataError where nothing says what a clip shows."""
        if (root / "clips.jsonl").is_file():
            found = [(c.id, c.content, c.tags) for c in read_jsonl(root / "clips.jsonl", Clip)]
        else:
            rows = read_jsonl(root / self.rows, Instruction)
            found = [(row.clip_id, row.tags.get("content", ""), row.tags) for row in rows]
        unknown = [ident for ident, content, _ in found if not content]
        if unknown:
            raise DataError(f"{root / self.rows}: {unknown[0]}: no tag `content`; write the set again with data_prep")
        return {ident: (content, tags.get(self.content_type, "unknown")) for ident, content, tags in found}

    def _gate(self, data: Data, experts: tuple[str, ...], seed: int) -> Gate:
        """Its first weights do not depend on what of the backbone trains."""
        features = data.material.take(data.to_fit).features
        shape = Shape(
            width=features.shape[1],
            hidden=self.fit.hidden,
            top_k=self.fit.top_k,
            experts=experts,
            types=data.types,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            gate = Gate(shape)
        gate.standardize(features)
        return gate

    def _arguments(self, context: Context) -> TrainingArguments:
        """Connects the processes, too."""
        kept = self.optim if not self.tune.frozen else replace(self.optim, gradient_checkpointing=False)
        arguments = TrainingArguments(
            per_device_train_batch_size=self.optim.batch_size,
            per_device_eval_batch_size=self.optim.batch_size,
            # The library's own rule for its models.
            ddp_find_unused_parameters=not kept.gradient_checkpointing,
            **training_arguments(kept, context),
        )
        assert arguments.device is not None
        return arguments

    def _trainer(
        self,
        context: Context,
        arguments: TrainingArguments,
        model: RoutedModel,
        collator: RoutedCollator,
        rows: list[int],
    ) -> RouterTrainer:
        trainer = RouterTrainer(
            model=model, args=arguments, train_dataset=rows, data_collator=collator, tune=self.tune, made=self.fit
        )
        trainer.remove_callback(PrinterCallback)
        engine = EngineStarted(trainer, context.spec.engine.deepspeed is not None)
        for callback in (engine, RichProgress(context.run.dir.name), JsonlLog(context.run.dir)):
            trainer.add_callback(callback)
        if model.backbone is not None:
            trained = {part for part, policy in self.tune.parts.items() if policy != "frozen"}
            trainer.add_callback(BackboneAudit(Audit(self.tune), trained, say))
        return trainer

    def _finished(
        self, context: Context, trainer: RouterTrainer, processor, held: Material, curves: dict[str, str]
    ) -> dict[str, Any]:
        """Judges and saves the gate, and the backbone where it was adapted; the verdict on every rank."""
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        told: list[dict[str, Any]] = [{}]
        if rank() == 0:
            model, seen_by = trainer.accelerator.unwrap_model(trainer.model_wrapped), context.init
            if model.backbone is not None:
                seen_by = context.run.dir / "backbone"
                write_model(model.backbone, _below(state, "backbone."), processor, seen_by, context)
            gate = Gate(model.gate.shape)
            gate.load_state_dict({k: v.float().cpu() for k, v in _below(state, "gate.").items()})
            best, better, validation = judge(gate.eval(), held, self.bootstrap, context.spec.seed)
            card = GateCard(
                shape=gate.shape,
                curves=curves,
                backbone=str(seen_by),
                checkpoint=checkpoint_of(seen_by),
                better=better,
                best=best,
                validation=validation,
            )
            save(gate, card, context.run.dir / "model")
            say(_verdict(card))
            told = [{"better": better, "best": best, "validation": validation}]
        return broadcast_object_list(told)[0]


Features = tuple[dict[str, torch.Tensor], dict[str, str]]
"""Hidden states `[D]` by clip, and the clips that have none, or no score, with the reason."""


def _predictor(context: Context) -> ModelPredictor:
    assert context.init is not None
    made = Inference(video=context.spec.model.video, device=context.spec.engine.device, max_new_tokens=1, workers=0)
    return ModelPredictor.load(context.init, made)


def _features(predictor: ModelPredictor, items: Sequence[Rated], scores: torch.Tensor, share: slice) -> Features:
    """Of this process's share of the clips."""
    made, silent = {}, {}
    todo = list(zip(items, scores, strict=True))[share]
    with bars() as shown:
        for item, row in todo:
            shown.add("features", 1, len(todo))
            media = item.media
            if row.isnan().all():
                silent[media.id] = "no expert gave a score"
                continue
            try:
                made[media.id] = predictor.hidden(Query(id=media.id, path=media.path, kind=media.kind))
            except (MediaError, DataError) as err:
                silent[media.id] = str(err)
    return made, silent


def _gathered(mine: Features) -> Features:
    """Of all processes."""
    made: dict[str, torch.Tensor] = {}
    silent: dict[str, str] = {}
    for some, others in gather_object([mine]):
        made |= some
        silent |= others
    for name, reason in silent.items():
        say(f"{name}: left out: {reason}")
    return made, silent


def _seen_again(trainer: RouterTrainer, material: Material, rows: list[int]) -> Material:
    """What the trained backbone sees of some clips; every process takes part."""
    features = material.features.clone()
    features[rows] = torch.from_numpy(trainer.predict(rows).predictions)
    return replace(material, features=features)


def _below(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _check_sizes(to_fit: Sequence[int], to_judge: Sequence[int]) -> None:
    if min(len(to_fit), len(to_judge)) < 3:
        raise DataError(
            f"stage=router: {len(to_fit)} clips to train on and {len(to_judge)} of other contents to validate on: "
            "at least 3 of each are needed"
        )


def _verdict(card: GateCard) -> str:
    found, over = card.validation, card.validation["srcc_over_best"]
    between = "" if over["lo"] is None else f" [{over['lo']:+.3f}, {over['hi']:+.3f}]"
    difference = "undefined" if over["value"] is None else f"{over['value']:+.3f}{between}"
    said = f"SRCC {found['srcc']:.3f}, best single expert {card.best} {found['srcc_best']:.3f}, difference {difference}"
    if card.better:
        return f"validation on {found['clips']} clips of other contents: {said}"
    return f"not better than one expert on {found['clips']} clips of other contents: {said}; {card.best} will be used"
