"""The evidence that the executor gathers and the summarizer cites: entries with ids, in the order they were found."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from vqa2.agents.schemas import GLOBAL
from vqa2.agents.trace import Plain
from vqa2.core.scale import mos_to_acr


@dataclass(frozen=True, kw_only=True)
class Entry:
    """`score` is calibrated, 0-100; `severity` one of the five; a failed tool is an entry too."""

    id: str
    kind: Literal["analysis", "tool", "failure"]
    object: str
    distortion: str | None
    text: str
    severity: str | None = None
    tool: str | None = None
    score: float | None = None


@dataclass
class Evidence:
    """`detected`: distortions by object; `ran`: the subtasks that were carried out."""

    detected: dict[str, list[str]] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)

    def add(self, entry: Entry) -> None:
        """Adds an entry; a later one of the same id replaces it (a subtask that ran again)."""
        self.entries = [*(e for e in self.entries if e.id != entry.id), entry]

    def of(self, kind: str) -> list[Entry]:
        return [e for e in self.entries if e.kind == kind]

    def worst(self, distortion: str) -> Entry | None:
        """The analysis that finds a distortion strongest, over all objects."""
        found = [e for e in self.of("analysis") if e.distortion == distortion]
        return max(found, key=lambda e: _rank(e.severity)) if found else None

    def tools_acr(self, repeats: Literal["once", "each"]) -> float | None:
        """Mean tool score on 1-5. `each` counts a tool once for every distortion it was chosen for, as the paper's
        figures do; `once` counts it once per object."""
        scores: dict[tuple, float] = {}
        for entry in self.of("tool"):
            assert entry.score is not None
            key = (entry.object, entry.tool) if repeats == "once" else (entry.object, entry.tool, entry.distortion)
            scores[key] = mos_to_acr(entry.score)
        return sum(scores.values()) / len(scores) if scores else None

    def told(self) -> str:
        """All of it as lines for a prompt, ids in front."""
        return "\n".join(f"[{e.id}] {e.text}" for e in self.entries) or "none"

    def plain(self) -> Plain:
        return {"detected": self.detected, "entries": [asdict(e) for e in self.entries], "ran": self.ran}


def finding(name: str, found: str, severity: str, why: str) -> Entry:
    """That a distortion of an object is so severe."""
    text = f"{found}{where(name)}: {severity} ({why})"
    return Entry(
        id=f"analysis:{name}:{found}", kind="analysis", object=name, distortion=found, severity=severity, text=text
    )


def measured(name: str, found: str | None, tool: str, score: float) -> Entry:
    """What a tool says of an object, calibrated, 0-100; `found`: the distortion that it was chosen for."""
    text = f"{_about(name, found, tool)}: {score:.1f}/100, larger is better"
    key = f"tool:{_key(name, found, tool)}"
    return Entry(id=key, kind="tool", object=name, distortion=found, tool=tool, score=score, text=text)


def failed(name: str, found: str | None, tool: str, reason: str) -> Entry:
    """That a tool gave no score."""
    text = f"{_about(name, found, tool)}: no score ({reason})"
    key = f"failure:{_key(name, found, tool)}"
    return Entry(id=key, kind="failure", object=name, distortion=found, tool=tool, text=text)


def _key(name: str, found: str | None, tool: str) -> str:
    return f"{name}:{tool}" + (f":{found}" if found else "")


def _about(name: str, found: str | None, tool: str) -> str:
    return tool + (f" for {found}" if found else "") + where(name)


def _rank(severity: str | None) -> int:
    order: Sequence[str | None] = (None, "none", "slight", "moderate", "severe", "extreme")
    return order.index(severity)


def where(name: str) -> str:
    """An object's name in a sentence."""
    return "" if name == GLOBAL else f" of the {name}"
