"""Packed rows on the real model: log-probabilities, loss and gradients of separate sequences; each tower runs once."""

import copy
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from grpo_clips import (
    Clips,
    G,
    assert_gradients,
    clip,
    clips_trainer,
    collated,
    completed,
    gradients,
    loss_of,
    rows,
    tuned,
    unshared,
)
from grpo_toy import few_as, packing, real_rewards
from torch.nn.attention import flex_attention
from transformers.integrations.flex_attention import WrappedFlexAttention

from vqa2.core.config import decode
from vqa2.core.errors import ConfigError
from vqa2.model.tune import PARTS, only_lora, without_lora
from vqa2.train._grpo_inputs import take_clips
from vqa2.train._grpo_loss import Tokens, policy_loss
from vqa2.train._packed import (
    PADDING,
    PREFIX,
    Packing,
    _positions,
    check_attention,
    completion_logps,
    group_mask,
    kernels,
    packs_of,
    plan,
)
from vqa2.train._rollout import Sampling, sample, uniforms
from vqa2.train.grpo_rewards import TrlReward


def test_groups_share_a_pack_until_the_budget_and_are_cut_only_beyond_it():
    assert plan([10, 10, 10], [5, 5] * 3, 1000) == [range(6)]
    assert plan([10, 10, 10], [5, 5] * 3, 40) == [range(4), range(4, 6)]
    # A longer row pads the others: 2 x 30 places.
    assert plan([10, 20], [5, 5, 5, 5], 59) == [range(2), range(2, 4)]
    assert plan([10, 10], [5, 5, 5, 5], 15) == [range(1), range(1, 2), range(2, 3), range(3, 4)]
    assert plan([10, 4], [5, 5, 5, 5], 19) == [range(1), range(1, 2), range(2, 4)]
    # One completion alone beyond the budget cannot be cut.
    assert plan([10], [30, 2, 2], 15) == [range(1), range(1, 3)]


@pytest.mark.parametrize("attention", ["sdpa", "flex"])
def test_a_completion_sees_the_prefix_and_its_own_past(attention):
    segments = torch.tensor([[0, 0, 1, 1, 2, 3, 3], [0, 0, 0, 1, 1, PADDING, PADDING]])
    made = group_mask(segments, attention)
    for row in range(2):
        for query in range(7):
            for key in range(7):
                own = segments[row, key] in (PREFIX, segments[row, query])
                seen = made.mask_mod(row, 0, query, key) if attention == "flex" else made[row, 0, query, key]
                assert bool(seen) == (key <= query and own)
    assert _positions(segments)[0].tolist() == [0, 1, 2, 3, 2, 2, 3]
    assert _positions(segments)[1, :5].tolist() == [0, 1, 2, 3, 4]


# -- the real model ---------------------------------------------------------------------------------------------------


POLICIES = {
    "frozen towers": {"projector": "full", "motion_projector": "full", "position": "full", "lm": "full"},
    "trained towers": dict.fromkeys(PARTS, "full"),
    "lora": {"lm": "lora", "vision": "lora"},
}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
def test_shared_equals_unshared(small, model_spec, policy, checkpointing):
    """Log-probabilities, loss and every gradient, also over packs that cut a group."""
    model, processor = small
    torch.manual_seed(0)
    tuned(model, **POLICIES[policy])
    if policy == "lora":
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    model.train()
    batch = completed(collated(processor, model_spec, 3), model.config.text_config.vocab_size)
    expected = unshared(model, batch)
    loss_of(expected, batch).backward()
    theirs = gradients(model)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    given = batch | {"media": model.constants(batch["media"], model.encode(batch["media"]))}
    for budget, least in ((10_000, 1), (60, 4)):
        packs = packs_of(given, budget)
        assert len(packs) >= least
        for start, pack in zip(np.cumsum([0] + [len(p["owner"]) for p in packs]), packs):
            logps, _ = completion_logps(model, pack, 0.9, "sdpa")
            loss_of(logps, pack).backward()
            wanted = expected[start : start + len(logps)].detach()
            torch.testing.assert_close(logps.detach(), wanted, rtol=1e-5, atol=1e-5)
            assert (logps.detach() - wanted).norm() < 1e-5 * wanted.norm()
        assert_gradients(gradients(model), theirs)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_flex_equals_sdpa(small, model_spec, monkeypatch, checkpointing):
    """Log-probabilities, loss and every gradient, through the library's attention layer. The compiled kernels have no
    backward on the CPU, and torch refuses; the same mask in torch's unfused computation, which differentiates, stands
    in for them."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    monkeypatch.setattr(WrappedFlexAttention, "__call__", lambda _: flex_attention.flex_attention)
    model, processor = small
    tuned(model, **POLICIES["frozen towers"])
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    batch = completed(collated(processor, model_spec, 3), model.config.text_config.vocab_size)
    found = {}
    for attention in ("sdpa", "flex"):
        with kernels(model, attention):
            logps, _ = completion_logps(model, batch, 0.9, attention)
            loss_of(logps, batch).backward()
        found[attention] = logps.detach(), gradients(model)
    torch.testing.assert_close(found["flex"][0], found["sdpa"][0], rtol=1e-5, atol=1e-5)
    assert_gradients(found["flex"][1], found["sdpa"][1])


def test_bf16_packed_stays_near_fp32(small, model_spec):
    model, processor = small
    batch = completed(collated(processor, model_spec, 2), model.config.text_config.vocab_size)
    with torch.no_grad():
        exact, _ = completion_logps(model, batch, 1.0, "sdpa")
        with torch.autocast("cpu", torch.bfloat16):
            near, _ = completion_logps(model, batch, 1.0, "sdpa")
    assert near.dtype == torch.float32
    assert (near - exact).norm() < 0.02 * exact.norm()


def test_a_bf16_update_is_near_fp32_and_the_unshared_one(tmp_path, small, model_spec):
    """Gradients of the trainer's loss in mixed precision, against those of sequences apart in mixed precision and in
    float32; then a whole step."""
    model, processor = small
    tuned(model, **POLICIES["frozen towers"])
    reward = {"a": TrlReward(few_as, 1.0)}
    change = {"bf16": True, "temperature": 0.9, "max_completion_length": 12, "optim": "sgd"}
    made = trainer(tmp_path, small, model_spec, reward, **change)
    made.current_gradient_accumulation_steps = 1
    model.train()
    batch = completed(collated(processor, model_spec, 2), model.config.text_config.vocab_size)
    mask, advantages = batch["completion_mask"], batch["advantages"]
    more = {"whole": (len(mask), int(mask.sum())), "weight": 1.0, "old": {}, "number": 0}
    made.compute_loss(model, batch | more, num_items_in_batch=mask.sum()).backward()
    shared = gradients(model)

    def apart() -> dict:
        logps = unshared(model, batch)
        tokens = Tokens(logps=logps, old_logps=logps.detach(), ref_logps=None, mask=mask, advantages=advantages)
        policy_loss(tokens, made.loss_settings, mask.sum(), 1).loss.backward()
        return gradients(model)

    with torch.autocast("cpu", torch.bfloat16):
        near = apart()
    exact = apart()
    assert shared.keys() == near.keys() == exact.keys()
    flat = [torch.cat([g[name].flatten() for name in exact]) for g in (shared, near, exact)]
    size = flat[2].norm()
    assert 1e-4 * size < (flat[0] - flat[2]).norm() < 0.03 * size
    assert (flat[0] - flat[1]).norm() < 0.03 * size
    before = copy.deepcopy(model.state_dict())
    made.train()
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert moved
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_greedy_rollout_equals_the_librarys_generate(small, model_spec):
    model, processor = small
    model.eval()
    batch = collated(processor, model_spec, 3)
    greedy = Sampling(num=G, max_tokens=12, temperature=1.0, top_k=1, top_p=1.0, ends=(1,), pad=0)
    shared = batch | {"media": model.encode(batch["media"])}
    got = sample(model, shared, greedy, uniforms((0,), list("abc"), greedy)).ids
    options = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": 1, "pad_token_id": 0}
    for k in range(3):
        valid = batch["attention_mask"][k].bool()
        alone = {"input_ids": batch["input_ids"][k][valid][None], **take_clips(batch["media"], [k])}
        expected = model.generate(**alone, **options)[0].tolist()
        for g in range(G):
            assert got[k * G + g].tolist()[: len(expected)] == expected


def trainer(tmp_path, small, model_spec, rewards, data=None, **change):
    """Two prompts a micro-batch."""
    return clips_trainer(tmp_path, *small, model_spec, rewards, data, **{"per_device_train_batch_size": 2 * G} | change)


def counted(monkeypatch, model) -> Counter:
    """How often the vision tower gets each key frame, and the motion path each clip in each order of frames."""
    seen = Counter()
    see, tower = model.model.see, model.model.motion_tower
    fast = tower.fast

    def counting(frames, lengths, learn=None):
        seen.update(c.numpy().tobytes() for c in frames.split(lengths))
        return fast(frames, lengths, learn)

    monkeypatch.setattr(model.model, "see", lambda x: seen.update(f.numpy().tobytes() for f in x) or see(x))
    monkeypatch.setattr(tower, "fast", counting)
    # A trained tower runs once per pack that holds the prompt: here one.
    monkeypatch.setattr("vqa2.train.grpo.packs_of", lambda batch, budget: packs_of(batch, 10_000))
    return seen


def calls(seen: Counter) -> tuple[list[int], list[int]]:
    """Calls per distinct key frame and per distinct sequence of motion frames."""
    frame = 3 * 32 * 32 * 4
    return [c for n, c in seen.items() if len(n) == frame], [c for n, c in seen.items() if len(n) > frame]


@pytest.mark.parametrize(("vision", "passes"), [("frozen", 1), ("full", 2)])
def test_towers_run_once_per_clip(tmp_path, small, model_spec, monkeypatch, vision, passes):
    """Four prompts, G completions each, perturbed copies too: a frozen vision tower sees every key frame once and the
    motion path every order of frames once. A trained one runs again with gradients."""
    model, _ = small
    tuned(model, vision=vision, projector="full", motion_projector="full", position="full", lm="full")
    made = trainer(tmp_path, small, model_spec, real_rewards(), max_completion_length=48, beta=0.0)
    seen, reads, read = counted(monkeypatch, model), Counter(), Clips.read
    monkeypatch.setattr(Clips, "read", lambda self, row: reads.update([row.id]) or read(self, row))
    made.train()
    keys, motion = calls(seen)
    assert keys == [passes] * sum(len(clip(k, 2 + k % 2).key) for k in range(4))
    assert motion == [1] * (2 * 4)
    assert set(reads.values()) == {1}


def test_prompts_on_one_clip_share_its_encoding(tmp_path, small, model_spec, monkeypatch):
    """Four prompts on two clips, in two micro-batches, with a reference model: one call per distinct
    clip. Completions, rewards and weights are those of clips encoded one by one."""
    model, processor = small
    tuned(model, projector="full", motion_projector="full", position="full", lm="full")
    apart = copy.deepcopy(model)
    data = [replace(row, media=f"{k % 2}.mp4") for k, row in enumerate(rows(4))]
    change = {"max_completion_length": 12, "beta": 0.1, "optim": "sgd"}
    reward = {"a": TrlReward(few_as, 1.0)}
    made = trainer(tmp_path / "a", small, model_spec, reward, data, **change)
    seen = counted(monkeypatch, model)
    made.train()
    keys, motion = calls(seen)
    assert keys == [1] * 5
    assert motion == [1] * 2
    monkeypatch.setattr("vqa2.train._grpo_collect.encode_once", lambda model, media, names, known: model.encode(media))
    trainer(tmp_path / "b", (apart, processor), model_spec, reward, data, **change).train()
    tables = [(tmp_path / name / "completions.jsonl").read_text() for name in "ab"]
    assert tables[0] == tables[1]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, apart.state_dict()[name], rtol=0.0, atol=1e-6)


def test_lora_needs_no_second_model(tmp_path, small, model_spec):
    model, processor = small
    before = copy.deepcopy(model)
    tuned(model, lm="lora")
    assert only_lora(model)
    made = trainer(tmp_path, small, model_spec, {"a": TrlReward(few_as, 1.0)}, beta=0.1)
    assert made.reference is None
    batch = completed(collated(processor, model_spec, 2), model.config.text_config.vocab_size)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
        expected, _ = completion_logps(before, batch, 1.0, "sdpa")
        moved, _ = completion_logps(model, batch, 1.0, "sdpa")
        with without_lora(model):
            got, _ = completion_logps(model, batch, 1.0, "sdpa")
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    assert (moved - expected).abs().max() > 1e-2
    assert only_lora(model)
    assert any(p.requires_grad for p in model.parameters())


def test_the_reference_shares_what_does_not_train(tmp_path, small, model_spec):
    """LoRA and a trained projector: the copy holds the trained parts only, and answers as before training."""
    model, processor = small
    tuned(model, lm="lora", projector="full")
    model.train()
    before = copy.deepcopy(model)
    made = trainer(tmp_path, small, model_spec, {"a": TrlReward(few_as, 1.0)}, beta=0.1, max_completion_length=12)
    own, kept = dict(model.named_parameters()), dict(made.reference.named_parameters())
    assert own.keys() == kept.keys()
    assert all((kept[name] is p) != p.requires_grad for name, p in own.items())
    assert sum(p.requires_grad for p in own.values()) > 2
    made.train()
    batch = completed(collated(processor, model_spec, 2), model.config.text_config.vocab_size)
    with torch.no_grad():
        expected, now, got = (completion_logps(m, batch, 1.0, "sdpa")[0] for m in (before, model, made.reference))
    assert torch.equal(got, expected)
    assert (now - expected).abs().max() > 1e-4


def test_attention_that_cannot_run_packed_rows_is_refused(small):
    model, _ = small
    flex = Packing(max_tokens=10, rollout_tokens=10, attention="flex")
    with pytest.raises(ConfigError, match="flex needs CUDA"):
        check_attention(model, flex, torch.device("cpu"))
    # DeepSpeed leaves the model on the CPU until it is prepared.
    check_attention(model, flex, torch.device("cuda"))
    model.config.text_config._attn_implementation = "flash_attention_2"
    with pytest.raises(ConfigError, match="set sdpa"):
        check_attention(model, packing(), torch.device("cpu"))
    with pytest.raises(ConfigError, match="max_tokens"):
        decode(Packing, {"max_tokens": 0, "rollout_tokens": 10, "attention": "sdpa"}, "stage.packing")
