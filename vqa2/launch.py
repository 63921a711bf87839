"""The entry points' shared front: Hydra composes, errors become one line and exit code 2. The only Hydra user."""

import errno
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from vqa2.core.config import suggest
from vqa2.core.errors import ConfigError, UserError

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR}
_FULL = re.compile(r"no space left on device|disk is full|file write failed", re.IGNORECASE)
"""How libraries that write for us (SQLite, safetensors, PyTorch) say that the disk is full."""


def conf_dir() -> Path:
    """The configuration folder: of the checkout, or the copy that a wheel carries."""
    here = Path(__file__).resolve().parent
    for folder in (here.parent / "conf", here / "conf"):
        if folder.is_dir():
            return folder
    raise ConfigError("conf: the configuration folder is missing; reinstall vqa2")


def composed(config: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The plain, resolved configuration `conf/<config>.yaml` with overrides. ConfigError in one line."""
    _check_groups(config, overrides)
    try:
        plain = OmegaConf.to_container(_compose(config, overrides), resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as err:
        raise ConfigError(_explain(config, overrides, err)) from None
    assert isinstance(plain, dict)
    return plain


def _compose(config: str, overrides: Sequence[str]) -> DictConfig:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(config, overrides=[_quoted(item) for item in overrides])


def _quoted(item: str) -> str:
    """An override whose value Hydra's grammar cannot read as it stands (`root=/data/Größe 1`), its value quoted."""
    try:
        OverridesParser.create().parse_override(item)
    except HydraException:
        key, _, value = item.partition("=")
        value = re.sub(r'(\\*)("|$)', lambda found: 2 * found[1] + ('\\"' if found[2] else ""), value)
        return f'{key}="{value}"'
    return item


def options(group: str) -> list[str]:
    """The choices of a config group: its YAML files."""
    return sorted(p.stem for p in (conf_dir() / group).glob("*.yaml"))


def _choices(group: str) -> list[str]:
    """`options`, those in folders below too: `paper/grpo`."""
    folder = conf_dir() / group
    return sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml"))


def _groups(config: str) -> list[str]:
    """The config groups that `conf/<config>.yaml` chooses from, as overrides name them: `stage`, `llm@second_llm`."""
    defaults = OmegaConf.load(conf_dir() / f"{config}.yaml").get("defaults", [])
    return [str(key).removeprefix("override ").lstrip("/") for item in defaults if item != "_self_" for key in item]


def _check_groups(config: str, overrides: Sequence[str]) -> None:
    """`stage=gpro`: an unknown choice of a group, with the nearest one (Hydra's own message takes many lines)."""
    packages = {package: group for group in _groups(config) if (package := group.partition("@")[2])}
    for item in overrides:
        key, sep, value = item.partition("=")
        group = key.lstrip("+").partition("@")[0]
        if not sep or "$" in value or value.startswith("{"):
            continue
        if (conf_dir() / group).is_dir():
            # Several choices are written [a,b].
            for choice in value.strip("[]").split(","):
                if choice not in _choices(group):
                    raise ConfigError(f"{item}: no such {group}{suggest(choice, options(group) or _choices(group))}")
        elif key in packages:
            raise ConfigError(f"{item}: choose one of the group with {packages[key]}={value}")


_ADVICE = (
    (r"Missing mandatory value: (\S+)", r"\1: required and missing; set \1=..."),
    (
        r"Ambiguous value for argument '(.+)'",
        r"\1: one value is needed; start a run for each (commas in a text: quote it)",
    ),
    (r"Could not append to config. An item is already at '(.+)'", r"\1: is there already; write it without +"),
    (r"LexerNoViableAltException: ([^=]+)=.*", r"\1: no setting is called so; write key=value"),
)
"""Hydra's messages and what a user can do about them."""


def _explain(config: str, overrides: Sequence[str], err: Exception) -> str:
    """One line; for a key that does not exist, the nearest one that does."""
    first = next((line.strip() for line in str(err).splitlines() if line.strip()), type(err).__name__)
    if isinstance(err, InterpolationKeyError):
        return f"{err.full_key}: taken from a setting that is not there ({first}); set {err.full_key}=..."
    unknown = re.match(r"Could not (?:override|delete from config\.) '([^']+)'", first)
    if unknown is None:
        found = ((re.match(pattern, first), line) for pattern, line in _ADVICE)
        return next((match.expand(line) for match, line in found if match), first)
    path = unknown.group(1)
    others = [o for o in overrides if o.partition("=")[0].lstrip("~") != path]
    try:
        node: Any = OmegaConf.to_container(_compose(config, others))
    except (HydraException, OmegaConfBaseException) as other:
        return _explain(config, others, other)
    parts = path.split(".")
    for number, part in enumerate(parts):
        if not isinstance(node, dict) or part not in node:
            known = sorted(map(str, node)) if isinstance(node, dict) else []
            return f"{'.'.join(parts[: number + 1])}: unknown key{suggest(part, known) if known else ''}"
        node = node[part]
    return first


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
        if item in ("-m", "--multirun"):
            raise ConfigError(f"{item}: no sweeps here; start a run for each value, with a name of its own")
        if item.startswith("-"):
            raise ConfigError(f"{item}: unknown option; settings are key=value (see --help)")
        if "=" not in item and not item.startswith("~"):
            if keys:
                kept.append(f"{keys.pop(0)}={item}")
                continue
            raise ConfigError(f"{item}: settings are key=value, for example seed=1 (see --help)")
        kept.append(item)
    return kept


def pop(overrides: list[str], key: str) -> str | None:
    """Takes `key=value` out of the overrides; the value or None."""
    for item in overrides:
        if item.startswith(f"{key}="):
            overrides.remove(item)
            return item.partition("=")[2]
    return None


def pop_count(overrides: list[str], key: str, default: int) -> int:
    """`pop` of a whole number from 1 on. ConfigError for anything else."""
    value = pop(overrides, key)
    if value is not None and not re.fullmatch("[1-9][0-9]*", value):
        raise ConfigError(f"{key}={value}: a whole number from 1 on is needed")
    return default if value is None else int(value)


def usage(config: str, doc: str) -> str:
    """The text of `--help`: what the entry point says of itself, choices of its groups, settings with their values."""
    lines = [doc, "", "Choices, as group=choice:"]
    for group in _groups(config):
        known = group.partition("@")[0]
        lines.append(f"  {group}: {', '.join(options(known) or _choices(known))}")
    text = (conf_dir() / f"{config}.yaml").read_text(encoding="utf-8")
    own = re.sub(r"^defaults:\n(?: +.*\n)+\n*", "", text, flags=re.MULTILINE)
    lines += [
        "",
        f"Settings of conf/{config}.yaml, as key=value:",
        *(f"  {line}".rstrip() for line in own.splitlines()),
    ]
    lines += ["", "--cfg job, with any settings: prints every value that would be used, and runs nothing."]
    return "\n".join(lines) + "\n"


def _shown(config: str, argv: Sequence[str], positional: Sequence[str], doc: str) -> str | None:
    """What `--help` or `--cfg job` prints; None where neither is asked for."""
    if "--help" in argv or "-h" in argv:
        return usage(config, doc)
    words = list(argv)
    if "--cfg" not in words:
        return None
    at = words.index("--cfg")
    if words[at + 1 : at + 2] != ["job"]:
        raise ConfigError("--cfg: write --cfg job")
    del words[at : at + 2]
    overrides = split_arguments([w for w in words if w != "--resolve"], positional)
    _check_groups(config, overrides)
    try:
        return OmegaConf.to_yaml(_compose(config, overrides), resolve=True)
    except (HydraException, OmegaConfBaseException) as err:
        raise ConfigError(_explain(config, overrides, err)) from None


def guarded(
    main: Callable[[list[str]], None],
    config: str,
    argv: Sequence[str] | None = None,
    positional: Sequence[str] = (),
) -> None:
    """Runs an entry point on `conf/<config>.yaml`: what a user can mend is one readable line on stderr and exit code 2,
    without a traceback; `--help` and `--cfg job` run nothing."""

    def work() -> None:
        words = sys.argv[1:] if argv is None else argv
        said = [doc.strip() for doc in (sys.modules[main.__module__].__doc__, main.__doc__) if doc]
        text = _shown(config, words, positional, "\n\n".join(said))
        if text is None:
            main(split_arguments(words, positional))
        else:
            sys.stdout.write(text)

    code = exit_code(work)
    if code:
        sys.exit(code)


def exit_code(work: Callable[[], None]) -> int:
    """Of a command: 0, 2 for a user's error and 130 for Ctrl-C, each after one readable line on stderr."""
    try:
        work()
    except UserError as err:
        return _refused(str(err))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command continues\n")
        return 130
    except Exception as err:
        if isinstance(err, OSError) and err.errno in _DISK:
            return _refused(f"{err.filename or 'disk'}: {err.strerror}")
        if _FULL.search(str(err)):
            return _refused(f"disk full: {err}")
        raise
    return 0


def _refused(text: str) -> int:
    sys.stderr.write(f"error: {' '.join(text.split())}\n")
    return 2
