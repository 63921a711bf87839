"""What models of ours are trained on is what the agent asks them, and a trained one can take the roles."""

import json

import pytest
import torch
import yaml
from agent_test_parts import told

from data_prep._role_rows import Recipe, RoleRows
from data_prep._traces import Asked, Issue, Traces
from data_prep.sets.agent import Agent
from vqa2.agents._media import facts
from vqa2.agents._names import strengths
from vqa2.core.config import build, decode
from vqa2.core.errors import ConfigError
from vqa2.core.llm import Llm, LlmError, Usage
from vqa2.core.prompts import closed_prompt, one_turn, open_prompt
from vqa2.core.records import Depiction, Query
from vqa2.data.video import VideoSpec
from vqa2.launch import composed, conf_dir
from vqa2.llms.vqa2 import OurBackend
from vqa2.model.predict import Inference, ModelPredictor


@pytest.fixture(scope="module")
def shipped() -> Agent:
    return build("set", composed("data_prep", ["set=agent"])["sets"]["agent"], "sets.agent")


@pytest.fixture(scope="module")
def infos() -> dict[str, dict]:
    """The declared values of the experts that run as installed."""
    named = yaml.safe_load((conf_dir() / "experts" / "default.yaml").read_text())["defaults"]
    names = [name for entry in named if isinstance(entry, dict) for name in entry.values()]
    return {n: yaml.safe_load((conf_dir() / "expert" / f"{n}.yaml").read_text())["info"] for n in names}


def test_the_tools_of_the_rows_are_the_experts_as_they_declare_themselves(shipped, infos):
    assert {name: (tool.reference, tool.strengths) for name, tool in shipped.tools.tools.items()} == {
        name: (info["reference"], tuple(strengths(info["strengths"]))) for name, info in infos.items()
    }


def text_of(step) -> str:
    """What `llm=vqa2` makes of a recorded question."""
    system, user = (m["content"] for m in step.request["messages"])
    see = isinstance(user, list)
    return one_turn(system, user[-1]["text"] if see else user, see=see)


QUERIES = {
    "choice": Asked(query="Which distortion does this image show?", query_type="IQA", objects=(), distortions=(),
                    tools=(), answer="noise", distractors=("motion blur", "underexposure"), reasoning="Grain."),
    "yes-no": Asked(query="Is there visible noise in this image?", query_type="IQA", objects=(),
                    distortions=("noise",), tools=(), answer="Yes", distractors=("No",), reasoning="Grain."),
    "open": Asked(query="Why is the quality of the sky impaired?", query_type="IQA", objects=("sky",), distortions=(),
                  tools=(), answer="Noise.", distractors=(), reasoning="Grain."),
    "other": Asked(query="What is the style of this image?", query_type="Other", objects=(), distortions=(), tools=(),
                   answer="", distractors=(), reasoning=""),
}  # fmt: skip


@pytest.mark.parametrize("kind", QUERIES)
@pytest.mark.parametrize("reference", [False, True])
def test_the_agent_asks_what_the_rows_were_trained_on(
    kind, reference, still, shipped, infos, pool_of, agent_of, llm_of
):
    asked = QUERIES[kind]
    place = asked.objects[0] if asked.objects else "Global"
    issues = (Issue(object=place, distortion="noise", severity="severe", explanation="Grain."),)
    recipe = Recipe(lexicon=shipped.lexicon, tools=shipped.tools, wording=shipped.wording,
                    reference_share=float(reference), bare_share=0.0, seed=0, writer="test")  # fmt: skip
    scores = {("c", name): 1.8 for name in shipped.tools.tools}
    depiction = Depiction(id="d", clip_id="c", media="x.png", kind="image", overall="-")
    rows = list(RoleRows(recipe, scores).of(depiction, Traces(issues=issues, queries=(asked,))))
    usable = [n for n in shipped.tools.tools if reference or not shipped.tools.tools[n].reference]
    pool = pool_of(**{n: told(20.0, strengths=infos[n]["strengths"], reference=infos[n]["reference"]) for n in usable})
    options = sorted((asked.answer, *asked.distractors))
    if asked.distractors:
        listed = next(r for r in rows if r.tags["subtask"] == "summarizer").turns[0].user.split("Options:\n")[1]
        options = [line[3:] for line in listed.splitlines()]
    question = closed_prompt(asked.query, options, "letter") if asked.distractors else open_prompt(asked.query)
    # The model replies what the rows teach; a letter by its log-probabilities.
    replies = {r"(?s)Scope:": "detection", r"(?s)Distortions by object": "analysis", r"(?s)^Distortions:": "selection",
               r"(?s)Evidence:": "summarizer", r"(?s)^Query:": "planner"}  # fmt: skip
    taught = {r.tags["subtask"]: r.turns[0].assistant for r in rows}
    letters = json.dumps([0.0 if "ABCD"[i] == taught.get("summarizer") else -9.0 for i in range(len(options))])
    texts = {p: letters if s == "summarizer" and asked.distractors else taught.get(s, "-") for p, s in replies.items()}
    made = agent_of(pool, llm_of(texts), "regions=off")
    trace = made.ask(still, "image", question=question, want="answer", reference=still if reference else None)
    steps = [s for s in trace.steps if s.kind in ("chat", "options")]
    shown = {s.request["role"]: text_of(s) for s in steps}
    said = {r.tags["subtask"]: r.turns[0].user for r in rows}
    if kind == "other":
        shown.pop("summarizer")  # the rows have no answer to it
    assert shown == said
    if kind != "other":
        assert trace.result["text"].rstrip(".") == {"choice": taught["summarizer"], "yes-no": taught["summarizer"],
                                                    "open": "Noise"}[kind]  # fmt: skip


@pytest.fixture
def ours(small):
    """A backend around the small model, which replies nothing sensible."""
    model, processor = small
    video = decode(VideoSpec, composed("eval", [])["predictor"]["video"], "video")
    inference = Inference(video=video, device="cpu", max_new_tokens=12, workers=0)
    return OurBackend(ModelPredictor(model.eval(), processor, "small", "c", inference))


def chat(user: str, path=None, kind="video"):
    shown = [] if path is None else [{"type": "file", "path": str(path), "kind": kind, "content": "h"}]
    content = [*shown, {"type": "text", "text": user}] if shown else user
    return [{"role": "system", "content": "Plan it."}, {"role": "user", "content": content}]


def test_our_model_reads_text_and_the_clip_as_its_rows_have_them(ours, clip, tmp_path):
    text, usage = ours.complete(chat("Query: noise?"), {"type": "object"}, 0)
    assert usage.prompt_tokens > 5
    tokenizer = ours.model.processor.tokenizer
    ids = tokenizer.encode(
        "<|im_start|>user\nPlan it.\n\nQuery: noise?<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False
    )
    said = []
    with torch.no_grad():
        for _ in range(12):
            said.append(int(ours.model.model(torch.tensor([ids + said])).logits[0, -1].argmax()))
    assert text == tokenizer.decode(said, skip_special_tokens=False).split("<|im_end|>")[0].strip()
    assert "Query" not in text
    query = Query(id="x", path=clip, kind="video", question="<video>\nPlan it.\n\nQuery: noise?")
    assert ours.complete(chat("Query: noise?", clip), None, None)[0] == ours.model.answer([query])[0].text
    found, _ = ours.options(chat("Query: noise?", clip), ["A", "B"])
    assert found == ours.model.options(query, ["A", "B"])
    with pytest.raises(LlmError, match="no such file"):
        ours.complete(chat("Query: noise?", tmp_path / "absent.mp4"), None, None)
    frames = [{"role": "user", "content": [{"type": "image_url"}, {"type": "text", "text": "x"}]}]
    with pytest.raises(LlmError, match="reads one clip as a file"):
        ours.complete(frames, None, None)


def test_the_agent_with_our_model_falls_back_with_notes_and_replays(ours, clip, still, pool_of, agent_of, tmp_path):
    pool = pool_of(noise=told(20.0, strengths=["noise"]))
    agent = agent_of(pool, Llm(ours, tmp_path / "llm.sqlite"))
    for path, kind in ((clip, "video"), (still, "image")):
        trace = agent.ask(path, kind, question=open_prompt("Is there noise in it?"), want="answer")
        # Random weights plan and detect nothing that is JSON; letters have log-probabilities all the same.
        assert any(note.startswith("planner: rules planned") for note in trace.notes)
        assert trace.result["by"] == "chat"
        shown = [s.request["messages"][1]["content"] for s in trace.steps if s.kind == "options"]
        assert shown[0][0] == {"type": "file"}
    # The cache knows a file by its content: another clip of the same name is asked again.
    asked = len(trace.steps)
    assert (
        agent.ask(still, "image", question=open_prompt("Is there noise in it?"), want="answer")
        .steps[-1]
        .reply["cached"]
    )
    still.write_bytes(clip.read_bytes())
    assert facts(still, "video")["content"] != trace.working["facts"]["content"]
    again = agent.ask(still, "video", question=open_prompt("Is there noise in it?"), want="answer")
    assert len(again.steps) == asked
    assert not again.steps[-1].reply["cached"]


def test_no_model_is_one_line():
    values = composed("eval", ["predictor=agent", "llm@predictor.llm=vqa2", "predictor.llm.folder=nowhere"])
    with pytest.raises(ConfigError, match=r"nowhere: no trained model here"):
        build("llm", values["predictor"]["llm"], "llm").open()


def test_a_reference_is_shown_second(still, clip, pool_of, agent_of, llm_of, monkeypatch):
    pool = pool_of(noise=told(20.0, strengths=["noise"]))
    made = agent_of(pool, llm_of({"Evidence:": "[-1, -2, -3, -4, -5]"}))
    sent = []
    backend = made.means.llm.backend
    monkeypatch.setattr(
        type(backend), "options", lambda self, messages, options: (sent.append(messages), ([-1.0] * 5, Usage()))[1]
    )
    trace = made.ask(still, "image", question="How is it?", want="score", reference=still)
    notes = [p for s in trace.steps if s.kind == "options" for p in s.request["messages"][1]["content"]]
    assert [p["type"] for p in notes] == ["frames", "text", "frames", "text"]
    assert notes[2]["of"] == "reference"
