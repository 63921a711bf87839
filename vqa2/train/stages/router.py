"""Stage `router`: a gate over our frozen model's hidden states that says which experts to trust with a clip.

Q-Router (arXiv 2510.08789) leaves this decision to a prompted language model; a learned gate is ours. The backbone is
frozen: every clip passes it once, and what trains is the gate alone (vqa2/model/gate.py), in one process, in seconds.
The experts' readings are kept on disk and shared with `python -m vqa2.experts`, whose calibrations are needed.

Whole contents of the training rows are held out. Where the gate is not better on them than the best single expert, it
says so, is marked, and the decider uses that expert instead.
"""

import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge

from vqa2.core.config import register
from vqa2.core.errors import ConfigError, DataError, MediaError
from vqa2.core.progress import bars
from vqa2.core.records import Clip, Instruction, Query, read_jsonl
from vqa2.core.run import say, world_size
from vqa2.experts.measure import Rated, measure, rated
from vqa2.experts.pool import Pool, PoolSpec
from vqa2.model.gate import GateCard, Shape, save
from vqa2.model.predict import Inference, ModelPredictor
from vqa2.train._router import GateFit, Material, Share, judge, split, train_gate
from vqa2.train.plan import Context


@register("stage", "router")
class Router:
    """`rows`: a file of rated training rows in the data root, of which at most `limit` clips (evenly spread; null: all)
    are used and `held_out`, a share, validate. `readings`: where raw scores are kept. `content_type`: the tag of a clip
    (in clips.jsonl; of published datasets, which have none, in the rows) that the content type is learned from."""

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

    def run(self, context: Context) -> dict[str, Any]:
        """Trains the gate, saves it in `model/` of the run folder and returns key numbers."""
        started = time.monotonic()
        if world_size() > 1:
            raise ConfigError("stage=router: a gate over a frozen backbone trains in one process; start it with python")
        root = Path(context.spec.data.root)
        items = rated(root, self.rows, self.limit)
        shown = self._shown(root)
        predictor = self._backbone(context)
        with self.experts.open() as pool:
            names = self._calibrated(pool)
            scores = self._scores(pool, items, names)
            curves = {name: pool.bound(name) for name in names}
        features, silent = _features(predictor, items, scores)
        kept = [i for i, item in enumerate(items) if item.media.id in features]
        types = [shown[items[i].media.id][1] for i in kept]
        known = tuple(sorted(set(types)))
        to_fit, to_judge = split([shown[items[i].media.id][0] for i in kept], self.held_out, context.spec.seed)
        _check_sizes(to_fit, to_judge)
        material = Material(
            features=torch.stack([features[items[i].media.id] for i in kept]),
            scores=scores[kept],
            mos=torch.tensor([items[i].mos for i in kept]),
            types=torch.tensor([known.index(kind) for kind in types]),
        )
        gate = train_gate(self._shape(material, names, known), self.fit, material.take(to_fit), context.spec.seed)
        best, better, validation = judge(gate, material.take(to_judge), self.bootstrap, context.spec.seed)
        card = GateCard(
            shape=gate.shape,
            curves=curves,
            backbone=str(context.init),
            checkpoint=predictor.provenance["checkpoint"],
            better=better,
            best=best,
            validation=validation,
        )
        save(gate, card, context.run.dir / "model")
        say(_verdict(card))
        return {
            "seconds": time.monotonic() - started,
            "rows": len(kept),
            "trained_on": len(to_fit),
            "left_out": silent,
            "better": better,
            "best": best,
            "validation": validation,
        }

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

    def _shape(self, material: Material, names: tuple[str, ...], types: tuple[str, ...]) -> Shape:
        width = material.features.shape[1]
        return Shape(width=width, hidden=self.fit.hidden, top_k=self.fit.top_k, experts=names, types=types)

    def _backbone(self, context: Context) -> ModelPredictor:
        if context.init is None:
            raise ConfigError("stage.after: null, but a router needs a trained model to look through")
        made = Inference(video=context.spec.model.video, device=context.spec.engine.device, max_new_tokens=1, workers=0)
        return ModelPredictor.load(context.init, made)

    def _calibrated(self, pool: Pool) -> tuple[str, ...]:
        """The experts that the gate chooses among; the others are named with the reason."""
        names = []
        for name in sorted(pool.experts):
            info, curve = pool.info(name), pool.calibration_of(name)
            if info.reference or info.prompt:
                continue
            if isinstance(curve, str):
                say(f"{name}: left out: {curve}")
                continue
            names.append(name)
        if len(names) < 2:
            raise DataError(
                f"{self.experts.calibration}: {len(names)} calibrated experts, at least 2 are needed to choose among; "
                "run `python -m vqa2.experts` first"
            )
        return tuple(names)

    def _scores(self, pool: Pool, items: Sequence[Rated], names: Sequence[str]) -> torch.Tensor:
        """Calibrated scores `[n,E]`, nan where an expert gave none; how many and why is said."""
        with bars() as shown:
            found = measure(pool, items, Path(self.readings), partial(shown.at, "experts"))
        failures = Counter(f"{r.expert}: {r.failure}" for name in names for r in found[name] if r.raw is None)
        for reason, count in sorted(failures.items()):
            say(f"{reason} on {count} of {len(items)} clips")
        readings = [[found[name][i] for name in names] for i in range(len(items))]
        values = [[float("nan") if r.raw is None else pool.calibrated(r).score for r in row] for row in readings]
        return torch.tensor(values, dtype=torch.float32)


def _features(
    predictor: ModelPredictor, items: Sequence[Rated], scores: torch.Tensor
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Hidden states `[D]` by clip, and the clips that have none, or no score, with the reason."""
    made, silent = {}, {}
    with bars() as shown:
        for item, row in zip(items, scores, strict=True):
            shown.add("features", 1, len(items))
            media = item.media
            if row.isnan().all():
                silent[media.id] = "no expert gave a score"
                continue
            try:
                made[media.id] = predictor.hidden(Query(id=media.id, path=media.path, kind=media.kind))
            except (MediaError, DataError) as err:
                silent[media.id] = str(err)
    for name, reason in silent.items():
        say(f"{name}: left out: {reason}")
    return made, silent


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
