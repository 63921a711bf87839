"""Rows for AgenticIQA's roles: plans by the paper's truth table, tools by stated strengths, nothing untold is said."""

import io
import json
from collections import Counter
from pathlib import Path

import pytest
from llm_server import Act, serving
from rich.console import Console

from data_prep._plans import Query, plan_of, selected
from data_prep._traces import Asked, Issue, query_refusal, relevant
from data_prep.agentic import FILES, AgenticRun, agentic
from vqa2.agents import schemas
from vqa2.core.config import decode
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.llm import parse
from vqa2.core.records import Depiction, Instruction, read_jsonl, write_jsonl
from vqa2.launch import composed

TEXTS = [
    ("The image is slightly blurry. The colors are dull.", ("The face is severely overexposed.",), 35.0),
    ("Sharp and clear, without any noise.", ("The left wall shows strong block effects.",), 71.0),
    ("The video shakes. Heavy noise, moderate motion blur.", (), 12.5),
    ("A pleasant picture of a cat.", (), None),
]
ROLES = ("planner", "executor", "summarizer")
SCHEMAS = {
    "planner": schemas.Plan, "detection": schemas.Detection, "analysis": schemas.Analysis,
    "selection": schemas.Selection, "summarizer": schemas.Summary,
}  # fmt: skip


@pytest.fixture
def run_of(tmp_path):
    """`run_of(count, *overrides)`: the configuration for `count` depictions, written to tmp_path."""

    def make(count: int, *overrides: str) -> AgenticRun:
        source = tmp_path / "depictions.jsonl"
        write_jsonl(
            source,
            [
                Depiction(
                    id=f"d{n:03d}", clip_id=f"c{n}", media=f"koniq/{n}.jpg", kind="image", overall=TEXTS[n % 4][0],
                    in_context=TEXTS[n % 4][1], mos=TEXTS[n % 4][2],
                )
                for n in range(count)
            ],
        )  # fmt: skip
        values = composed("agentic", [f"depictions={source}", f"out={tmp_path / 'out'}", *overrides])
        return decode(AgenticRun, values, "agentic")

    return make


@pytest.fixture(scope="module")
def values() -> AgenticRun:
    return decode(AgenticRun, composed("agentic", ["depictions=x"]), "agentic")


def quiet() -> Console:
    return Console(file=io.StringIO())


def rows_in(folder: Path) -> dict[str, list[Instruction]]:
    """Rows for training by role."""
    return {role: read_jsonl(folder / f"{role}.train.jsonl", Instruction) for role in ROLES}


def reply_of(row: Instruction):
    """The reply as the agent reads it; a letter where the agent asks for one."""
    schema = SCHEMAS[row.tags["subtask"]]
    text = row.turns[0].assistant
    return text if row.tags["subtask"] == "summarizer" and len(text) == 1 else parse(text, schema)


@pytest.mark.parametrize(
    ("objects", "tools", "selection", "execute"),
    [(("face",), ("NIQE",), False, True), (("face",), (), False, False), ((), ("NIQE",), False, True),
     ((), (), True, True)],
)  # fmt: skip
def test_the_plan_follows_the_papers_truth_table(objects, tools, selection, execute):
    for distortions in ((), ("Noise",)):
        query = Query(text="x", kind="IQA", objects=objects, tools=tools, distortions=distortions)
        made = plan_of(query, reference=False)
        assert made["plan"] == {
            "distortion_detection": not distortions, "distortion_analysis": True,
            "tool_selection": selection, "tool_execute": execute,
        }  # fmt: skip
        assert made["query_scope"] == (["face"] if objects else "Global")
        assert made["distortion_source"] == ("Explicit" if distortions else "Inferred")
        where = "face" if objects else "Global"
        assert made["distortions"] == ({where: ["Noise"]} if distortions else None)
        assert made["required_tool"] == (list(tools) or None)
    other = plan_of(Query(text="x", kind="Other", objects=objects, tools=()), reference=True)
    assert set(other["plan"].values()) == {False}
    assert (other["query_type"], other["reference_mode"]) == ("Other", "Full-Reference")


def test_tools_are_those_that_the_papers_study_calls_best(values):
    library, lexicon = values.tools, values.lexicon
    assert len(library.mode(True)) == len(library.mode(False)) == 14
    stated = [name for name, tool in library.tools.items() if tool.strengths]
    assert stated == ["TOPIQ_FR", "DISTS", "QAlign", "UNIQUE", "LIQE"]
    assert library.best("spatial blur", True) == "DISTS"
    assert library.best("motion blur", True) == "TOPIQ_FR"
    assert library.best("compression artifact", False) == "UNIQUE"
    assert library.best("stuttering", False) is None
    attributes = {name: a.category for name, a in lexicon.attributes.items()}
    full = selected(attributes, library, False)
    assert full["Noise"] == "QAlign"
    assert full["Contrast"] == "UNIQUE"
    assert not {"Flicker", "Shake", "Stutter"} & set(full)
    assert {a.category for a in lexicon.attributes.values() if not a.temporal} <= {
        "Blurs", "Color distortions", "Compression", "Noise", "Brightness change", "Sharpness", "Contrast"
    }  # fmt: skip


def test_rules_write_rows_that_say_what_the_text_says(run_of, tmp_path):
    manifest = agentic(run_of(80, "queries=4", "test_share=0"), quiet())
    rows = rows_in(tmp_path / "out")
    counts = {f"{role}.train.jsonl": len(found) for role, found in rows.items()}
    assert manifest["rows"] == counts | {f"{role}.test.jsonl": 0 for role in ROLES}
    assert manifest["refused"] == {}
    assert len(rows["planner"]) == 80 * 4 - manifest["not written"].get("queries", 0)
    subtasks = Counter(r.tags["subtask"] for found in rows.values() for r in found)
    assert dict(subtasks) == manifest["subtasks"]
    assert min(subtasks[s] for s in ("planner", "detection", "analysis", "selection", "summarizer")) > 10
    for row in (r for found in rows.values() for r in found):
        reply = reply_of(row)
        text = row.tags["subtask"] in ("planner", "selection")
        assert (row.kind == "text", row.media is None, "<video>" not in row.turns[0].user) == (text, text, text)
        number = int(row.id[1:4]) % 4
        if row.tags["subtask"] == "analysis":
            known = {
                0: {("global", "blurs", "slight"), ("face", "brightness change", "severe")},
                1: {("left wall", "compression", "severe")},
                2: {("global", "noise", "severe"), ("global", "blurs", "moderate")},
                3: set(),
            }[number]
            for entry in reply.distortion_analysis:
                for judged in entry.findings:
                    assert judged.severity == "none" or (entry.object, judged.type, judged.severity) in known, row
        if row.tags["subtask"] == "planner" and "the face" in row.turns[0].user:
            assert reply.query_scope == ["face"]
        if row.tags["subtask"] == "summarizer" and not isinstance(reply, str):
            told = row.turns[0].user.split("Evidence:\n")[1]
            assert all(f"[{c.evidence[0]}] {c.text}" in told for c in reply.claims)
    tools = [r for r in rows["planner"] if "According to" in r.turns[0].user]
    assert tools
    assert all(reply_of(r).required_tools for r in tools)
    bare = ["Evidence:\nnone" in r.turns[0].user for r in rows["summarizer"]]
    assert 0.15 < sum(bare) / len(bare) < 0.6
    assert manifest["not written"]["summarizer: no score of the named tool is known"] > 0
    assert manifest["not written"]["analysis: a severity is not stated"] > 0
    for options in (2, 4):
        letters = [manifest["right answers at"][f"{options} options, {letter}"] for letter in "ABCD"[:options]]
        assert max(letters) - min(letters) <= 1


def test_summaries_cite_known_tool_scores_and_grades_keep_their_order(run_of, tmp_path):
    scores = tmp_path / "scores.jsonl"
    run = run_of(8, "wording.tool_share=1")
    made = [{"clip_id": f"c{n}", "tool": t, "score": 2.5} for n in range(8) for t in run.tools.tools]
    scores.write_text("".join(json.dumps(row) + "\n" for row in made))
    shares = "wording.shares={binary: 0, severity: 0, which: 0, why: 0, score: 1, other: 0}"
    run = run_of(8, "wording.tool_share=1", f"scores={scores}", shares, "test_share=0", "bare_share=0")
    assert agentic(run, quiet())["rows"]["planner.train.jsonl"] == 6, "every fourth depiction has no rating"
    rows = rows_in(tmp_path / "out")["summarizer"]
    asked = [r for r in rows if "According to" in r.turns[0].user]
    assert len(asked) == len(rows) / 2, "and as many ratings without a question"
    for row in rows:
        told, right = row.turns[0].user, {35.0: "D", 71.0: "B", 12.5: "E"}[row.mos]
        assert row.turns[0].assistant == right
        if row in asked:
            assert "A. Excellent\nB. Good\nC. Fair\nD. Poor\nE. Bad" in told
            tool = told.split("According to ")[1].split(",")[0]
            assert f"[tool:global:{tool}] {tool}: 37.5/100, larger is better" in told


def test_the_same_command_gives_the_same_bytes(run_of, tmp_path):
    outputs = []
    for _ in range(2):
        agentic(run_of(12), quiet())
        outputs.append([(tmp_path / "out" / name).read_bytes() for name in FILES])
    assert outputs[0] == outputs[1]


def test_clips_are_dealt_to_one_split_and_a_depictions_own_split_holds(run_of, tmp_path):
    run = run_of(40, "test_share=0.5", "queries=2")
    lines = Path(run.depictions).read_text().splitlines()
    told = [json.loads(line) | ({"tags": {"split": "test"}} if n < 4 else {}) for n, line in enumerate(lines)]
    Path(run.depictions).write_text("".join(json.dumps(row) + "\n" for row in told))
    agentic(run, quiet())
    names = {name: {r.clip_id for r in read_jsonl(tmp_path / "out" / name, Instruction)} for name in FILES}
    train, test = ({c for n, found in names.items() if s in n for c in found} for s in ("train", "test"))
    assert not train & test
    assert {"c0", "c1", "c2", "c3"} <= test
    assert min(len(train), len(test)) > 5


def asked(**changes) -> Asked:
    made = {
        "query": "Is there noise?", "query_type": "IQA", "objects": (), "distortions": ("noise",), "tools": (),
        "answer": "Yes", "distractors": ("No",), "reasoning": "It is grainy.",
    }  # fmt: skip
    return Asked(**{**made, **changes})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"distortions": ("rain",)}, "no such distortion: 'rain'"),
        ({"objects": ("face",)}, "names what its text does not: 'face'"),
        ({"query": "According to MS-SSIM, is there noise?", "tools": ("MS-SSIM",)}, ""),
        (
            {"query": "According to MS-SSIM, is there noise?", "tools": ()},
            "does not say that it names a tool: 'MS-SSIM'",
        ),
        ({"tools": ("X",)}, "no such tool: 'X'"),
        ({"query_type": "Other"}, "a query that is not about quality names distortions or tools"),
        ({"answer": "blur", "distractors": ("Blur", "noise", "x")}, "the distractor 'Blur' is the answer"),
        ({"reasoning": "As the description says."}, "speaks of a text that the model does not see"),
        ({"answer": "", "distractors": (), "reasoning": ""}, ""),
    ],
)
def test_queries_are_checked_against_their_own_text(values, changes, reason):
    made = query_refusal(asked(**changes), values.limits, values.lexicon, values.tools)
    assert made.startswith(reason) if reason else made == ""


def test_a_named_distortion_that_nobody_saw_is_none_and_one_of_a_region_is_there(values):
    issues = [Issue(object="Face", distortion="noise", severity="severe", explanation="Grain on the face.")]
    found = relevant(asked(distortions=("noise", "flicker")), issues, values.lexicon)
    assert [(s.object, s.category, s.severity) for s in found] == [
        ("Global", "Noise", "severe"), ("Global", "Flicker", "none")
    ]  # fmt: skip
    assert relevant(asked(distortions=()), issues, values.lexicon) == []
    here = relevant(asked(objects=("face",), distortions=()), issues, values.lexicon)
    assert [(s.object, s.severity) for s in here] == [("face", "severe")]


def test_a_language_models_issues_and_queries_are_checked_and_the_good_ones_used(run_of, monkeypatch, tmp_path):
    reply = {
        "issues": [
            {"object": "Global", "distortion": "noise", "severity": "severe", "explanation": "Grain everywhere."},
            {"object": "Global", "distortion": "rain", "severity": "slight", "explanation": "Drops."},
        ],
        "queries": [
            {"query": "How strong is the noise?", "query_type": "IQA", "objects": [], "distortions": ["noise"],
             "tools": [], "answer": "severe", "distractors": ["slight", "none", "moderate"], "reasoning": "Grain."},
            {"query": "Is the sky blurry?", "query_type": "IQA", "objects": ["tree"], "distortions": [], "tools": [],
             "answer": "Yes", "distractors": ["No"], "reasoning": "It is."},
        ],
    }  # fmt: skip
    with serving(lambda request, n: Act(json.dumps(reply))) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        manifest = agentic(run_of(1, "llm=http", "reference_share=0", "test_share=0"), quiet())
        asked_for = server.requests[0]["messages"][1]["content"]
    assert "spatial blur, motion blur, noise" in asked_for
    assert manifest["subtasks"] == {"planner": 1, "analysis": 1, "selection": 1, "summarizer": 2}
    assert manifest["refused"] == {"no such distortion": 1, "names what its text does not": 1}
    rows = rows_in(tmp_path / "out")
    analysis, selection = map(reply_of, rows["executor"])
    entry = {"type": "noise", "severity": "severe", "explanation": "Grain everywhere."}
    assert analysis.model_dump() == {"distortion_analysis": [{"object": "global", "findings": [entry]}]}
    assert selection.model_dump()["selected_tools"] == [{"object": "global", "distortion": "noise", "tool": "QAlign"}]
    assert "- global: noise\n" in rows["executor"][1].turns[0].user


def test_a_category_whose_distortions_have_different_tools_is_told_apart(run_of, tmp_path):
    agentic(run_of(40, "queries=4", "test_share=0", "reference_share=0"), quiet())
    rows = [r for r in rows_in(tmp_path / "out")["executor"] if r.tags["subtask"] == "selection"]
    told = {line for r in rows for line in r.turns[0].user.splitlines() if line.startswith("- global:")}
    assert "- global: color distortions" in told, "one tool is best at all of them"
    assert {"- global: compression (JPEG)", "- global: compression (pixelate)"} & told == set(), "so it is here"
    full = run_of(1).tools
    assert full.best("spatial blur", True) != full.best("motion blur", True)
    assert any(line.startswith("- global: blurs (") for line in told)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"clip_id": "c0"}', r":1: clip_id, tool and score are needed"),
        ('{"clip_id": "c0", "tool": "X", "score": 3}', r":1: X 3.0: a tool of the library and a score on 1-5"),
        ('{"clip_id": "c0", "tool": "NIQE", "score": 7}', r":1: NIQE 7.0: a tool of the library and a score on 1-5"),
    ],
)
def test_tool_scores_that_do_not_fit_stop_the_run(run_of, tmp_path, line, message):
    (tmp_path / "scores.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        agentic(run_of(1, f"scores={tmp_path / 'scores.jsonl'}"), quiet())


def test_a_library_with_an_unknown_attribute_is_refused(run_of):
    with pytest.raises(ConfigError, match=r"agentic.tools.known_as.rain: no attribute of the lexicon"):
        run_of(1, "+tools.known_as.rain=wet")
