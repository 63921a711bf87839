"""What a GRPO run leaves behind: one record per completion, the numbers logged per step, and `completions.jsonl`."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import TrainerCallback

from vqa2.rewards._answer import read_answer
from vqa2.train._grpo_loss import Scored

TABLE = "completions.jsonl"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One completion, as processes exchange it. `target` on the 1-5 scale; `perturbed`: the answer to the perturbed
    clip; `tokens` up to and including the end token; `counted`: how many of them enter the loss."""

    prompt_id: str
    prompt: str
    kind: str
    target: float
    text: str
    tokens: tuple[int, ...]
    clipped: bool
    counted: int
    perturbed: str | None


def columns(records: Sequence[Record]) -> dict[str, list]:
    """The keyword lists that a reward function receives beside `completions`, in TRL's names where TRL has them."""
    return {
        "prompts": [r.prompt for r in records],
        "completion_ids": [list(r.tokens) for r in records],
        "prompt_id": [r.prompt_id for r in records],
        "target": [r.target for r in records],
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
        "parse_rate": float(np.mean([read_answer(r.text) is not None for r in records])),
        "completions/mean_length": float(lengths.mean()),
        "completions/min_length": float(lengths.min()),
        "completions/max_length": float(lengths.max()),
        "completions/clipped_ratio": float(np.mean([r.clipped for r in records])),
        "completions/mean_terminated_length": float(ended.mean()) if len(ended) else 0.0,
    }
    for name, values in parts.items():
        made[f"rewards/{name}/mean"] = _mean(values)
        made[f"rewards/{name}/std"] = _std(values)
        made[f"rewards/{name}/not_applicable"] = float(np.isnan(values).sum())
    return made


def _mean(values: list[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return float(np.mean(known)) if known else math.nan


def _std(values: list[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return float(np.std(known, ddof=1)) if len(known) > 1 else math.nan


class CompletionTable:
    """`completions.jsonl` of a run: every completion with its answer, reward parts and advantage."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / TABLE

    def rewind(self, step: int) -> None:
        """Drops the rows past `step`: a resumed run writes them again; a new run (step 0) starts an empty table."""
        if self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
            self.path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def add(self, step: int, records: Sequence[Record], parts: dict[str, list[float]], scored: Scored) -> None:
        """The rows of one optimizer step (steps count from 1)."""
        total, advantages = scored.total.tolist(), scored.advantages.tolist()
        with self.path.open("a", encoding="utf-8") as out:
            for k, record in enumerate(records):
                row = {
                    "step": step,
                    "prompt_id": record.prompt_id,
                    "target": record.target,
                    "completion": record.text,
                    "answer": read_answer(record.text),
                    "perturbed": record.perturbed,
                    "tokens": len(record.tokens),
                    "clipped": record.clipped,
                    "rewards": {name: _json(values[k]) for name, values in parts.items()},
                    "reward": _json(total[k]),
                    "advantage": advantages[k],
                }
                out.write(json.dumps(row, ensure_ascii=False) + "\n")


def _json(value: float) -> float | None:
    return None if math.isnan(value) else value


class Rewind(TrainerCallback):
    """Brings the table back to the checkpoint that a run starts from."""

    def __init__(self, table: CompletionTable) -> None:
        self.table = table

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero:
            self.table.rewind(state.global_step)
