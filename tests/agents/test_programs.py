"""Router and agent opened from their configuration and on the command line, with real experts and a real model."""

import json
from pathlib import Path

import pytest
import torch
from agent_test_parts import told
from typer.testing import CliRunner

from vqa2.agents.run import live
from vqa2.cli import app
from vqa2.core.config import build, decode
from vqa2.core.errors import UserError
from vqa2.core.prompts import closed_prompt
from vqa2.core.records import Query
from vqa2.data.video import VideoSpec
from vqa2.experts import calibration
from vqa2.experts.base import Media
from vqa2.experts.calibration import Material, fit
from vqa2.experts.localization.detector import Detector, Linear, save
from vqa2.experts.localization.features import NAMES
from vqa2.experts.localization.localize import LocalizeSpec
from vqa2.experts.pool import PoolSpec
from vqa2.launch import composed
from vqa2.model.predict import Inference, ModelPredictor
from vqa2.predictors.router import RouterLocalizer


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


def test_the_fingerprint_follows_settings_and_calibrations(calibrated, tmp_path):
    def made(*changes):
        values = composed("eval", ["predictor=router", f"predictor.experts.calibration={calibrated}",
                                   f"predictor.llm_cache={tmp_path / 'c'}", *changes])["predictor"]  # fmt: skip
        return build("predictor", values, "predictor").open().fingerprint

    assert made() == made()
    assert made() != made("predictor.router.suspect_margin=11.0")
    assert made() != made("predictor.experts.calibration=elsewhere")


def test_a_localizer_is_known_by_its_settings_and_its_detector(tmp_path):
    """Not by where the detector's file lies: another threshold is another localizer, another folder is not."""

    def named(folder: str, high: float, frames: int = 3) -> str:
        (tmp_path / folder).mkdir(exist_ok=True)
        width = len(NAMES)
        line = Linear(names=NAMES, classes=("clean", "noise"), mean=(0.0,) * width, scale=(1.0,) * width,
                      weight=((0.0,) * width,), bias=(0.0,))  # fmt: skip
        path = tmp_path / folder / "detector.json"
        save(Detector(frame=line, kind=line, high=high, low=0.1, heat=0.5, data="made up", n=0), path)
        made = LocalizeSpec(detector=str(path), min_frames=2, pad=0, frames=frames, min_share=0.01)
        return RouterLocalizer(made).name

    assert named("a", 0.8) == named("b", 0.8)
    assert len({named("a", 0.8), named("a", 0.9), named("a", 0.8, frames=4)}) == 3


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


def test_regions_prompt_and_reference_reach_the_agent(clip, pool_of, agent_of, monkeypatch, tmp_path):
    made, seen = agent_of(pool_of(noise=told(20.0, strengths=["noise"])), None, "regions=crops"), []

    def run(program, asked, settings):
        seen.append((asked, settings))
        return live(program, made.spec, asked, made.means), tmp_path / "t.json"

    monkeypatch.setattr("vqa2.programs.run", run)
    options = ["--region", "dog=0,0,1,0.5", "--region", "sky=0,0,1,1", "--prompt", "a dog", "--reference", str(clip)]
    done = CliRunner().invoke(app, ["ask", str(clip), "Is there noise in the dog?", "--agent", *options])
    assert done.stdout.strip() == "Yes."
    ((item, settings),) = seen
    assert settings == ["agent.regions=crops"]
    assert item.regions == {"dog": (0.0, 0.0, 1.0, 0.5), "sky": (0.0, 0.0, 1.0, 1.0)}
    assert (item.prompt, item.reference) == ("a dog", clip)
    assert "no expert uses the reference" in done.stderr
    assert "no expert uses the prompt" in done.stderr
    assert "not about the region 'sky'; its box is not used" in done.stderr
    CliRunner().invoke(app, ["route", str(clip), "--prompt", "a dog", "--reference", str(clip)])
    assert (seen[1][0].prompt, seen[1][0].reference, seen[1][1]) == ("a dog", clip, ["router.tier=1"])


@pytest.mark.parametrize(
    ("options", "say"),
    [
        (("--agent", "--region", "sky"), "--region sky: not name=left,top,right,bottom in shares, such as"),
        (("--agent", "--region", "sky=0,0,1"), "--region sky=0,0,1: not name="),
        (("--agent", "--region", "sky=0,0.5,1,0.5"), "--region sky=0,0.5,1,0.5: not name="),
        (("--agent", "--region", "=0,0,1,1"), "--region =0,0,1,1: not name="),
        (("--prompt", "a dog"), "--prompt: only the agent takes it; add --agent"),
    ],
)
def test_a_wrong_region_and_an_option_of_the_agent_alone_are_one_line(options, say):
    done = CliRunner().invoke(app, ["ask", "clip.mp4", "How is it?", *options])
    assert isinstance(done.exception, UserError)
    assert say in str(done.exception)


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
        (("foo",), "predictor.foo: unknown key; known: agent, experts"),
        (("llm=vqa2", "llm.folder=nowhere"), "nowhere: no trained model here"),
        (("experts.calibration=nowhere",), "nowhere: no expert is calibrated; run `python -m vqa2.experts` first"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(settings, say, data_root, calibrated, tmp_path):
    clip = str(min((data_root / "media" / "test").glob("*.mp4")))
    made = asked(clip, "How is the quality?", tmp_path, f"experts.calibration={calibrated}", *settings)
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
