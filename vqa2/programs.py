"""Router and agent for one file, as the `vqa2` command asks them: options to an item, settings to a predictor."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from vqa2.agents.item import Asked
from vqa2.agents.trace import Trace
from vqa2.core.config import build
from vqa2.core.errors import ConfigError
from vqa2.launch import composed
from vqa2.model.predict import kind_of

Box = tuple[float, float, float, float]
# `--set llm=http` chooses a component of a group; other settings are values of the predictor.
_GROUPS = {name: name for name in ("llm", "experts", "voice", "decider", "localize")} | {"priors": "router.priors"}


def region_of(text: str) -> tuple[str, Box]:
    """Name and box of `name=left,top,right,bottom`. ConfigError where it is none."""
    name, _, numbers = text.partition("=")
    try:
        left, top, right, bottom = map(float, numbers.split(","))
    except ValueError:
        left = top = right = bottom = 0.0
    if not name or not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ConfigError(f"--region {text}: not name=left,top,right,bottom in shares, such as sky=0,0,1,0.4")
    return name, (left, top, right, bottom)


def item(
    target: Path,
    *,
    question: str | None = None,
    reference: Path | None = None,
    prompt: str | None = None,
    regions: Mapping[str, Box] | None = None,
) -> Asked:
    """One file with what is known about it."""
    return Asked(
        id=target.name,
        path=target.resolve(),
        kind=kind_of(target),
        question=question,
        reference=None if reference is None else reference.resolve(),
        prompt=prompt,
        regions=regions or {},
    )


def run(program: str, asked: Asked, settings: Sequence[str]) -> tuple[Trace, Path]:
    """The trace of the router or the agent, as conf/predictor and `key=value` settings have it, and its file.
    ConfigError where no expert is calibrated."""
    groups, values = [], []
    for setting in settings:
        key, _, value = setting.partition("=")
        if key in _GROUPS:
            groups.append(f"{key}@predictor.{_GROUPS[key]}={value}")
        else:
            values.append(f"predictor.{setting}")
    made = build("predictor", composed("eval", [f"predictor={program}", *groups, *values])["predictor"], "predictor")
    if not any(Path(made.experts.calibration).glob("*.json")):
        raise ConfigError(f"{made.experts.calibration}: no expert is calibrated; run `python -m vqa2.experts` first")
    return made.open().trace(asked)
