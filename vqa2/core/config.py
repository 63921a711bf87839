"""Strict configuration: plain mappings become frozen dataclasses; anything off stops in one line with the nearest name.

Values live in YAML only (a field has no default); types, units and ranges live in the dataclasses. Components that a
user can add (stages, rewards, sources, sets, benchmarks, predictors) are looked up by name: component `x` of kind `k`
is the dataclass registered in the file `<package of k>/x.py`, so a new file needs no list edited.
"""

import difflib
import importlib
import json
import pkgutil
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as _pydantic_dataclass

from vqa2.core.errors import ConfigError

T = TypeVar("T")

PACKAGES = {
    "stage": "vqa2.train.stages",
    "reward": "vqa2.rewards",
    "benchmark": "vqa2.bench",
    "predictor": "vqa2.predictors",
    "llm": "vqa2.llms",
    "expert": "vqa2.experts.tools",
    "source": "data_prep.sources",
    "reader": "data_prep.readers",
    "set": "data_prep.sets",
}
_REGISTRY: dict[tuple[str, str], type] = {}

_STRICT = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)


def spec(cls: type[T]) -> type[T]:
    """Decorator: a frozen, keyword-only dataclass whose fields are validated strictly when it is decoded."""
    return _pydantic_dataclass(config=_STRICT, frozen=True, kw_only=True)(cls)


def register(kind: str, name: str):
    """Decorator: makes a `spec` known as component `name` of `kind`; the file must carry the same name."""
    assert kind in PACKAGES, f"unknown kind {kind}"

    def add(cls: type[T]) -> type[T]:
        assert cls.__module__ in (f"{PACKAGES[kind]}.{name}", "__main__") or "test" in cls.__module__, (
            f"{kind} {name!r} must live in {PACKAGES[kind]}/{name}.py, not in {cls.__module__}"
        )
        made = spec(cls)
        _REGISTRY[kind, name] = made
        return made

    return add


def names(kind: str) -> list[str]:
    """Every name that `build(kind, ...)` accepts: one per file of the kind's package, private files excepted."""
    package = importlib.import_module(PACKAGES[kind])
    found = {m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")}
    return sorted(found | {n for k, n in _REGISTRY if k == kind})


def build(kind: str, values: Mapping[str, Any], where: str) -> Any:
    """The component that `values["name"]` names, decoded from the other values. ConfigError where it does not fit."""
    name = values.get("name") if isinstance(values, Mapping) else None
    if not isinstance(name, str):
        raise ConfigError(f"{where}.name: required and missing; known {kind}s: {', '.join(names(kind))}")
    if (kind, name) not in _REGISTRY:
        if name not in names(kind):
            raise ConfigError(f"{where}.name: no {kind} called {name!r}{suggest(name, names(kind))}")
        importlib.import_module(f"{PACKAGES[kind]}.{name}")
    if (kind, name) not in _REGISTRY:
        raise ConfigError(f"{where}.name: {name!r} is no {kind}{suggest(name, [n for n in names(kind) if n != name])}")
    rest = {key: value for key, value in values.items() if key != "name"}
    return decode(_REGISTRY[kind, name], rest, where)


def decode(cls: type[T], values: Any, where: str) -> T:
    """Validates plain values (as YAML gives them) against `cls`. ConfigError: `path: what is wrong (nearest)`."""
    try:
        return _adapter(cls).validate_json(json.dumps(values))
    except ValidationError as err:
        raise ConfigError(_one_line(cls, err, where)) from None


@cache
def _adapter(cls: type) -> TypeAdapter:
    return TypeAdapter(cls)


def suggest(word: str, known: list[str]) -> str:
    """` (did you mean 'x'?); known: a, b` for an error line. A word that resembles none may be the end or a piece of
    one (`2` of `vqa2-2`)."""
    holding = sorted((k for k in known if word and str(word) in k), key=lambda k: (not k.endswith(str(word)), len(k)))
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5) or holding
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{hint}; known: {', '.join(known)}"


def _one_line(cls: type, err: ValidationError, where: str) -> str:
    # An unknown key is reported first: it usually explains the missing one.
    errors = sorted(err.errors(), key=lambda e: e["type"] != "unexpected_keyword_argument")
    first = errors[0]
    path = ".".join([where, *(str(x) for x in first["loc"])])
    if first["type"] == "value_error":
        # Raised by a dataclass's own check, which names the path itself.
        return str(first["ctx"]["error"])
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{path}: unknown key{suggest(str(first['loc'][-1]), _fields_at(cls, first['loc'][:-1]))}{more}"
    if first["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{path}: required and missing{more}"
    return f"{path}: {first['msg'][0].lower()}{first['msg'][1:]}, got {first['input']!r}{more}"


def _fields_at(cls: Any, loc: tuple) -> list[str]:
    """Field names of the dataclass that `loc` points into, through nested dataclasses and mappings."""
    for part in loc:
        inner = {f.name: f.type for f in fields(cls)}.get(part) if is_dataclass(cls) else None
        if inner is None:
            args = [a for a in get_args(cls) if is_dataclass(a)]
            inner = args[-1] if args else cls
        cls = inner
    if not is_dataclass(cls):
        args = [a for a in get_args(cls) if is_dataclass(a)]
        cls = args[-1] if args else cls
    return [f.name for f in fields(cls)] if is_dataclass(cls) else []
