"""What the roles of the agent say to each other (AgenticIQA, appendix A.2), as strict JSON.

One canonical form; the papers' other names for the same thing are accepted when a reply is read and stored canonically:
the inference prompts' dictionaries, the training data's keys (task_type, reference_type, required_object_names,
required_distortions, required_tools), both severity scales, both sets of distortion names, `tool_execution`. Lists of
entries stand where the paper has dictionaries, since endpoints that enforce a schema refuse open dictionaries.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, field_validator, model_validator

from vqa2.agents import _names

GLOBAL = "global"
Distortion = Literal[
    "blurs", "color distortions", "compression", "noise", "brightness change", "sharpness", "contrast",
    "flicker", "stutter", "stall", "shake",
]  # fmt: skip


def _canonical(value: Any) -> Any:
    """The canonical category; an unknown word stays and fails against the closed vocabulary."""
    return (_names.distortion(value) or value) if isinstance(value, str) else value


_Named = Annotated[Distortion, BeforeValidator(_canonical)]
Severity = Literal["none", "slight", "moderate", "severe", "extreme"]


class Strict(BaseModel):
    """Unknown keys are errors; objects do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Flags(Strict):
    """Which of the executor's four subtasks run."""

    distortion_detection: bool
    distortion_analysis: bool
    tool_selection: bool
    tool_execute: bool

    @model_validator(mode="before")
    @classmethod
    def _aliases(cls, values: Any) -> Any:
        return _renamed(values, {"tool_execution": "tool_execute"})


class Found(Strict):
    """Distortions of one object; `object` is `global` for the whole picture."""

    object: str
    distortions: list[_Named]

    @field_validator("distortions")
    @classmethod
    def _unique(cls, values: list[Distortion]) -> list[Distortion]:
        return list(dict.fromkeys(values))


class Plan(Strict):
    """The planner's decision. `query_scope` is empty for the whole picture."""

    query_type: Literal["IQA", "Other"]
    query_scope: list[str]
    distortion_source: Literal["explicit", "inferred"]
    distortions: list[Found]
    reference_mode: Literal["full-reference", "no-reference"]
    required_tools: list[str]
    plan: Flags

    @model_validator(mode="before")
    @classmethod
    def _aliases(cls, values: Any) -> Any:
        made = _renamed(
            values,
            {
                "task_type": "query_type",
                "required_object_names": "query_scope",
                "required_distortions": "distortions",
                "reference_type": "reference_mode",
                "required_tool": "required_tools",
            },
        )
        if not isinstance(made, dict):
            return made
        for key in ("distortion_source", "reference_mode"):
            if isinstance(made.get(key), str):
                made[key] = made[key].casefold().replace(" ", "-")
        scope = made.get("query_scope")
        if scope is None or (isinstance(scope, str) and scope.casefold() == GLOBAL):
            made["query_scope"] = []
        made["required_tools"] = made.get("required_tools") or []
        made["distortions"] = _entries(made.get("distortions") or [], "distortions")
        return made


class Detection(Strict):
    """The distortions one must look at to answer the query."""

    distortion_set: list[Found]

    @model_validator(mode="before")
    @classmethod
    def _aliases(cls, values: Any) -> Any:
        return _with_entries(values, "distortion_set", "distortions")


class Judged(Strict):
    """One distortion with its severity and a short reason."""

    type: _Named
    severity: Severity
    explanation: str


class Analyzed(Strict):
    """The analysis of one object."""

    object: str
    findings: list[Judged]


class Analysis(Strict):
    """Severity and visual impact of each distortion."""

    distortion_analysis: list[Analyzed]

    @model_validator(mode="before")
    @classmethod
    def _aliases(cls, values: Any) -> Any:
        made = _with_entries(values, "distortion_analysis", "findings")
        if not isinstance(made, dict) or not isinstance(made.get("distortion_analysis"), list):
            return made
        judged = [f for entry in made["distortion_analysis"] for f in entry.get("findings", ()) if isinstance(f, dict)]
        words = [f["severity"] for f in judged if isinstance(f.get("severity"), str)]
        scaled = dict(zip(words, _names.one_scale(words)))
        for entry in made["distortion_analysis"]:
            entry["findings"] = [
                {**f, "severity": scaled.get(f.get("severity"), f.get("severity"))} if isinstance(f, dict) else f
                for f in entry.get("findings", ())
            ]
        return made


class Assigned(Strict):
    """The tool for one distortion of one object."""

    object: str
    distortion: _Named
    tool: str


class Selection(Strict):
    """One tool per distortion."""

    selected_tools: list[Assigned]

    @model_validator(mode="before")
    @classmethod
    def _aliases(cls, values: Any) -> Any:
        chosen = values.get("selected_tools") if isinstance(values, Mapping) else None
        if not isinstance(chosen, Mapping):
            return values
        flat = [
            {"object": _object(name), "distortion": d, "tool": tool}
            for name, tools in chosen.items()
            for d, tool in (tools.items() if isinstance(tools, Mapping) else ())
        ]
        return {**values, "selected_tools": flat}


class Claim(Strict):
    """A statement with the ids of the evidence that it rests on."""

    text: str
    evidence: list[str]


class Summary(Strict):
    """The summarizer's reply. `sufficient` is false where evidence named in `missing` is needed first."""

    final_answer: str
    quality_reasoning: str
    claims: list[Claim]
    sufficient: bool
    missing: list[Literal["distortion_detection", "distortion_analysis", "tool_selection", "tool_execute"]]


def _object(name: str) -> str:
    return GLOBAL if name.casefold() == GLOBAL else name


def _renamed(values: Any, aliases: Mapping[str, str]) -> Any:
    """Keys by their canonical names. ValueError where a reply uses both names of one key."""
    if not isinstance(values, Mapping):
        return values
    made: dict[str, Any] = {}
    for key, value in values.items():
        name = aliases.get(key, key)
        if name in made:
            raise ValueError(f"{name} is given twice")
        made[name] = value
    return made


def _entries(values: Any, inner: str) -> Any:
    """The paper's `{object: [...]}` as entries; entries stay as they are, their object's name made canonical."""
    if isinstance(values, Mapping):
        return [{"object": _object(name), inner: list_} for name, list_ in values.items()]
    if isinstance(values, list):
        return [
            {**v, "object": _object(v["object"])} if isinstance(v, Mapping) and isinstance(v.get("object"), str) else v
            for v in values
        ]
    return values


def _with_entries(values: Any, outer: str, inner: str) -> Any:
    if not isinstance(values, Mapping) or outer not in values:
        return values
    return {**values, outer: _entries(values[outer], inner)}
