"""The entry points' shared front: Hydra composes, errors become one line and exit code 2. The only Hydra user."""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vqa2.core.config import suggest
from vqa2.core.errors import ConfigError, UserError


def conf_dir() -> Path:
    """The configuration folder: of the checkout, or the copy that a wheel carries."""
    here = Path(__file__).resolve().parent
    for folder in (here.parent / "conf", here / "conf"):
        if folder.is_dir():
            return folder
    raise ConfigError("conf: the configuration folder is missing; reinstall vqa2")


def composed(config: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The plain, resolved configuration `conf/<config>.yaml` with overrides. ConfigError in one line."""
    _check_groups(overrides)
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            made = compose(config, overrides=list(overrides))
        plain = OmegaConf.to_container(made, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as err:
        raise ConfigError(_explain(config, list(overrides), err)) from None
    assert isinstance(plain, dict)
    return plain


def options(group: str) -> list[str]:
    """The choices of a config group: its YAML files."""
    return sorted(p.stem for p in (conf_dir() / group).glob("*.yaml"))


def _check_groups(overrides: Sequence[str]) -> None:
    """`stage=gpro`: an unknown choice of a group, with the nearest one (Hydra's own message takes many lines)."""
    for item in overrides:
        key, sep, value = item.partition("=")
        group = key.partition("@")[0].lstrip("+/")
        if sep and (conf_dir() / group).is_dir() and "/" not in value and value not in options(group):
            raise ConfigError(f"{key}={value}: no such {group}{suggest(value, options(group))}")


def _explain(config: str, overrides: list[str], err: Exception) -> str:
    """One line; for a key that does not exist, the nearest one that does."""
    first = next((line.strip() for line in str(err).splitlines() if line.strip()), type(err).__name__)
    found = re.search(r"Could not override '([^']+)'", first)
    if found is None:
        return first
    path = found.group(1)
    others = [o for o in overrides if o.partition("=")[0] != path]
    parent, _, key = path.rpartition(".")
    node: Any = composed(config, others)
    for part in parent.split(".") if parent else []:
        node = node.get(part, {}) if isinstance(node, dict) else {}
    known = sorted(node) if isinstance(node, dict) else []
    return f"{path}: unknown key{suggest(key, known)}" if known else f"{path}: unknown key"


def split_arguments(argv: Sequence[str], positional: Sequence[str] = ()) -> list[str]:
    """Overrides of a command line. `--local_rank` of old launchers is tolerated, `--dry-run` is `dry_run=true`;
    other options are an error. `positional`: the keys that words without `=` are given to, in order."""
    kept, keys = [], list(positional)
    for item in argv:
        if item.startswith(("--local_rank", "--local-rank")):
            continue
        if item == "--dry-run":
            kept.append("dry_run=true")
            continue
        if item.startswith("-"):
            raise ConfigError(f"{item}: unknown option; settings are key=value, for example stage=grpo")
        if "=" not in item and not item.startswith("~"):
            if keys:
                kept.append(f"{keys.pop(0)}={item}")
                continue
            raise ConfigError(f"{item}: settings are key=value, for example stage=grpo")
        kept.append(item)
    return kept


def pop(overrides: list[str], key: str) -> str | None:
    """Takes `key=value` out of the overrides; the value or None."""
    for item in overrides:
        if item.startswith(f"{key}="):
            overrides.remove(item)
            return item.partition("=")[2]
    return None


def guarded(
    main: Callable[[list[str]], None], argv: Sequence[str] | None = None, positional: Sequence[str] = ()
) -> None:
    """Runs an entry point: a user's error is one readable line on stderr and exit code 2, without a traceback."""
    try:
        main(split_arguments(sys.argv[1:] if argv is None else argv, positional))
    except UserError as err:
        sys.stderr.write(f"error: {' '.join(str(err).split())}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command continues\n")
        sys.exit(130)
