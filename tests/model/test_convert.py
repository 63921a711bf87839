"""Conversion: parity with the official code, round trips, the report, shard by shard, one line for bad input."""

import json
from dataclasses import replace

import golden
import pytest
import reference
import torch
from published import slowfast_state
from safetensors.torch import load_file, save_file
from small import SMALL_MODEL
from typer.testing import CliRunner

from vqa2.cli import app
from vqa2.core.config import build as build_component
from vqa2.core.errors import ConfigError
from vqa2.core.prompts import SCORE_PREFIX, SCORE_QUESTION
from vqa2.core.records import Query
from vqa2.launch import composed
from vqa2.model import _official
from vqa2.model._checkpoint import INDEX, expected_shapes
from vqa2.model.build import build
from vqa2.model.convert import convert
from vqa2.model.modeling import VQA2ForConditionalGeneration
from vqa2.model.motion import MotionConfig
from vqa2.model.processing import VQA2Processor
from vqa2.train.common import set_texts
from vqa2.train.plan import train

needs_reference = pytest.mark.skipif(not reference.FOLDER.is_dir(), reason="../shared/data/reference is not here")


@needs_reference
def test_every_stage_equals_the_official_code():
    """Official modules at toy size, fp32 (../shared/data/README.md)."""
    found = reference.differences()
    assert len(found) == 13
    assert {k: v for k, v in found.items() if v > 1e-5} == {}


def test_what_the_repository_holds_of_the_official_numbers_is_met():
    """Without the reference folder: from projectors to the merged sequence official, the towers and logits pinned."""
    found = golden.differences()
    assert len(found) == 11
    assert {k: v for k, v in found.items() if v > 1e-5} == {}


def test_every_name_of_the_7b_checkpoint_is_known():
    """1,430 entries: every live one has a name of ours and back, every dead one is written again with its shape."""
    shapes = golden.names_7b()
    dead = {k: v for k, v in shapes.items() if _official.dead_reason(k)}
    assert len(shapes) == 1430
    assert len(dead) == 342
    assert dict(_official.dead_entries(MotionConfig())) == dead
    live = {k: _official.to_ours(k) for k in shapes.keys() - dead.keys()}
    assert all(_official.to_theirs(ours) == theirs for theirs, ours in live.items())
    sizes = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
             "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
             "hidden_act": "silu", "rope_theta": 1e6,
             "mm_vision_tower": "google/siglip-so400m-patch14-384"}  # fmt: skip
    config = _official.config_from(sizes, shapes, (151646, 151647, 151648))
    assert expected_shapes(config) == {live[k]: shapes[k] for k in live}


@pytest.fixture
def ours(model_spec, data_root, tmp_path):
    """A small model of ours in layout `official`, saved in two shards."""
    torch.manual_seed(0)
    model, processor = build(replace(model_spec, layout="official"), set_texts(data_root))
    folder = tmp_path / "ours"
    model.save_pretrained(folder, max_shard_size="300KB")
    processor.save_pretrained(folder)
    assert (folder / INDEX).is_file()
    return folder


def state(folder) -> dict[str, torch.Tensor]:
    return {k: v for path in sorted(folder.glob("*.safetensors")) for k, v in load_file(path).items()}


@pytest.fixture
def official(ours, tmp_path):
    folder = tmp_path / "official"
    convert(str(ours), folder, None, None, "interleaved")
    return folder


def test_ours_to_official_and_back_is_bit_equal(ours, official, tmp_path):
    back = tmp_path / "back"
    report = convert(str(official), back, None, None, "interleaved")
    before, after = state(ours), state(back)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert report.counts().keys() == {"loaded", "dropped"}
    ids = torch.arange(300, 320)[None]
    with torch.no_grad():
        one, two = (VQA2ForConditionalGeneration.from_pretrained(f).eval()(input_ids=ids).logits for f in (ours, back))
    assert torch.equal(one, two)
    assert json.loads((back / "config.json").read_text())["layout"] == "official"
    assert VQA2Processor.from_pretrained(back).score_question == SCORE_QUESTION
    assert len(json.loads((back / "conversion.json").read_text())["tensors"]) == len(report.entries)


def test_a_release_is_asked_in_the_words_of_its_scorer_until_it_learns_ours(official, data_root, tmp_path):
    rewrite(official, score_question=None, score_prefix=None)
    made = tmp_path / "made"
    convert(str(official), made, None, None, "interleaved")
    processor = VQA2Processor.from_pretrained(made)
    assert processor.score_prefix == "The quality of the video is"
    clip = next((data_root / "media" / "test").glob("*.mp4"))
    predictor = build_component("predictor", {**composed("eval", [])["predictor"], "folder": str(made)}, "x").open()
    asked = []
    predictor.processor.example = lambda turns, *rest: asked.append(turns[0].user) or processor.example(turns, *rest)
    (answer,) = predictor.score([Query(id="a", path=clip, kind="video")])
    assert 0 <= answer.score01 <= 1
    assert set(asked) == {processor.score_question}
    assert processor.score_question.index("<video>") < processor.score_question.index("<motion>")
    few = ["stage.optim.max_steps=1", "stage.optim.batch_size=2", f"data.root={data_root}", f"out={tmp_path}"]
    train("scoring", [*SMALL_MODEL, *few, "model.layout=official", f"stage.init_from={made}"], composed)
    trained = VQA2Processor.from_pretrained(tmp_path / "tiny" / "scoring" / "model")
    assert (trained.layout, trained.score_question, trained.score_prefix) == ("official", SCORE_QUESTION, SCORE_PREFIX)


def test_the_written_official_form_has_every_name_the_official_loader_wants(official):
    names = state(official).keys()
    motion = MotionConfig(stem_channels=4, depths=[1, 1, 1, 1])
    assert {k for k in names if _official.dead_reason(k)} == dict(_official.dead_entries(motion)).keys()
    assert json.loads((official / "config.json").read_text())["model_type"] == "llava_qwen"
    shards = sorted(official.glob("*.safetensors"))
    assert len(shards) > 2, "one shard in, one shard out, and one of dead weight"


def edit(folder, change) -> None:
    """Applies `change` to the tensors of the shard that holds the language model's norm."""
    index = json.loads((folder / INDEX).read_text())
    path = folder / index["weight_map"]["model.norm.weight"]
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), "1 missing; first missing: model.language_model.norm.weight"),
        (lambda t: t.update({"model.extra": torch.zeros(1)}), "1 unexpected; first unexpected: model.extra"),
        (
            lambda t: t.update({"model.norm.weight": torch.zeros(8)}),
            r"1 shape mismatch; first shape mismatch: model.norm.weight \(is \[8\], config says \[32\]\)",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_stops_the_conversion(official, tmp_path, change, message):
    edit(official, change)
    with pytest.raises(ConfigError, match=message):
        convert(str(official), tmp_path / "out", None, None, "official")
    assert not (tmp_path / "out").exists()


def rewrite(folder, **values) -> None:
    path = folder / "config.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in (found | values).items() if v is not None}))


def test_bad_folders_are_one_clear_line(official, ours, tmp_path):
    out = tmp_path / "out"

    def fails(message, source=official, slowfast=None):
        with pytest.raises(ConfigError, match=message) as caught:
            convert(str(source), out, slowfast, None, "official")
        assert "\n" not in str(caught.value)

    rewrite(official, hidden_size=64)
    fails(r"shape mismatch; first shape mismatch: .* config says \[.*64")
    rewrite(official, hidden_size=32, rope_theta=None)
    fails("config.json: rope_theta missing")
    rewrite(official, rope_theta=1e4, model_type="qwen2_5_vl")
    fails("model_type 'qwen2_5_vl' is not one of llava_qwen, llava_onevision, vqa2")
    rewrite(official, model_type="llava_onevision")
    fails("a stock LLaVA-OneVision has no motion path; name its weights with --slowfast")
    rewrite(official, model_type="llava_qwen")
    fails("--slowfast: .* brings its own motion path", slowfast=tmp_path / "x.pyth")
    shard = sorted(official.glob("*.safetensors"))[0]
    shard.rename(shard.with_suffix(".gone"))
    fails(f"1 of .* shards missing, first {shard.name}; fetch it again")
    shard.write_bytes(shard.with_suffix(".gone").read_bytes()[:1000])
    fails(f"{shard.name}: not a complete safetensors file")
    rewrite(ours, layout="interleaved")
    fails("trained in layout 'interleaved', which the official code cannot feed", source=ours)


def test_llava_onevision_without_motion_tensors_says_so(official, tmp_path):
    for path in official.glob("*.safetensors"):
        kept = {k: v for k, v in load_file(path).items() if "slowfast" not in k}
        save_file(kept or {"model.image_newline": torch.zeros(32)}, path, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"no model.slowfast.\* tensors, so this is LLaVA-OneVision without"):
        convert(str(official), tmp_path / "out", None, None, "official")


@pytest.fixture
def stock(ours, tmp_path):
    """The small model as a stock LLaVA-OneVision under llava-hf's file names."""
    names = {
        "lm_head.": "language_model.lm_head.",
        "model.language_model.": "language_model.model.",
        "model.vision_tower.": "vision_tower.vision_model.",
        "model.multi_modal_projector.": "multi_modal_projector.",
        "model.image_newline": "image_newline",
    }
    folder = tmp_path / "stock"
    folder.mkdir()
    tensors = {}
    for name, value in state(ours).items():
        for mine, theirs in names.items():
            if name.startswith(mine):
                tensors[theirs + name[len(mine) :]] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (folder / name).write_bytes((ours / name).read_bytes())
    rewrite(folder, model_type="llava_onevision", motion=None, layout=None, motion_token_index=None)
    return folder


def test_stock_weights_with_kinetics_motion(stock, ours, tmp_path):
    weights = tmp_path / "slowfast.pyth"
    torch.save({"model_state": slowfast_state()}, weights)
    out = tmp_path / "new"
    report = convert(str(stock), out, weights, None, "interleaved")
    model, info = VQA2ForConditionalGeneration.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.layout == "interleaved"
    made, before = state(out), state(ours)
    key = "model.vision_tower.embeddings.patch_embedding.weight"
    assert torch.equal(made[key], before[key])
    stem = "feature_extraction.0.multipathway_blocks.1.conv.weight"
    assert torch.equal(
        made[f"model.motion_tower.{stem}"], slowfast_state()[stem.replace("feature_extraction", "blocks")]
    )
    assert made["model.motion_tower.position_embedding.weight"].std() == pytest.approx(0.02, rel=0.05)
    assert report.counts()["dropped"] == 2


def test_pickled_modules_are_refused_with_advice(stock, tmp_path):
    weights = tmp_path / "slowfast.pth"
    torch.save(torch.nn.Linear(2, 2), weights)
    with pytest.raises(ConfigError, match=r"pickled Python objects.*state_dict"):
        convert(str(stock), tmp_path / "out", weights, None, "interleaved")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not a complete file"), (b"PK\x03\x04 cut", "not a complete file"), ([1], "holds a list, a state dict")],
)
def test_files_that_are_no_state_dict_are_one_line(stock, tmp_path, content, message):
    weights = tmp_path / "slowfast.pth"
    if isinstance(content, bytes):
        weights.write_bytes(content)
    else:
        torch.save(content, weights)
    with pytest.raises(ConfigError, match=message):
        convert(str(stock), tmp_path / "out", weights, None, "interleaved")


def test_mistyped_arguments_are_one_line(official, tmp_path):
    with pytest.raises(ConfigError, match=r"no such layout 'oficial' \(did you mean 'official'"):
        convert(str(official), tmp_path / "out", None, None, "oficial")
    with pytest.raises(ConfigError, match="no such folder, and not to be had from the hub"):
        convert("no/such/folder/here", tmp_path / "out", None, None, "official")
    (official / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="config.json: not readable as JSON"):
        convert(str(official), tmp_path / "out", None, None, "official")


def test_the_command_writes_and_counts(official, tmp_path):
    done = CliRunner().invoke(app, ["convert", str(official), str(tmp_path / "back")])
    assert done.exit_code == 0, done.output
    assert "loaded" in done.output
    assert (tmp_path / "back" / "conversion.json").is_file()
