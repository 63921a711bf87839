"""AgenticIQA's plan of a query and its choice of tools (appendix A.2): both follow from rules, no model is needed.

The JSON is that of the paper's inference prompts. Distortions are the paper's seven categories and, for video, Flicker,
Shake and Stutter.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import MinLen

from vqa2.agents.roles import described
from vqa2.core.config import spec

GLOBAL = "Global"


@spec
class Tool:
    """`reference`: needs an undistorted picture; `strengths`: distortions that it is said to be best at."""

    reference: bool
    strengths: tuple[str, ...]


@spec
class Library:
    """`tools` in order of preference; `known_as`: how strengths call an attribute of the lexicon."""

    tools: Annotated[dict[str, Tool], MinLen(1)]
    known_as: dict[str, str]

    def mode(self, reference: bool) -> list[str]:
        """Names of the tools that need a reference, or of those that need none."""
        return [name for name, tool in self.tools.items() if tool.reference == reference]

    def suits(self, name: str, attribute: str) -> bool:
        """Whether a tool is said to be best at an attribute."""
        return self.known_as.get(attribute) in self.tools[name].strengths

    def best(self, attribute: str, reference: bool) -> str | None:
        """The first tool of the mode that is said to be best at an attribute; None where there is none."""
        return next((name for name in self.mode(reference) if self.suits(name, attribute)), None)

    def describe(self, name: str) -> str:
        """A tool's strengths in words, without its name."""
        return described(self.tools[name].strengths)


@dataclass(frozen=True, kw_only=True)
class Query:
    """What a user asks. `objects`: regions that the text names (none: the whole picture); `distortions`: categories
    that it names; `tools`: tools that it names."""

    text: str
    kind: Literal["IQA", "Other"]
    objects: tuple[str, ...] = ()
    distortions: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()


def plan_of(query: Query, reference: bool) -> dict[str, Any]:
    """The planner's reply: what is asked, of which regions, and which of the executor's subtasks run.

    Tools are selected only where neither a region nor a tool is named, and executed unless a region but no tool is.
    """
    quality = query.kind == "IQA"
    explicit = quality and bool(query.distortions)
    return {
        "query_type": query.kind,
        "query_scope": list(query.objects) or GLOBAL,
        "distortion_source": "Explicit" if explicit else "Inferred",
        "distortions": by_object(query.objects, query.distortions) if explicit else None,
        "reference_mode": "Full-Reference" if reference else "No-Reference",
        "required_tool": list(query.tools) or None,
        "plan": {
            "distortion_detection": quality and not explicit,
            "distortion_analysis": quality,
            "tool_selection": quality and not query.objects and not query.tools,
            "tool_execute": quality and (not query.objects or bool(query.tools)),
        },
    }


def by_object(objects: Sequence[str], values: Iterable[str]) -> dict[str, list[str]]:
    """The same values, each once, under every region, or under Global."""
    return {name: list(dict.fromkeys(values)) for name in objects or (GLOBAL,)}


def selected(attributes: Mapping[str, str], library: Library, reference: bool) -> dict[str, str]:
    """Category -> tool of the attributes (attribute -> category) that some tool of the mode is best at."""
    found = {category: library.best(attribute, reference) for attribute, category in attributes.items()}
    return {category: tool for category, tool in found.items() if tool is not None}
