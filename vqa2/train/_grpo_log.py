"""What a GRPO run leaves behind: one record per completion, the numbers logged per step, and `completions.jsonl`."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vqa2.core.scale import acr_to_score01, quality_metric
from vqa2.rewards._answer import read_answer, read_choice
from vqa2.rewards._scoring import group_rows
from vqa2.train._grpo_loss import Scored

TABLE = "completions.jsonl"
PERCENTILES = (10, 50, 90)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One completion, as processes exchange it. `target` on the 1-5 scale, None for a multiple-choice prompt, whose
    right letter is `choice`; `perturbed`: the answer to the clip disturbed by `perturbation`; `tokens` up to and
    including the end token; `counted`: how many of them enter the loss."""

    prompt_id: str
    clip_id: str
    prompt: str
    kind: str
    target: float | None
    choice: str | None
    text: str
    tokens: tuple[int, ...]
    clipped: bool
    counted: int
    perturbed: str | None
    perturbation: str | None

    @property
    def answer(self) -> float | str | None:
        """What was read from the completion; None where it does not follow the grammar."""
        return read_answer(self.text) if self.choice is None else read_choice(self.text)


def columns(records: Sequence[Record]) -> dict[str, list]:
    """The keyword lists that a reward function receives beside `completions`, in TRL's names where TRL has them."""
    return {
        "prompts": [r.prompt for r in records],
        "completion_ids": [list(r.tokens) for r in records],
        "prompt_id": [r.prompt_id for r in records],
        "clip_id": [r.clip_id for r in records],
        "target": [r.target for r in records],
        "choice": [r.choice for r in records],
        "kind": [r.kind for r in records],
        "perturbed": [r.perturbed for r in records],
    }


def step_metrics(records: Sequence[Record], parts: dict[str, list[float]], scored: Scored) -> dict[str, float]:
    """Numbers of one step over all processes, under TRL's names; NaN where a reward applied nowhere."""
    lengths = np.array([len(r.tokens) for r in records])
    ended = lengths[[not r.clipped for r in records]]
    total = scored.total.tolist()
    made = {
        "reward": _mean(total),
        "reward_std": _std(total),
        "frac_reward_zero_std": scored.zero_std.float().mean().item(),
        "parse_rate": float(np.mean([r.answer is not None for r in records])),
        "completions/mean_length": float(lengths.mean()),
        "completions/min_length": float(lengths.min()),
        "completions/max_length": float(lengths.max()),
        "completions/clipped_ratio": float(np.mean([r.clipped for r in records])),
        "completions/mean_terminated_length": float(ended.mean()) if len(ended) else 0.0,
    }
    for percent in PERCENTILES:
        made[f"completions/p{percent}_length"] = float(np.percentile(lengths, percent))
    for name, values in parts.items():
        made[f"rewards/{name}/mean"] = _mean(values)
        made[f"rewards/{name}/std"] = _std(values)
        made[f"rewards/{name}/not_applicable"] = float(np.isnan(values).sum())
    return made


def correlations(records: Sequence[Record]) -> dict[str, float]:
    """SRCC and PLCC of each rated prompt's mean readable answer with its target, and over how many prompts. Undefined
    ones (fewer than three prompts, a constant side) are left out."""
    rated = [r for r in records if r.target is not None]
    pairs = []
    for rows in group_rows([r.prompt_id for r in rated]).values():
        read = [a for k in rows if isinstance(a := rated[k].answer, float)]
        if read:
            pairs.append((float(np.mean(read)), rated[rows[0]].target))
    made = {"rated_prompts": float(len(pairs))}
    for key, name in (("srcc", "SRCC"), ("plcc", "PLCC raw")):
        value = quality_metric(name, *zip(*pairs), bootstrap=0, seed=0).value if pairs else None
        if value is not None:
            made[key] = value
    return made


def _mean(values: list[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return float(np.mean(known)) if known else math.nan


def _std(values: list[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return float(np.std(known, ddof=1)) if len(known) > 1 else math.nan


class StepFile:
    """JSON lines with a `step` each, in step order."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, step: int) -> None:
        """Drops the rows past `step`: a resumed run writes them again; a new run (step 0) starts an empty file."""
        if self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
            self.path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Appends rows, which hold their step."""
        with self.path.open("a", encoding="utf-8") as out:
            out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def read(self) -> list[dict[str, Any]]:
        """All rows; none where nothing was written."""
        return [json.loads(line) for line in self.path.read_text("utf-8").splitlines()] if self.path.is_file() else []


def table_rows(
    step: int, records: Sequence[Record], parts: dict[str, list[float]], scored: Scored, extras: dict[str, list]
) -> list[dict[str, Any]]:
    """The rows of `completions.jsonl` for one optimizer step (steps count from 1); `extras`: further columns."""
    total, advantages = scored.total.tolist(), scored.advantages.tolist()
    return [
        {
            "step": step,
            "prompt_id": record.prompt_id,
            "mos": None if record.target is None else round(100 * acr_to_score01(record.target), 4),
            "target": record.target if record.choice is None else record.choice,
            "completion": record.text,
            "answer": record.answer,
            "perturbed": record.perturbed,
            "perturbation": record.perturbation,
            "tokens": len(record.tokens),
            "clipped": record.clipped,
            "rewards": {name: _json(values[k]) for name, values in parts.items()},
            "reward": _json(total[k]),
            "advantage": advantages[k],
            **{name: values[k] for name, values in extras.items()},
        }
        for k, record in enumerate(records)
    ]


def _json(value: float) -> float | None:
    return None if math.isnan(value) else value
