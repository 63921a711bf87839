"""Early alarms of a GRPO run: the three ways in which it is lost from the start, said while it is still cheap to stop.

Not in VQAThinker or TRL, which log the numbers and leave watching to the reader.
"""

from collections.abc import Mapping
from typing import Annotated

from annotated_types import Ge, Gt, Interval

from vqa2.core.config import spec
from vqa2.core.errors import ConfigError
from vqa2.core.run import say


@spec
class Alarms:
    """Watches the first `steps` optimizer steps (0: none). An alarm is raised once, after `patience` steps in a row
    with a parse rate of at most `parse_rate`; with no group whose completions differ in reward; or with a mean length
    of at most `length` times that of the first step. `stop`: an alarm ends the run."""

    steps: Annotated[int, Ge(0)]
    patience: Annotated[int, Ge(1)]
    parse_rate: Annotated[float, Interval(ge=0, lt=1)]
    length: Annotated[float, Gt(0), Interval(lt=1)]
    stop: bool


class Watch:
    """Sees every step's metrics, which are the same on all processes. `raised`: alarms so far, name -> what it said.

    A resumed run counts afresh, and takes its first step as the reference of lengths.
    """

    def __init__(self, settings: Alarms) -> None:
        self.settings = settings
        self.raised: dict[str, str] = {}
        self._in_a_row: dict[str, int] = {}
        self._first_length: float | None = None

    def see(self, step: int, metrics: Mapping[str, float]) -> None:
        """ConfigError on an alarm where `stop` is set."""
        if step > self.settings.steps:
            return
        length = metrics["completions/mean_length"]
        self._first_length = length if self._first_length is None else self._first_length
        floor = self.settings.length * self._first_length
        self._count(
            "parse_rate",
            metrics["parse_rate"] <= self.settings.parse_rate,
            f"{metrics['parse_rate']:.0%} of the completions follow the answer grammar; does the model know the reply "
            "form of the prompt, and does max_completion_length leave room for it?",
        )
        self._count(
            "zero_variance",
            metrics["frac_reward_zero_std"] == 1.0,
            "all completions of every prompt earn the same, so nothing is learned; raise the temperature, or look at "
            "the rewards in completions.html",
        )
        self._count(
            "length",
            length <= floor,
            f"completions shrank to {length:.1f} tokens on average, from {self._first_length:.1f}",
        )

    def _count(self, name: str, is_bad: bool, text: str) -> None:
        self._in_a_row[name] = self._in_a_row.get(name, 0) + 1 if is_bad else 0
        if self._in_a_row[name] < self.settings.patience or name in self.raised:
            return
        self.raised[name] = text
        if self.settings.stop:
            raise ConfigError(f"alarm {name}: {text} (stage.control.alarms.stop=false goes on)")
        say(f"alarm {name}: {text}")
