"""Freeze policies: exactly the named parts move; LoRA starts as the identity and merges; the audit catches a lie."""

import pytest
import torch
from model_clips import clip, inputs

from vqa2.core.config import decode
from vqa2.core.errors import ConfigError
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


def policy(**parts) -> Tune:
    full = {part: parts.get(part, "frozen") for part in PARTS}
    return Tune(
        parts=full,
        lr={p: 0.01 for p, v in full.items() if v != "frozen"},
        learn_from={},
        motion_batchnorm="stored",
        lora=Lora(rank=2, alpha=4.0, dropout=0.0),
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


def test_policies_that_cannot_train_are_refused():
    def tune(parts, lr):
        values = {"parts": parts, "lr": lr, "learn_from": {}, "motion_batchnorm": "stored"}
        return decode(Tune, {**values, "lora": {"rank": 1, "alpha": 1.0, "dropout": 0.0}}, "stage.tune")

    with pytest.raises(ConfigError, match=r"^stage.tune.parts: every part is frozen"):
        tune(dict.fromkeys(PARTS, "frozen"), {})
    with pytest.raises(ConfigError, match=r"^stage.tune.lr.lm: required"):
        tune({**dict.fromkeys(PARTS, "frozen"), "lm": "full"}, {})
    with pytest.raises(ConfigError, match=r"^stage.tune.parts.lm: required and missing"):
        tune({part: "full" for part in PARTS if part != "lm"}, dict.fromkeys(PARTS, 0.1))


@pytest.mark.parametrize("part", ["motion", "position"])
def test_lora_on_a_part_without_linear_layers_is_one_line(small, part):
    with pytest.raises(ConfigError, match=f"^stage.tune.parts.{part}: lora adapts linear layers and {part} has none"):
        apply_policy(small[0], policy(**{part: "lora"}))
