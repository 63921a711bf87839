"""Run folders: deterministic paths, written by rank 0, holding the composed config, versions, git state and seed.

The only module that reads environment variables.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console

from vqa2.core.errors import ConfigError

_PACKAGES = ("vqa2", "torch", "transformers", "trl", "peft", "deepspeed", "accelerate", "datasets", "av", "numpy")
DONE = "done.json"


def rank() -> int:
    """Rank of this process in the world that torchrun, accelerate or deepspeed started; 0 without one."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Rank of this process on its machine: which of its GPUs it takes."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """Processes of this run; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def say(text: str) -> None:
    """One line on the terminal, from rank 0."""
    if rank() == 0:
        Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def wandb_mode(mode: str) -> None:
    """Tells wandb its mode before it starts; online without a network would block for minutes."""
    os.environ["WANDB_MODE"] = mode
    os.environ.setdefault("WANDB_SILENT", "true")


@dataclass(frozen=True)
class Endpoint:
    """Where an OpenAI-compatible API listens. The key is never shown, logged or written."""

    url: str
    key: str = field(repr=False)


def llm_endpoint() -> Endpoint:
    """The endpoint of `llm=http`: OPENAI_BASE_URL and OPENAI_API_KEY, the only secrets this framework reads. Both must
    be set: prompts are never sent to an address that nobody named."""
    found = {name: os.environ.get(name, "") for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY")}
    missing = [name for name, value in found.items() if not value]
    if missing:
        raise ConfigError(
            f"llm=http: {' and '.join(missing)} not set in the environment (a server without keys takes any word)"
        )
    return Endpoint(found["OPENAI_BASE_URL"], found["OPENAI_API_KEY"])


def fingerprint(values: Any) -> str:
    """Short content hash of plain values: two runs with equal fingerprints had equal configurations."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes, read in pieces."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def environment(seed: int) -> dict[str, Any]:
    """Versions, platform, git state, command line and seed."""
    versions: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "git": git_state(),
        "command": " ".join(sys.argv[1:]),
        "seed": seed,
    }


def git_state() -> dict[str, Any]:
    """Commit and whether the tree had changes; `commit: null` outside a checkout."""

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *args], capture_output=True, text=True, timeout=20, cwd=Path(__file__).parent, check=False
            )
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}


class Run:
    """A stage's folder. `state` is `new`, `partial` (killed: continue) or `done`."""

    def __init__(self, folder: Path, config: Mapping[str, Any], identity: Any, seed: int) -> None:
        """`identity` is the part of the config that decides the result; a folder made with another is refused."""
        self.dir, self.config, self.seed = folder, dict(config), seed
        self.identity = json.loads(json.dumps(identity))

    @property
    def state(self) -> str:
        if (self.dir / DONE).is_file():
            return "done"
        return "partial" if (self.dir / "config.json").is_file() else "new"

    def open(self, overwrite: bool) -> bool:
        """Makes the folder, or checks that the one on disk belongs to the same configuration; whether there is
        something to run: a finished run keeps the record of what made it. Rank 0 alone changes the disk; the others
        come to the same answer before and after it does.
        """
        state, before = self.state, self._identity()
        needed = overwrite or state != "done"
        other = before is not None and before != self.identity
        if other and not overwrite:
            key = first_difference(before, self.identity)
            raise ConfigError(
                f"{self.dir}: holds a run with another configuration (first difference: {key}); "
                "pass overwrite=true to replace it or name=<other> to keep it"
            )
        if rank() == 0 and needed:
            if other or (state == "done" and overwrite):
                self._clear()
            self.dir.mkdir(parents=True, exist_ok=True)
            record = {"config": self.config, "identity": self.identity}
            _write(self.dir / "config.json", record)
            _write(self.dir / "environment.json", environment(self.seed))
        return needed

    def _identity(self) -> Any:
        """Of the run on disk; None without one."""
        try:
            return json.loads((self.dir / "config.json").read_text())["identity"]
        except FileNotFoundError:
            return None

    def _clear(self) -> None:
        # Moved aside first: no other process sees half a run.
        old = self.dir.with_name(f"{self.dir.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        self.dir.replace(old)
        shutil.rmtree(old)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Marks the run as complete, with its key numbers."""
        if rank() == 0:
            _write(self.dir / DONE, dict(summary))

    def summary(self) -> dict[str, Any]:
        return json.loads((self.dir / DONE).read_text())


def first_difference(a: Any, b: Any, path: str = "") -> str:
    """`path: old -> new` of the first place where two plain values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}):
            if a.get(key) != b.get(key):
                return first_difference(a.get(key), b.get(key), f"{path}.{key}" if path else key)
    return f"{path}: {a} -> {b}"


def _write(path: Path, values: Any) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(path)
