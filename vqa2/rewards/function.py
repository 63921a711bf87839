"""A reward function named in YAML: in a file of one's own, or importable; with TRL's signature. Not in VQAThinker.

It is called by keyword with lists aligned with `completions` (texts; docs/rewards.md names the others) and returns a
number per completion, or None where it does not apply. TRL's own rewards that read messages in place of texts do not
fit.
"""

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Annotated

from annotated_types import Ge

from vqa2.core.config import register, suggest
from vqa2.core.errors import ConfigError


@register("reward", "function")
class Function:
    """`source`: `my_rewards.py:brevity`, a file and a function in it, or `package.module:brevity`. ConfigError where
    there is none."""

    weight: Annotated[float, Ge(0)]
    source: str

    def __post_init__(self) -> None:
        found(self.source)

    def __call__(self, completions: list[str], **columns: object) -> list[float | None]:
        """What the function gives."""
        return found(self.source)(completions=completions, **columns)


@cache
def found(source: str) -> Callable[..., list[float | None]]:
    """The function that `source` names; its file is run once."""
    place, _, name = source.rpartition(":")
    if not place:
        raise ConfigError(f"reward function {source!r}: write my_rewards.py:brevity, or package.module:brevity")
    try:
        module = _file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except (OSError, ImportError, SyntaxError) as err:
        raise ConfigError(f"reward function {source!r}: {err}") from None
    known = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
    if name not in known:
        raise ConfigError(f"reward function {source!r}: {place} has no function {name!r}{suggest(name, known)}")
    return getattr(module, name)


def _file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
