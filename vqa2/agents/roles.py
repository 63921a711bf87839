"""What the agent asks a model in each of its roles. The one place of these texts: the agent asks them, and the rows
that a model of ours is trained on (data_prep/_role_rows.py) are made of them, so that training and use cannot differ.

The system text says what the role is, the user text what this item is about; models that know no system turn get both
in one (`vqa2.core.prompts.one_turn`). The forms of the replies are in vqa2/agents/schemas.py.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vqa2.agents._names import DISTORTIONS
from vqa2.core.prompts import LETTERS

RATE = "Rate the quality."
"""Stands where an item has no question."""

_PLANNER = """You plan the assessment of an image or video. From the query alone decide: query_type (IQA for \
technical degradations, Other for composition, emotion, style or beauty); query_scope (the objects or regions that \
are named, empty for the whole picture); distortion_source (explicit where the query names distortions or visual \
attributes, which then go to distortions by object; else inferred); reference_mode; required_tools (only tools that \
the query names); and the plan's four flags. distortion_detection is on where the source is inferred; \
distortion_analysis is on; tool_selection is on only where neither region nor tool is named; tool_execute is on where \
a tool is named, or neither region nor tool. For Other all flags are off."""
_DETECTION = "You find the distortions that one must look at to answer a query about an image or video. Stay on the \
query's scope and list each object separately; `global` stands for the whole picture."
_ANALYSIS = "You rate the severity and visual impact of given distortions, per object: none, slight, moderate, severe \
or extreme; none where it is barely visible. One short explanation each, about the distortion's effect alone."
_SELECTION = "You assign to each distortion the one tool whose description suggests the best performance on it."
_SCORE = """You rate the quality of an image or video from the evidence and from what you see. Reply with one \
letter: A Excellent, B Good, C Fair, D Poor, E Bad."""
_CHOICE = """You answer a question about the quality of an image or video. First see whether the evidence holds what \
is needed; use it if it does, otherwise look. Reply with the letter of the option alone."""
_WORDS = """You answer a question about the quality of an image or video from the evidence, and from what you see \
where it is not sufficient. final_answer is the answer; quality_reasoning names its basis; each claim cites the ids of \
the evidence that it rests on. Where a subtask that has not run is needed first, set sufficient to false and name it."""


class Prompt(NamedTuple):
    """One question to a model."""

    role: str
    system: str
    user: str


def planner(
    query: str,
    options: Sequence[str],
    *,
    reference: bool,
    kind: str,
    tools: Sequence[str],
    regions: Sequence[str] = (),
) -> Prompt:
    """Reads the query alone. `tools`: names of those that can run; `regions`: those whose boxes are known."""
    boxes = f"\nRegions with known boxes: {', '.join(regions)}" if regions else ""
    listed = f"\nOptions: {'; '.join(options)}" if options else ""
    given = "A reference is given." if reference else "No reference is given."
    named = f"Tools: {', '.join(sorted(tools)) or 'none'}"
    return Prompt("planner", _PLANNER, f"Query: {query}{listed}\n{given} The media is a {kind}.\n{named}{boxes}")


def detection(query: str, scope: Sequence[str]) -> Prompt:
    """`scope`: the regions that the query names, none for the whole picture."""
    place = ", ".join(scope) or "the whole picture"
    return Prompt(
        "detection", _DETECTION, f"Query: {query or RATE}\nScope: {place}\nDistortions: {', '.join(DISTORTIONS)}"
    )


def analysis(query: str, detected: Mapping[str, Sequence[str]]) -> Prompt:
    """`detected`: distortions by object."""
    listed = "; ".join(f"{name}: {', '.join(found)}" for name, found in detected.items())
    return Prompt("analysis", _ANALYSIS, f"Query: {query or RATE}\nDistortions by object: {listed}")


def selection(pairs: Sequence[tuple[str, str]], tools: Mapping[str, Sequence[str]]) -> Prompt:
    """`pairs`: (object, distortion); `tools`: strengths by name, in the order in which they are told."""
    listed = "\n".join(f"- {name}: {found}" for name, found in pairs)
    told = "\n".join(f"- {name}: {described(strengths)}" for name, strengths in tools.items())
    return Prompt("selection", _SELECTION, f"Distortions:\n{listed}\nTools:\n{told}")


def score(query: str, evidence: str) -> Prompt:
    """Answered by one of the letters A to E, or their log-probabilities; so is `choice`."""
    return Prompt("summarizer", _SCORE, _evidence(query, evidence))


def choice(query: str, evidence: str, options: Sequence[str]) -> Prompt:
    """`options` without their letters."""
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options))
    return Prompt("summarizer", _CHOICE, f"{_evidence(query, evidence)}\nOptions:\n{listed}")


def words(query: str, evidence: str) -> Prompt:
    """Answered in words, with claims."""
    return Prompt("summarizer", _WORDS, _evidence(query, evidence))


def described(strengths: Sequence[str]) -> str:
    """What a tool is good for, without its name."""
    return f"best at {', '.join(strengths)}" if strengths else "no known strengths"


def _evidence(query: str, evidence: str) -> str:
    return f"Question: {query or RATE}\nEvidence:\n{evidence}"
