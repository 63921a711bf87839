"""Reward functions as the GRPO trainer calls them: on the main process, for the whole step, each under a time limit."""

import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.pool import AsyncResult, ThreadPool
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from accelerate.utils import broadcast_object_list

from vqa2.core.errors import ConfigError
from vqa2.core.run import say
from vqa2.rewards._scoring import Field
from vqa2.train._grpo_log import Record, columns

LATE = object()
"""In place of the values of a reward that was not ready in time."""


class Reward(Protocol):
    """A reward: TRL's call signature and a weight. None for a completion that it does not apply to."""

    weight: float

    def __call__(self, *, completions: list[str], **columns: Any) -> list[float | None]: ...


@dataclass(frozen=True)
class TrlReward:
    """A plain TRL reward function (for example of `trl.rewards`) with a weight; it receives completions as texts."""

    function: Callable[..., list[float | None]]
    weight: float

    def __call__(self, *, completions: list[str], **columns: Any) -> list[float | None]:
        return self.function(completions=completions, **columns)


@dataclass(frozen=True)
class Verdict:
    """Reward name -> a value per record, NaN where it does not apply; numbers and columns that rewards log."""

    parts: dict[str, list[float]]
    metrics: dict[str, float] = field(default_factory=dict)
    extras: dict[str, list] = field(default_factory=dict)

    def shuffled(self, group: int, seed: Sequence[int]) -> "Verdict":
        """Every group's rewards handed to its completions in random order: the control that must not learn."""
        rng, size = np.random.default_rng(seed), len(next(iter(self.parts.values())))
        order = [first + k for first in range(0, size, group) for k in rng.permutation(group).tolist()]
        return Verdict({n: [v[k] for k in order] for n, v in self.parts.items()}, self.metrics, self.extras)


class Judge:
    """Computes the rewards of a step on the main process and hands them to all: plugged-in rewards may be slow, cost
    money or draw random numbers, and a timeout must be the same everywhere. So must an error be: a process that waited
    for the rewards of one that died would hang.

    A reward that takes longer than `timeout_s` applies to no completion of the step; that is said and counted
    (`rewards/<name>/timeouts`). Python cannot stop it: until it returns it is not called again, which counts, too.
    """

    def __init__(self, rewards: dict[str, Reward], timeout_s: float, is_main: bool) -> None:
        self.rewards, self.timeout_s, self.is_main = rewards, timeout_s, is_main
        self._late: dict[str, AsyncResult] = {}

    def __call__(self, records: Sequence[Record], past: Field) -> Verdict:
        """Every process must come here. ConfigError on all of them where a reward raises, or gives anything but a
        number or None for each completion."""
        box: list[Verdict | str | None] = [self._verdict_or_error(records, past) if self.is_main else None]
        broadcast_object_list(box)
        if isinstance(box[0], str):
            raise ConfigError(box[0])
        assert box[0] is not None
        return box[0]

    def _verdict_or_error(self, records: Sequence[Record], past: Field) -> Verdict | str:
        try:
            return self._verdict(records, past)
        except ConfigError as err:
            return str(err)

    def _verdict(self, records: Sequence[Record], past: Field) -> Verdict:
        made, logged = Verdict({}), {}
        given = {"completions": [r.text for r in records], **columns(records), "past": past}
        for name, reward in self.rewards.items():
            metrics: dict[str, float] = {}
            extras: dict[str, list] = {}
            values = self._within_limit(
                name, partial(reward, **given, log_metric=metrics.__setitem__, log_extra=extras.__setitem__)
            )
            made.metrics[f"rewards/{name}/timeouts"] = float(values is LATE)
            if values is LATE:
                made.parts[name] = [math.nan] * len(records)
                continue
            for column, entries in {name: values, **extras}.items():
                _check_column(column, entries, len(records))
            for value in [*(v for v in values if v is not None), *metrics.values()]:
                if not (isinstance(value, Real) and math.isfinite(value)):
                    raise ConfigError(f"reward {name}: gave {value!r}; use None where the reward does not apply")
            made.parts[name] = [math.nan if v is None else float(v) for v in values]
            logged |= metrics
            made.extras.update(extras)
        made.metrics.update(logged)
        return made

    def _within_limit(self, name: str, call: Callable[[], Any]) -> Any:
        """What the reward returned; LATE where it is late."""
        if name in self._late and not self._late[name].ready():
            return LATE
        # Its threads are daemons: a reward that never returns does not keep the program from ending.
        pool = ThreadPool(1)
        job = pool.apply_async(call)
        pool.close()
        job.wait(self.timeout_s)
        if not job.ready():
            self._late[name] = job
            say(f"reward {name}: no result after {self.timeout_s:g} s; it applies to nothing in this step")
            return LATE
        try:
            return job.get()
        except Exception as err:
            at = traceback.extract_tb(err.__traceback__)[-1]
            text = " ".join(f"{type(err).__name__}: {err}".split())
            raise ConfigError(f"reward {name}: {text} ({Path(at.filename).name}, line {at.lineno})") from err


def _check_column(name: str, entries: Any, count: int) -> None:
    """ConfigError for anything but a list with an entry per completion."""
    if not isinstance(entries, list):
        raise ConfigError(f"reward {name}: gave {type(entries).__name__}; a list with a value per completion is needed")
    if len(entries) != count:
        raise ConfigError(f"reward {name}: gave {len(entries)} values for {count} completions")
