"""Where experts run: in a process of their own (`Worker`) or in this one (`Local`). Same question, same outcome.

The process is `python -m vqa2.experts._worker`: a line of JSON in, a line of JSON out. It opens an expert on its first
question and keeps it. What tools write to standard output goes to standard error, so that the answers stay readable.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vqa2.core.config import build
from vqa2.core.errors import UserError
from vqa2.experts.base import Failure, Media, NotApplicable, Raw, Scorer

START_S = 300.0
Outcome = Raw | tuple[Failure, str]


class Local:
    """Experts in this process; a time limit is not enforced, a crash is ours."""

    def __init__(self, experts: Mapping[str, Mapping[str, Any]]) -> None:
        self._experts, self._open = experts, dict[str, Scorer]()

    def ask(self, name: str, media: Media, reference: Media | None, prompt: str | None, timeout_s: float) -> Outcome:
        """The raw score, or (failure, reason). Any exception of a tool is evidence, not the end."""
        try:
            if name not in self._open:
                self._open[name] = build("expert", self._experts[name], f"experts.tools.{name}").open()
            raw = self._open[name].score(media, reference, prompt)
        except NotApplicable as err:
            return "not applicable", str(err)
        except UserError as err:
            return "error", str(err)
        except Exception as err:  # noqa: BLE001 - third-party tools raise anything; the reading carries it
            return "error", f"{type(err).__name__}: {' '.join(str(err).split())[:300]}"
        bad = [k for k, v in {"score": raw.value, **raw.parts}.items() if v != v or abs(v) == float("inf")]
        return ("error", f"not finite: {', '.join(bad)}") if bad else raw

    def close(self) -> None:
        """Nothing to end."""


class Worker:
    """Experts in a child process, started on the first question and again after a kill or a crash."""

    def __init__(self, experts: Mapping[str, Mapping[str, Any]]) -> None:
        self._experts = experts
        self._child: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()

    def ask(self, name: str, media: Media, reference: Media | None, prompt: str | None, timeout_s: float) -> Outcome:
        """As `Local.ask`; past `timeout_s` the child and its children are killed."""
        question = {"name": name, "media": _plain(media), "reference": _plain(reference), "prompt": prompt}
        try:
            child = self._started()
        except queue.Empty:
            self.close()
            return "timeout", f"the worker process did not start within {START_S:g} s"
        try:
            child.stdin.write(json.dumps(question) + "\n")
            child.stdin.flush()
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            self.close()
            return "timeout", f"no answer within {timeout_s:.3g} s"
        except BrokenPipeError:
            line = ""
        if not line:
            code = child.wait()
            self.close()
            why = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return "crash", f"the tool's process died ({why})"
        made = json.loads(line)
        return Raw(**made["raw"]) if "raw" in made else (made["failure"], made["reason"])

    def _started(self) -> subprocess.Popen[str]:
        if self._child is None:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "vqa2.experts._worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            self._child.stdin.write(json.dumps(self._experts) + "\n")
            self._lines = queue.Queue()
            threading.Thread(target=_pump, args=(self._child, self._lines), daemon=True).start()
            # The imports of a fresh process are not the time of the expert that happens to be asked first.
            self._lines.get(timeout=START_S)
        return self._child

    def close(self) -> None:
        """Kills the child and what it started."""
        if self._child is None:
            return
        if self._child.poll() is None:
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        self._child.stdin.close()
        self._child = None


def _pump(child: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    """Moves the child's lines into a queue; an empty one tells that it is gone."""
    for line in child.stdout:
        lines.put(line)
    child.stdout.close()
    lines.put("")


def _plain(media: Media | None) -> dict[str, str] | None:
    return None if media is None else {"path": str(media.path), "kind": media.kind, "id": media.id}


def _media(values: dict[str, str] | None) -> Media | None:
    return None if values is None else Media(path=Path(values["path"]), kind=values["kind"], id=values["id"])


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    answers.write("ready\n")
    answers.flush()
    local = Local(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        asked = json.loads(line)
        outcome = local.ask(asked["name"], _media(asked["media"]), _media(asked["reference"]), asked["prompt"], 0.0)
        made = {"raw": asdict(outcome)} if isinstance(outcome, Raw) else {"failure": outcome[0], "reason": outcome[1]}
        answers.write(json.dumps(made) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
