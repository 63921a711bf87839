"""Freeze policies: exactly the named parts move; LoRA starts as the identity and merges; the audit catches a lie."""

from dataclasses import replace

import pytest
import torch
from model_clips import clip, inputs
from peft import PeftModel
from transformers import AutoModelForImageTextToText
from transformers.utils import is_bitsandbytes_available

from vqa2.core.config import decode
from vqa2.core.errors import ConfigError
from vqa2.model.adapter import base_of, load_adapter, save_adapter
from vqa2.model.build import four_bits, quantization
from vqa2.model.tune import (
    PARTS,
    Audit,
    Lora,
    Tune,
    apply_policy,
    count_parameters,
    merged_state,
    parameter_groups,
    part_of,
)


def policy(rank=2, batchnorm="stored", **parts) -> Tune:
    full = {part: parts.get(part, "frozen") for part in PARTS}
    return Tune(
        parts=full,
        lr={p: 0.01 for p, v in full.items() if v != "frozen"},
        learn_from={},
        motion_batchnorm=batchnorm,
        lora=Lora(rank=rank, alpha=4.0, dropout=0.0),
    )


def step(model, processor, tune):
    optimizer = torch.optim.AdamW(parameter_groups(model, tune, 0.0))
    batch = inputs(processor, [clip(0)])
    model.train()(**batch, labels=batch["input_ids"]).loss.backward()
    optimizer.step()


def test_every_parameter_belongs_to_one_part(small):
    model, _ = small
    counts = count_parameters(model)
    assert sum(total for _, total in counts.values()) == sum(p.numel() for p in model.parameters())
    assert all(total for _, total in counts.values())


@pytest.mark.parametrize("part", list(PARTS))
def test_exactly_the_named_part_moves(small, part):
    model, processor = small
    tune = policy(**{part: "full"})
    apply_policy(model, tune)
    audit = Audit(tune)
    audit.start(model)
    step(model, processor, tune)
    assert audit.check(model, {part}) == {name: name == part for name in PARTS}


def test_lora_starts_as_the_identity_trains_alone_and_merges(small):
    model, processor = small
    batch = inputs(processor, [clip(0)])
    with torch.no_grad():
        before = model.eval()(**batch).logits
    keys = set(model.state_dict())
    tune = policy(lm="lora")
    apply_policy(model, tune)
    with torch.no_grad():
        assert torch.equal(model.eval()(**batch).logits, before)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in n and part_of(n) == "lm" for n in trained)
    step(model, processor, tune)
    with torch.no_grad():
        adapted = model.eval()(**batch).logits
        assert not torch.allclose(adapted, before, atol=1e-5)
        merged = merged_state(model, model.state_dict())
        assert set(merged) == keys
        plain = type(model)(model.config).eval()
        plain.load_state_dict(merged)
        assert torch.allclose(plain(**batch).logits, adapted, atol=1e-5)


def adapted(small, tmp_path, **parts):
    """A model with a trained adapter, its batch, its logits, and the adapter's folder."""
    model, processor = small
    model.save_pretrained(tmp_path / "base")
    batch = inputs(processor, [clip(0)])
    tune = policy(**parts)
    apply_policy(model, tune)
    step(model, processor, tune)
    with torch.no_grad():
        logits = model.eval()(**batch).logits
    save_adapter(model, model.state_dict(), tmp_path / "adapter", str(tmp_path / "base"))
    return batch, logits, tmp_path / "adapter"


def test_an_adapter_on_disk_is_one_that_peft_loads(small, tmp_path):
    batch, logits, folder = adapted(small, tmp_path, lm="lora", vision="lora")
    assert not (folder / "full.safetensors").exists()
    base = AutoModelForImageTextToText.from_pretrained(base_of(folder))
    with torch.no_grad():
        assert not torch.allclose(base.eval()(**batch).logits, logits, atol=1e-4)
        loaded = PeftModel.from_pretrained(base, folder).eval()
        assert torch.equal(loaded(**batch).logits, logits)
        assert torch.allclose(loaded.merge_and_unload()(**batch).logits, logits, atol=1e-5)


def test_training_continues_from_an_adapter_and_its_full_parts(small, tmp_path):
    parts = {"lm": "lora", "projector": "full", "motion": "full", "batchnorm": "train"}
    batch, logits, folder = adapted(small, tmp_path, **parts)
    model = AutoModelForImageTextToText.from_pretrained(base_of(folder))
    apply_policy(model, policy(**parts))
    load_adapter(model, folder)
    with torch.no_grad():
        assert torch.equal(model.eval()(**batch).logits, logits)


def test_an_adapter_of_another_policy_is_refused_in_one_line(small, tmp_path):
    _, _, folder = adapted(small, tmp_path, lm="lora")
    for parts, rank in (({"lm": "lora", "vision": "lora"}, 2), ({"lm": "lora"}, 3), ({"lm": "full"}, 2)):
        model = AutoModelForImageTextToText.from_pretrained(base_of(folder))
        apply_policy(model, policy(rank=rank, **parts))
        with pytest.raises(ConfigError, match="adapter and stage.tune do not fit at .*lora.rank of the run"):
            load_adapter(model, folder)
    save_adapter(small[0], small[0].state_dict(), folder, "")
    with pytest.raises(ConfigError, match="its base model was not saved; continue from "):
        base_of(folder)


def test_adapters_on_quantized_weights_are_folded_into_the_whole_ones(small):
    """What trained in full is taken over; packed weights (another shape) and their statistics are not."""
    model, processor = small
    before = {k: v.clone() for k, v in model.state_dict().items()}
    tune = policy(lm="lora", projector="full")
    apply_policy(model, tune)
    step(model, processor, tune)
    expected = merged_state(model, model.state_dict())
    packed = "model.language_model.layers.0.mlp.up_proj.base_layer.weight"
    state = model.state_dict() | {packed: torch.zeros(7, 1, dtype=torch.uint8), f"{packed}.absmax": torch.zeros(3)}
    merged = merged_state(model, state, before)
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[k], v) for k, v in expected.items())


def test_quantization_is_nf4_of_the_language_model_or_one_line(model_spec):
    made = four_bits(torch.bfloat16)
    assert made.quantization_method() == "nf4"
    assert made.bnb_4bit_use_double_quant
    assert made.bnb_4bit_compute_dtype == torch.bfloat16
    assert set(made.llm_int8_skip_modules) | {"model.language_model"} == {
        "lm_head", "model.vision_tower", "model.multi_modal_projector", "model.motion_tower", "model.motion_projector",
        "model.language_model",
    }  # fmt: skip
    assert quantization(model_spec) is None
    if is_bitsandbytes_available():
        pytest.skip("this machine has bitsandbytes")
    with pytest.raises(ConfigError, match="^model.quantize: nf4 needs the bitsandbytes package"):
        quantization(replace(model_spec, quantize="nf4"))


def test_the_audit_stops_on_a_contradiction(small):
    model, processor = small
    tune = policy(lm="full")
    apply_policy(model, tune)
    audit = Audit(tune)
    audit.start(model)
    with pytest.raises(RuntimeError, match="part lm is full but did not move"):
        audit.check(model, {"lm"})
    with torch.no_grad():
        model.model.image_newline += 1
    with pytest.raises(RuntimeError, match="part projector is frozen but moved"):
        audit.check(model, set())


def test_policies_that_cannot_train_are_refused(small):
    def tune(parts, lr):
        values = {"parts": parts, "lr": lr, "learn_from": {}, "motion_batchnorm": "stored"}
        return decode(Tune, {**values, "lora": {"rank": 1, "alpha": 1.0, "dropout": 0.0}}, "stage.tune")

    with pytest.raises(ConfigError, match=r"^stage.tune.parts: every part is frozen"):
        apply_policy(small[0], tune(dict.fromkeys(PARTS, "frozen"), {}))
    with pytest.raises(ConfigError, match=r"^stage.tune.lr.lm: required"):
        tune({**dict.fromkeys(PARTS, "frozen"), "lm": "full"}, {})
    with pytest.raises(ConfigError, match=r"^stage.tune.parts.lm: required and missing"):
        tune({part: "full" for part in PARTS if part != "lm"}, dict.fromkeys(PARTS, 0.1))


@pytest.mark.parametrize("part", ["motion", "position"])
def test_lora_on_a_part_without_linear_layers_is_one_line(small, part):
    with pytest.raises(ConfigError, match=f"^stage.tune.parts.{part}: lora adapts linear layers and {part} has none"):
        apply_policy(small[0], policy(**{part: "lora"}))
