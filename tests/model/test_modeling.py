"""The model: counted splice, frames and their order reach the output, chunks and batches are exact, save and load."""

import pytest
import torch
from model_clips import clip, inputs
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaOnevisionForConditionalGeneration
from transformers.utils import is_flash_attn_2_available

from vqa2.core.errors import ConfigError, DataError
from vqa2.core.records import Turn
from vqa2.data.video import Video
from vqa2.model.build import flex_in_language_model, kernels_of, load_stock, temporal_dct_, whitened_dct_
from vqa2.model.modeling import VQA2ForConditionalGeneration
from vqa2.model.motion import MotionConfig, MotionTower


@torch.no_grad()
def logits(model, processor, videos):
    batch = inputs(processor, videos)
    return model.eval()(**batch).logits, batch["attention_mask"]


def test_shapes(small):
    model, processor = small
    media = processor.media([clip(0), clip(1, keys=3, motion=12)])
    assert model.model.visual_tokens(media["key_frames"]).shape == (5, model.config.tokens_per_frame, 32)
    assert model.model.motion_tokens(media["motion_frames"], [16, 12]).shape == (28, 32)
    assert model.config.tokens_per_frame == processor.tokens_per_frame == 4


@pytest.mark.parametrize("layout", ["interleaved", "official"])
def test_content_and_order_of_frames_change_the_output(small, layout):
    model, processor = small
    processor.layout = layout
    one, other = clip(0), clip(1)
    shuffled = Video(one.key, one.motion[::-1].copy(), one.key_times, one.motion_times, one.motion_second, one.fps, "x")
    base = logits(model, processor, [one])[0]
    assert torch.equal(base, logits(model, processor, [one])[0])
    assert not torch.allclose(base, logits(model, processor, [other])[0], atol=1e-4)
    assert not torch.allclose(base, logits(model, processor, [shuffled])[0], atol=1e-6)


def test_a_batch_of_different_lengths_equals_one_by_one(small):
    model, processor = small
    videos = [clip(0), clip(1, keys=3, motion=24), clip(2, keys=1, motion=4)]
    together, mask = logits(model, processor, videos)
    for row, video in enumerate(videos):
        alone = logits(model, processor, [video])[0][0]
        assert torch.allclose(together[row][: int(mask[row].sum())], alone, atol=1e-5)


def test_counts_that_differ_are_an_error_that_names_kind_and_numbers(small):
    model, processor = small
    batch = inputs(processor, [clip(0)])
    media = processor.media([clip(1, keys=3, motion=12)])
    with pytest.raises(ValueError, match=r"visual placeholders .* at clip 0: placeholders \[9\], features \[13\]"):
        model(**{**batch, **media})
    with pytest.raises(ValueError, match="placeholders without frames"):
        model(batch["input_ids"])


@pytest.mark.parametrize("shown", [True, False], ids=["clip", "text"])
def test_generate_with_cache_equals_step_by_step(shown, small):
    model, processor = small
    model.eval()
    media = processor.media([clip(0)]) if shown else {}
    batch = inputs(processor, [clip(0)]) if shown else {"input_ids": torch.tensor([[300, 301, 302, 303]])}
    new = model.generate(**batch, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    embeds = model.embed(batch["input_ids"], **media)
    table, picked = model.get_input_embeddings(), []
    with torch.no_grad():
        for _ in range(6):
            scores = model(inputs_embeds=embeds).logits[0, -1]
            scores[model.generation_config.eos_token_id] = -torch.inf
            picked.append(int(scores.argmax()))
            embeds = torch.cat((embeds, table(torch.tensor([[picked[-1]]]))), 1)
    assert new[0].tolist() == picked


def test_loss_is_the_mean_over_labels_and_scales_with_the_step(small):
    model, processor = small
    batch = inputs(processor, [clip(0), clip(1)])
    labels = batch["input_ids"].clone()
    labels[:, :-4] = -100
    scores = model(**batch).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(scores.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    assert torch.allclose(model(**batch, labels=labels).loss, expected, atol=1e-6)
    count = int((labels[:, 1:] != -100).sum())
    assert torch.allclose(model(**batch, labels=labels, num_items_in_batch=2 * count).loss, expected / 2, atol=1e-6)


def test_gradient_routing_reaches_only_the_side_asked_for(small):
    model, processor = small
    batch = inputs(processor, [clip(0)])
    yes, no = torch.tensor([True]), torch.tensor([False])
    loss = model(**batch, labels=batch["input_ids"], vision_grad=no, motion_grad=yes).loss
    loss.backward()
    assert not any(p.grad.any() for p in model.model.multi_modal_projector.parameters())
    assert any(p.grad.any() for p in model.model.motion_projector.parameters())


def test_save_and_load_are_bit_equal(small, tmp_path):
    model, processor = small
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, other = AutoModelForImageTextToText.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(again, VQA2ForConditionalGeneration)
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert other.tokens == processor.tokens
    assert torch.equal(logits(model, processor, [clip(0)])[0], logits(again, other, [clip(0)])[0])


def test_a_stock_llava_onevision_checkpoint_loads_whole(small, tmp_path):
    """With the library's own class under its older key names; only the motion side may be new."""
    model, _ = small
    stock_config = model.config.to_dict() | {"model_type": "llava_onevision", "architectures": None}
    for key in ("motion", "motion_token_index", "layout"):
        stock_config.pop(key)
    config = LlavaOnevisionForConditionalGeneration.config_class.from_dict(stock_config)
    stock = LlavaOnevisionForConditionalGeneration(config)
    stock.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    old = {_old_name(k): v for k, v in load_file(path).items()}
    save_file(old, path, metadata={"format": "pt"})
    loaded = load_stock(str(tmp_path), model.config, torch.float32, "sdpa")
    expected = stock.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items() if "motion" not in key)
    loaded.save_pretrained(tmp_path / "ours")
    assert load_file(tmp_path / "ours" / "model.safetensors").keys() <= loaded.state_dict().keys()
    config.text_config.num_hidden_layers = 1
    LlavaOnevisionForConditionalGeneration(config).save_pretrained(tmp_path / "short")
    with pytest.raises(ConfigError, match="lacks .* tensors, first"):
        load_stock(str(tmp_path / "short"), model.config, torch.float32, "sdpa")


def _old_name(key: str) -> str:
    """The key as llava-hf's published files have it."""
    if key.startswith("model.language_model."):
        return key.replace("model.language_model.", "language_model.model.")
    return key.replace("lm_head", "language_model.lm_head") if key.startswith("lm_head") else key.removeprefix("model.")


def test_chunks_with_halo_equal_the_whole():
    torch.manual_seed(0)
    config = MotionConfig(image_size=32, stem_channels=4, depths=[3, 4, 6, 3])
    tower = MotionTower(config).eval()
    assert config.halo_frames == 18
    frames = torch.randn(1, 3, 100, 32, 32)
    whole = tower.fast_features(frames)
    config.chunk_frames = 24
    assert torch.allclose(tower.fast_features(frames), whole, atol=1e-5)


def test_pixels_and_floats_are_the_same_clip():
    torch.manual_seed(0)
    tower = MotionTower(MotionConfig(image_size=32, stem_channels=4, depths=[1, 1], chunk_frames=8)).eval()
    pixels = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(tower(pixels, [20]), tower(pixels.float().div(127.5).sub(1), [20]))


def test_more_frames_than_positions_are_an_error_or_stretched_as_asked():
    config = MotionConfig(image_size=32, stem_channels=4, depths=[1, 1], max_positions=8)
    tower = MotionTower(config).eval()
    frames = torch.rand(20, 3, 32, 32)
    with pytest.raises(ConfigError, match="20 motion frames, but 8 learned positions.*positions=interpolate"):
        tower(frames, [20])
    config.positions = "interpolate"
    learned = tower.position_embedding.weight
    stretched = tower.positions(20)
    assert torch.equal(tower.positions(8), learned)
    assert torch.allclose(stretched[[0, -1]], learned[[0, -1]])
    assert torch.allclose(tower.positions(15)[::2], learned, atol=1e-6)
    assert tower(frames, [20]).shape == (20, config.hidden_size)


def test_checkpointing_covers_all_three_towers_and_keeps_the_gradients(small):
    model, processor = small
    batch = inputs(processor, [clip(0), clip(1)])

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model(**batch, labels=batch["input_ids"]).loss.backward()
        return {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}

    plain = gradients()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    blocks = ("vision_tower.encoder.layers.0.mlp", "motion_tower.feature_extraction.1", "language_model.layers.0.mlp")
    runs = dict.fromkeys(blocks, 0)
    for name in runs:

        def count(*_, name=name):
            runs[name] += 1

        model.model.get_submodule(name).register_forward_pre_hook(count)
    again = gradients()
    assert set(runs.values()) == {2}, f"each tower runs again in the backward pass: {runs}"
    assert plain.keys() == again.keys()
    assert all(torch.allclose(plain[k], again[k], atol=1e-6) for k in plain)


def test_weights_in_bfloat16_take_the_same_batch(small):
    model, processor = small
    batch = inputs(processor, [clip(0)])
    full = model.eval()(**batch).logits
    half = model.to(torch.bfloat16)(**batch).logits
    assert half.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(full.flatten(), half.float().flatten(), dim=0) > 0.99


def test_batchnorm_runs_on_stored_statistics_unless_told_otherwise():
    tower = MotionTower(MotionConfig(stem_channels=4, depths=[1, 1])).train()
    before = tower.feature_extraction[0].multipathway_blocks["1"].norm.running_mean.clone()
    tower.fast_features(torch.randn(1, 3, 8, 32, 32))
    after = tower.feature_extraction[0].multipathway_blocks["1"].norm.running_mean
    assert torch.equal(before, after)
    tower.train_batchnorm = True
    tower.train()(torch.randn(8, 3, 32, 32), [8], learn=[False])
    assert torch.equal(before, after), "a clip that the motion side does not learn from leaves the statistics alone"
    tower(torch.randn(8, 3, 32, 32), [8], learn=[True])
    assert not torch.equal(before, after)


def test_whitened_dct_shows_fine_structure_as_strongly_as_brightness():
    """A flat patch answers in the lowest pattern alone; a pattern's gain grows with its frequency."""
    weight = torch.empty(24, 3, 8, 8)
    whitened_dct_(weight, 2.0)
    flat = torch.nn.functional.conv2d(torch.ones(1, 3, 8, 8), weight).flatten().abs()
    assert flat[0] > 1
    assert flat[1:].max() < 1e-4
    norms = weight.flatten(1).norm(dim=1)
    assert norms[0] == pytest.approx(2.0, rel=1e-4)
    assert norms[-1] > 8 * norms[0]


def test_a_temporal_stem_sees_change_and_no_still_picture(small):
    weight = torch.empty(8, 3, 5, 7, 7)
    temporal_dct_(weight)
    still = torch.rand(1, 3, 1, 24, 24).expand(-1, -1, 12, -1, -1)
    inside = torch.nn.functional.conv3d(still, weight)
    assert inside.abs().max() < 1e-5
    moving = torch.cat([torch.roll(still[:, :, :1], t, 4) for t in range(12)], 2)
    assert torch.nn.functional.conv3d(moving, weight).abs().amax((0, 2, 3, 4)).min() > 0.1
    flat = weight.flatten(1)
    assert torch.allclose(flat @ flat.T, torch.eye(8), atol=1e-5), "eight different patterns of unit norm"
    model, _ = small
    stem = model.model.motion_tower.feature_extraction[0].multipathway_blocks["1"].conv.weight
    temporal_dct_(weight)
    assert torch.equal(stem, weight[: len(stem)])


def test_rows_too_long_lose_key_frames_evenly_and_nothing_else(small):
    """Text, motion frames and their order stay; the answer is whole; the loss of key frames is counted."""
    _, processor = small
    long = clip(0, keys=8, motion=32)
    turns = (Turn(user="<video>\nHow good?", assistant="The quality of this video is high."),)
    whole = processor.example(turns, long, "row")
    processor.max_length = len(whole.input_ids) - 9
    kept = processor.fit(turns, long, "row")
    assert kept.dropped == 3
    assert kept.key_times.tolist() == [0, 2, 4, 5, 7]
    short = processor.example(turns, kept, "row")
    assert len(short.input_ids) <= processor.max_length
    assert [i for i in short.labels if i != -100] == [i for i in whole.labels if i != -100]
    video, motion = processor.tokenizer.convert_tokens_to_ids(["<video>", "<motion>"])
    assert [i for i in short.input_ids if i != video] == [i for i in whole.input_ids if i != video]
    assert short.input_ids.count(motion) == 32
    assert kept.motion_second.tolist() == [0] * 8 + [1] * 8 + [2] * 4 + [3] * 8 + [4] * 4
    assert processor.fit(turns, kept, "row") is kept


def test_rows_that_cannot_fit_are_one_line(small):
    _, processor = small
    processor.max_length = 20
    turns = (Turn(user="<video>\nHow good?", assistant="fine."),)
    with pytest.raises(
        DataError, match="^row: text, one key frame and motion frames take more than model.max_length=20"
    ):
        processor.fit(turns, clip(0), "row")
    with pytest.raises(DataError, match="^row: the text takes more"):
        processor.fit((Turn(user="word " * 30, assistant="fine."),), None, "row")


def test_attention_that_is_not_there_is_one_line():
    assert kernels_of("sdpa") == "sdpa"
    if not is_flash_attn_2_available():
        with pytest.raises(ConfigError, match="^model.attention: flash_attention_2 needs a GPU"):
            kernels_of("flash_attention_2")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="^model.attention: flex_attention trains on a GPU only"):
            kernels_of("flex_attention")


def test_flex_and_eager_attention_give_what_sdpa_gives(small):
    """On the CPU flex has no backward; its forward is the same one. Rows of different length: the mask counts."""
    model, processor = small
    videos = [clip(0), clip(1, keys=3, motion=24)]
    expected, mask = logits(model, processor, videos)
    state = model.state_dict()
    for kernels in (flex_in_language_model(), "eager"):
        other = VQA2ForConditionalGeneration._from_config(model.config, attn_implementation=kernels)
        other.load_state_dict(state)
        found, _ = logits(other, processor, videos)
        assert torch.allclose(found[mask.bool()], expected[mask.bool()], atol=1e-5)
    other.set_attn_implementation(flex_in_language_model())
    assert other.model.language_model.config._attn_implementation == "flex_attention"
    assert other.model.vision_tower.config._attn_implementation == "sdpa"
