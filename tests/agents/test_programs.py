"""Router and agent as predictors of a benchmark and on the command line, with real experts and a real model."""

import json
from pathlib import Path

import pytest
import torch
from agent_test_parts import Spoken, told
from typer.testing import CliRunner

from vqa2.agents.trace import read_trace
from vqa2.agents.view import write_page
from vqa2.bench._runner import run as run_benchmark
from vqa2.cli import app
from vqa2.core.config import build, decode
from vqa2.core.errors import UserError
from vqa2.core.prompts import closed_prompt, open_prompt
from vqa2.core.records import Query
from vqa2.data.video import VideoSpec
from vqa2.experts import calibration
from vqa2.experts.base import Media
from vqa2.experts.calibration import Material, fit
from vqa2.experts.pool import PoolSpec
from vqa2.launch import composed
from vqa2.model.predict import Inference, ModelPredictor


@pytest.fixture(scope="module")
def calibrated(data_root, tmp_path_factory) -> Path:
    """Calibrations of two shipped experts, fitted on a few embedded clips against made-up ratings."""
    folder = tmp_path_factory.mktemp("calibration")
    clips = sorted((data_root / "media" / "test").glob("*.mp4"))[:10]
    with decode(PoolSpec, {**_experts(folder), "isolation": "none"}, "experts").open() as pool:
        for name in ("blur", "spatial_information"):
            raw = [pool.run([name], Media(path=c, kind="video"), None, None, None)[0].raw for c in clips]
            sign = 1 if pool.info(name).higher_is_better else -1
            order = sorted(range(len(raw)), key=lambda i: sign * raw[i])
            mos = [10.0 * order.index(i) for i in range(len(raw))]
            material = Material(dataset="made up", ids=tuple(map(str, clips)), raw=tuple(raw), mos=tuple(mos))
            calibration.save(fit(pool.subject(name), "linear", material), folder)
    return folder


def _experts(folder: Path) -> dict:
    return {**composed("experts", [])["experts"], "calibration": str(folder)}


@pytest.fixture
def quiet():
    return lambda done, total: None


def test_every_benchmark_takes_the_router_and_the_agent(data_root, calibrated, tmp_path, quiet):
    scoring = build("benchmark", {**composed("eval", ["benchmark=synthetic"])["benchmarks"]["synthetic"],
                                  "root": str(data_root)}, "b")  # fmt: skip
    for name in ("router", "agent"):
        values = composed("eval", [f"predictor={name}", f"predictor.experts.calibration={calibrated}",
                                   "predictor.experts.isolation=none", f"predictor.traces={tmp_path / name}",
                                   f"predictor.llm_cache={tmp_path / 'llm.sqlite'}"])["predictor"]  # fmt: skip
        predictor = build("predictor", values, "predictor").open()
        report = run_benchmark(scoring, predictor, tmp_path / "eval" / name, quiet)
        assert report.n_scored == report.n_expected > 5
        assert len(list((tmp_path / name).glob("*.json"))) == report.n_expected
        pair = Query(id="p", path=data_root, kind="video", question="Which is better?", second=data_root)
        assert "takes one clip" in predictor.answer([pair])[0].error


def test_the_fingerprint_follows_settings_and_calibrations(calibrated, tmp_path):
    def made(*changes):
        values = composed("eval", ["predictor=router", f"predictor.experts.calibration={calibrated}",
                                   f"predictor.llm_cache={tmp_path / 'c'}", *changes])["predictor"]  # fmt: skip
        return build("predictor", values, "predictor").open().fingerprint

    assert made() == made()
    assert made() != made("predictor.router.suspect_margin=11.0")
    assert made() != made("predictor.experts.calibration=elsewhere")


def test_route_ask_and_replay_on_the_command_line(data_root, calibrated, tmp_path):
    clip = str(min((data_root / "media" / "test").glob("*.mp4")))
    common = ["--set", f"experts.calibration={calibrated}", "--set", f"traces={tmp_path}", "--set",
              f"llm_cache={tmp_path / 'c'}"]  # fmt: skip
    cli = CliRunner()
    routed = cli.invoke(app, ["route", clip, "--html", str(tmp_path / "t.html"), *common])
    assert routed.exit_code == 0, routed.output
    assert 0 <= float(routed.stdout.split()[0]) <= 100
    page = (tmp_path / "t.html").read_text()
    assert "spatial_information" in page
    assert "weighted" in page
    (path,) = tmp_path.glob("*.json")
    same = cli.invoke(app, ["replay", str(path)])
    assert "identical" in same.stdout
    edited = json.loads(path.read_text())
    edited["result"]["score01"] = 0.123
    path.write_text(json.dumps(edited))
    assert cli.invoke(app, ["replay", str(path)]).exception is not None
    gate = ["--set", "decider=learned", "--set", f"decider.gate={tmp_path}/none"]
    assert "no learned router here" in str(cli.invoke(app, ["route", clip, *gate, *common]).exception)
    published = cli.invoke(app, ["route", clip, "--set", "priors=published", *common])
    assert "uvq" in published.stderr
    asked = cli.invoke(app, ["ask", clip, "Is there blur in this video?", "--agent", *common])
    assert asked.stdout.strip() in ("Yes.", "No.")


def asked(clip: str, question: str, folder: Path, *settings: str):
    """`vqa2 ask --agent` with traces and replies in a folder."""
    given = (f"traces={folder}", f"llm_cache={folder / 'c'}", *settings)
    return CliRunner().invoke(app, ["ask", clip, question, "--agent", *(x for s in given for x in ("--set", s))])


UNREACHABLE = ("llm=http", "llm.retries=0", "llm.timeout_s=0.5")


@pytest.mark.parametrize(
    ("settings", "say"),
    [
        (("agent.max_replan=3",), "predictor.agent.max_replan: unknown key (did you mean 'max_replans'?)"),
        (("llm=htp",), "llm@predictor.llm=htp: no such llm (did you mean 'http'?)"),
        (("experts=safe",), "no such experts (did you mean 'commercial_safe'?)"),
        (("agent.max_replans=-1",), "predictor.agent.max_replans: input should be greater than or equal to 0"),
        (("foo",), "foo: settings are key=value"),
        (("llm=vqa2", "llm.folder=nowhere"), "nowhere: no trained model here"),
        (("experts.calibration=nowhere",), "no score"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(settings, say, data_root, tmp_path):
    clip = str(min((data_root / "media" / "test").glob("*.mp4")))
    given = [f"traces={tmp_path}", f"llm_cache={tmp_path / 'c'}", *settings]
    made = CliRunner().invoke(
        app, ["ask", clip, "How is the quality?", "--agent", *(x for s in given for x in ("--set", s))]
    )
    assert isinstance(made.exception, UserError), made.output
    assert say in str(made.exception)
    assert "\n" not in str(made.exception)


@pytest.mark.parametrize(
    ("name", "text", "say"), [("nowhere.mp4", None, "no such file"), ("x.mp4", "no video", "not a readable video")]
)
def test_a_file_that_cannot_be_read_is_one_line(name, text, say, calibrated, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    made = asked(str(tmp_path / name), "Is there noise?", tmp_path, f"experts.calibration={calibrated}")
    assert isinstance(made.exception, UserError)
    assert say in str(made.exception)


def test_an_unreachable_endpoint_leaves_the_rules_with_notes(data_root, calibrated, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    clip = str(min((data_root / "media" / "test").glob("*.mp4")))
    given = [f"traces={tmp_path}", f"llm_cache={tmp_path / 'c'}", f"experts.calibration={calibrated}", *UNREACHABLE]
    options = [x for s in given for x in ("--set", s)]
    made = CliRunner().invoke(app, ["ask", clip, "Is there blur in this video?", "--agent", *options])
    assert made.exit_code == 0, made.output
    assert (
        "planner: rules planned, since the chat model gave no plan: llm: the endpoint: cannot be reached" in made.output
    )
    assert made.stdout.splitlines()[-1] in ("Yes.", "No.")


def test_a_page_shows_evidence_claims_and_escapes(clip, pool_of, agent_of, tmp_path):
    pool = pool_of(noise=told(20.0, strengths=["noise"]), broken=told(fails="<script>"))
    trace = agent_of(pool, voice=Spoken(words="<b>bad</b>")).ask(
        clip, question=open_prompt("Use broken."), want="answer"
    )
    write_page(tmp_path / "p.html", trace)
    page = (tmp_path / "p.html").read_text()
    assert "&lt;b&gt;bad" in page
    assert "<script>" not in page
    assert "tool:global" in page or "failure:global" in page
    assert read_trace(tmp_path / "trace.json") == trace


def test_our_models_options_are_its_own_log_probabilities(small, data_root, tmp_path):
    """Against one pass over prompt and reply together."""
    model, processor = small
    video = decode(VideoSpec, composed("eval", [])["predictor"]["video"], "video")
    inference = Inference(video=video, device="cpu", max_new_tokens=8, workers=0)
    made = ModelPredictor(model.eval(), processor, "small", "c", inference)
    path = min((data_root / "media" / "test").glob("*.mp4"))
    query = Query(id="x", path=path, kind="video", question=closed_prompt("What?", ["noise", "blur"], "text"))
    replies = ["noise.", "spatial blur."]
    read = made._read(query)
    ids, shown = made._prompt(query, query.question, read, "")
    for reply, got in zip(replies, made.options(query, replies)):
        tail = made.processor.tokenizer.encode(reply + "<|im_end|>", add_special_tokens=False)
        with torch.no_grad():
            logits = made.model(torch.tensor([ids + tail]), **made._media([shown])).logits[0]
        steps = logits[len(ids) - 1 : -1].log_softmax(-1)
        want = sum(steps[i, token].item() for i, token in enumerate(tail))
        assert got == pytest.approx(want, abs=1e-3)
