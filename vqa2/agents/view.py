"""A trace as one static HTML page; nothing is loaded from elsewhere."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment

from vqa2.agents.trace import Trace
from vqa2.core.errors import ConfigError


def write_page(path: Path, trace: Trace) -> None:
    """Writes the page atomically; ConfigError where it cannot be written. What a trace does not have (a router has no
    claims) is left out."""
    env = Environment(autoescape=True, undefined=ChainableUndefined, trim_blocks=True, lstrip_blocks=True)
    template = env.from_string(resources.files("vqa2.agents").joinpath("trace.html.j2").read_text(encoding="utf-8"))
    page, part = template.render(trace=trace, pretty=_pretty), path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(page, encoding="utf-8")
        part.replace(path)
    except OSError as problem:
        raise ConfigError(f"{path}: {problem.strerror}") from None


def _pretty(values: Any) -> str:
    return json.dumps(values, indent=1, ensure_ascii=False)
