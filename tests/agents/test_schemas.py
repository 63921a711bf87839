"""The papers' forms of the same reply end in one canonical form; what does not fit is refused with its place."""

import json

import pytest

from vqa2.agents import schemas
from vqa2.agents._names import distortion, one_scale, severity_of, strengths
from vqa2.core.llm import parse

CANONICAL = {
    "query_type": "IQA",
    "query_scope": ["sky"],
    "distortion_source": "explicit",
    "distortions": [{"object": "sky", "distortions": ["noise", "color distortions"]}],
    "reference_mode": "no-reference",
    "required_tools": ["niqe"],
    "plan": {"distortion_detection": False, "distortion_analysis": True, "tool_selection": False, "tool_execute": True},
}
INFERENCE = {
    "query_type": "IQA",
    "query_scope": ["sky"],
    "distortion_source": "Explicit",
    "distortions": {"sky": ["Noise", "Color distortions", "Colorfulness"]},
    "reference_mode": "No-Reference",
    "required_tool": ["niqe"],
    "plan": CANONICAL["plan"],
}
TRAINING = {
    "task_type": "IQA",
    "required_object_names": ["sky"],
    "distortion_source": "explicit",
    "required_distortions": {"sky": ["noise", "colorfulness"]},
    "reference_type": "No-Reference",
    "required_tools": ["niqe"],
    "plan": {
        "distortion_detection": False,
        "distortion_analysis": True,
        "tool_selection": False,
        "tool_execution": True,
    },
}


def read(values, schema):
    return parse(json.dumps(values), schema)


@pytest.mark.parametrize("form", [INFERENCE, TRAINING])
def test_every_form_of_a_plan_is_the_canonical_one(form):
    made = read(form, schemas.Plan)
    assert made == read(CANONICAL, schemas.Plan)
    assert json.loads(made.model_dump_json()) == CANONICAL


def test_global_null_and_missing_lists_are_the_whole_picture():
    values = {**INFERENCE, "query_scope": "Global", "distortions": None, "required_tool": None}
    made = read(values, schemas.Plan)
    assert (made.query_scope, made.distortions, made.required_tools) == ([], [], [])


def test_dictionaries_of_the_paper_become_entries():
    made = read({"distortion_set": {"Global": ["Blurs"], "dog": ["Noise"]}}, schemas.Detection)
    assert [(f.object, f.distortions) for f in made.distortion_set] == [
        ("global", ["blurs"]),
        ("dog", ["noise"]),
    ]
    chosen = read({"selected_tools": {"Global": {"Blurs": "niqe"}}}, schemas.Selection).selected_tools
    assert chosen == [schemas.Assigned(object="global", distortion="blurs", tool="niqe")]


def analysis(*severities):
    judged = [{"type": "Noise", "severity": s, "explanation": "grain"} for s in severities]
    return read({"distortion_analysis": {"Global": judged}}, schemas.Analysis).distortion_analysis[0].findings


def test_severe_is_read_in_the_scale_of_its_neighbors():
    assert [f.severity for f in analysis("severe", "slight")] == ["severe", "slight"]
    assert [f.severity for f in analysis("severe", "heavy", "mild", "None")] == ["extreme", "severe", "slight", "none"]
    with pytest.raises(ValueError, match="severities of two scales"):
        analysis("slight", "heavy")
    with pytest.raises(ValueError, match="'awful' is no severity"):
        analysis("awful")
    assert one_scale(["strong"]) == ["severe"]


@pytest.mark.parametrize(
    ("change", "say"),
    [
        ({"query_type": "Quality"}, "query_type: Input should be 'IQA' or 'Other'"),
        ({"distortions": {"sky": ["ugliness"]}}, "distortions.0.distortions.0: Input should be"),
        ({"mood": 1}, "mood: Extra inputs are not permitted"),
        ({"plan": {}}, "plan.distortion_detection: Field required"),
        ({"required_tools": [], "required_tool": []}, "required_tools is given twice"),
    ],
)
def test_what_does_not_fit_is_named(change, say):
    with pytest.raises(ValueError, match=".") as caught:
        read({**INFERENCE, **change}, schemas.Plan)
    assert say in str(caught.value)


def test_names_of_this_framework_and_of_the_papers():
    assert distortion("Compression artifact") == distortion("block_effect") == "compression"
    assert distortion("Brightness") == "brightness change"
    assert distortion("ugliness") is None
    assert strengths(["stuttering", "noise", "UGC", "motion blur"]) == ["blurs", "noise", "stutter"]
    assert [severity_of(s) for s in (0, 19.9, 20, 59, 80, 100)] == [
        "extreme", "extreme", "severe", "moderate", "none", "none"
    ]  # fmt: skip
