"""Reward functions as the GRPO trainer calls them, and what it does with their results."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from vqa2.core.errors import ConfigError
from vqa2.train._grpo_log import Record, columns


class Reward(Protocol):
    """A reward: TRL's call signature and a weight. None for a completion that it does not apply to."""

    weight: float

    def __call__(self, *, completions: list[str], **columns: list) -> list[float | None]: ...


@dataclass(frozen=True)
class TrlReward:
    """A plain TRL reward function (for example of `trl.rewards`) with a weight; it receives completions as texts."""

    function: Callable[..., list[float | None]]
    weight: float

    def __call__(self, *, completions: list[str], **columns: list) -> list[float | None]:
        return self.function(completions=completions, **columns)


def reward_parts(rewards: dict[str, Reward], records: Sequence[Record]) -> dict[str, list[float]]:
    """Reward name -> a value per record, NaN where it does not apply. A result of the wrong length or a value that is
    not a finite number is a ConfigError that names the reward."""
    texts, shared = [r.text for r in records], columns(records)
    parts = {}
    for name, reward in rewards.items():
        values = reward(completions=texts, **shared)
        if len(values) != len(records):
            raise ConfigError(f"reward {name}: gave {len(values)} values for {len(records)} completions")
        if bad := [v for v in values if v is not None and not math.isfinite(v)]:
            raise ConfigError(f"reward {name}: gave {bad[0]}; use None where the reward does not apply")
        parts[name] = [math.nan if v is None else float(v) for v in values]
    return parts
