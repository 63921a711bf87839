"""`python -m data_prep [key=value ...]`: media of a source -> clips, instruction sets and manifests. Or a command:
`python -m data_prep extend|agentic|agentic_eval|leaks|check [key=value ...]`, each with a `--help` of its own.
"""

import sys
from collections.abc import Callable

from rich.console import Console

from vqa2.core.config import decode
from vqa2.launch import composed, guarded

_CONSOLE = Console(stderr=True, highlight=False, soft_wrap=True)


def main(overrides: list[str]) -> None:
    """Without a command: media and instruction sets of a source."""
    from data_prep.run import DataPrepRun, prepare

    prepare(decode(DataPrepRun, composed("data_prep", overrides), "data_prep"), progress=True)


def extend(overrides: list[str]) -> None:
    """Depictions -> question-answer rows."""
    from data_prep.extend import ExtendRun
    from data_prep.extend import extend as run

    made = decode(ExtendRun, composed("extend", overrides), "extend")
    manifest = run(made, _CONSOLE)
    kinds = ", ".join(f"{kind} {count}" for kind, count in manifest["kinds"].items())
    refused = sum(manifest["refused"].values())
    _CONSOLE.print(f"{made.out}: {manifest['rows']} rows ({kinds}); {refused} replies or pairs refused", markup=False)


def agentic(overrides: list[str]) -> None:
    """Depictions -> instruction rows for AgenticIQA's planner, executor and summarizer."""
    from data_prep.agentic import AgenticRun
    from data_prep.agentic import agentic as run

    made = decode(AgenticRun, composed("agentic", overrides), "agentic")
    manifest = run(made, _CONSOLE)
    roles = ", ".join(f"{role} {count}" for role, count in manifest["rows"].items())
    _CONSOLE.print(f"{made.out}: {roles}; {sum(manifest['refused'].values())} refused", markup=False)


def agentic_eval(overrides: list[str]) -> None:
    """Clean pictures -> a benchmark of AgenticIQA's roles."""
    from data_prep.agentic_eval import AgenticEvalRun
    from data_prep.agentic_eval import agentic_eval as run

    made = decode(AgenticEvalRun, composed("agentic_eval", overrides), "agentic_eval")
    items = ", ".join(f"{track} {count}" for track, count in run(made, _CONSOLE)["items"].items())
    _CONSOLE.print(f"{made.out}: {items}", markup=False)


def leaks(overrides: list[str]) -> None:
    """Which clips two collections share. Exit code 1 where they share any."""
    from data_prep.leaks import LeaksRun
    from data_prep.leaks import leaks as run

    report = run(decode(LeaksRun, composed("leaks", overrides), "leaks"), _CONSOLE)
    if report["clips of b in a"]:
        sys.exit(1)


def check(overrides: list[str]) -> None:
    """Manifests against what is on the disk."""
    from data_prep.check import CheckRun
    from data_prep.check import check as run

    run(decode(CheckRun, composed("check", overrides), "check"), _CONSOLE)


COMMANDS: dict[str, tuple[Callable[[list[str]], None], tuple[str, ...]]] = {
    "extend": (extend, ()),
    "agentic": (agentic, ()),
    "agentic_eval": (agentic_eval, ()),
    "leaks": (leaks, ("a", "b")),
    "check": (check, ("out",)),
}
"""Name -> (function of the overrides, keys of its words without `=`)."""


if __name__ == "__main__":
    words = sys.argv[1:]
    if words and words[0] in COMMANDS:
        command, positional = COMMANDS[words[0]]
        guarded(command, words[0], words[1:], positional)
    else:
        guarded(main, "data_prep")
