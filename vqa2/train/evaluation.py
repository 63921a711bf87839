"""What is evaluated while a stage trains, and on what: the settings, and the benchmarks they name."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from annotated_types import Ge, MinLen

from vqa2.core.config import build, spec
from vqa2.core.errors import ConfigError


@spec
class Measure:
    """A headline metric of a benchmark's report, or a group of it and a member of the group."""

    benchmark: str
    metric: Annotated[tuple[str, ...], MinLen(1)]
    larger: bool


@spec
class Evaluation:
    """`every` so many optimizer steps the `benchmarks` (names in conf/benchmark) are asked of the model as it is, 0 for
    never; `limit` items of each, a seeded draw. `best` names the metric by which the best model is kept beside the
    last; `keep` says which of the two the stage hands on. `predictor`: how clips are scored, by level softmax (`model`)
    or by a written thought and rating (`reasoning`). `abilities`: measured once at the end of every stage."""

    every: Annotated[int, Ge(0)]
    benchmarks: tuple[str, ...]
    limit: Annotated[int, Ge(3)] | None
    overrides: tuple[str, ...]
    best: Measure | None
    keep: Literal["last", "best"]
    abilities: dict[str, Measure]
    predictor: Literal["model", "reasoning"]
    max_new_tokens: Annotated[int, Ge(1)]
    workers: Annotated[int, Ge(0)]

    def named(self) -> list[str]:
        """Every benchmark that is needed."""
        return list(dict.fromkeys([*self.benchmarks, *(m.benchmark for m in self.abilities.values())]))


def benchmarks(made: Evaluation, out: str, composed: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """The benchmarks of an evaluation by name. ConfigError where the settings do not fit each other."""
    if made.benchmarks and not made.every:
        raise ConfigError("evaluation.every: 0 evaluates never; set the steps or evaluation.benchmarks=[]")
    if made.best is None and made.keep == "best":
        raise ConfigError("evaluation.keep: best needs evaluation.best, the metric to choose by")
    if made.best is not None and made.best.benchmark not in made.benchmarks:
        raise ConfigError(f"evaluation.best.benchmark: {made.best.benchmark} is none of evaluation.benchmarks")
    if made.keep == "best" and not {m.benchmark for m in made.abilities.values()} <= set(made.benchmarks):
        raise ConfigError("evaluation.abilities: with keep=best their benchmarks must be in evaluation.benchmarks")
    found = {}
    for name in made.named():
        values = composed("eval", [f"benchmark={name}", f"runs={out}", *made.overrides])["benchmarks"]
        if name not in values:
            raise ConfigError(f"evaluation: {name} names several benchmarks: {', '.join(values)}")
        found[name] = build("benchmark", values[name], f"benchmarks.{name}")
    return found
