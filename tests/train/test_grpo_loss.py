"""Advantages, loss and one whole step equal TRL's own trainer, on fixed tensors and on the same completions."""

import copy
import itertools
import math

import pytest
import torch
from datasets import Dataset
from grpo_clips import assert_gradients, clips_trainer, collated, completed, gradients, tuned, unshared
from grpo_toy import arguments, few_as, tokenizer, toy, trainer
from transformers import Qwen2ForCausalLM
from trl import GRPOConfig
from trl import GRPOTrainer as Oracle

from vqa2.core.config import build
from vqa2.launch import composed
from vqa2.model.tune import PARTS
from vqa2.train._grpo_loss import LossSettings, Tokens, policy_loss, score
from vqa2.train._grpo_tally import Tally
from vqa2.train._packed import packs_of
from vqa2.train.grpo_config import loss_settings
from vqa2.train.grpo_rewards import TrlReward

G, P, C = 4, 3, 6
NAN = math.nan


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """TRL's trainer of a text-only toy; tests set the arguments they need on it."""
    args = arguments(tmp_path_factory.mktemp("trl"), per_device_train_batch_size=P * G, temperature=0.9)
    words = tokenizer()
    prompts = Dataset.from_dict({"prompt": ["abc", "de", "abcde e"]})
    made = Oracle(toy(cls=Qwen2ForCausalLM), few_as, args=args, train_dataset=prompts, processing_class=words)
    made.current_gradient_accumulation_steps = 2
    return made


def tokens() -> Tokens:
    rng = torch.Generator().manual_seed(1)
    logps = -torch.rand(P * G, C, generator=rng) * 3
    near = [logps + 0.4 * torch.randn(P * G, C, generator=rng) for _ in range(2)]
    mask = (torch.arange(C) < torch.randint(1, C + 1, (P * G, 1), generator=rng)).long()
    advantages = torch.randn(P * G, generator=rng)
    return Tokens(logps=logps.requires_grad_(), old_logps=near[0], ref_logps=near[1], mask=mask, advantages=advantages)


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "bnpo", "dapo"])
@pytest.mark.parametrize(
    ("level", "beta", "corrected"),
    [("token", 0.0, True), ("token", 0.1, True), ("sequence", 0.1, False), ("sequence", 0.1, True)],
)
def test_loss_and_its_gradient_equal_trl(oracle, monkeypatch, loss_type, level, beta, corrected):
    given = tokens()
    monkeypatch.setattr(oracle, "loss_type", loss_type)
    monkeypatch.setattr(oracle, "importance_sampling_level", level)
    monkeypatch.setattr(oracle, "beta", beta)
    monkeypatch.setattr(oracle, "epsilon_high", 0.28)
    monkeypatch.setattr(oracle.args, "use_bias_correction_kl", corrected)
    theirs = given.logps.detach().clone().requires_grad_()
    entropy = -given.old_logps
    monkeypatch.setattr(oracle, "_get_per_token_logps_and_entropies", lambda *a, **k: (theirs, entropy, None))
    oracle._metrics["train"].clear()
    items = torch.tensor(41.0)
    blank = torch.zeros(P * G, C, dtype=torch.long)
    expected = oracle._compute_loss(
        oracle.model,
        {
            "prompt_ids": blank,
            "prompt_mask": blank,
            "completion_ids": blank,
            "completion_mask": given.mask,
            "advantages": given.advantages,
            "old_per_token_logps": given.old_logps,
            "ref_per_token_logps": given.ref_logps,
            "num_items_in_batch": items,
        },
    )
    settings = LossSettings(
        loss_type=loss_type,
        importance_sampling_level=level,
        epsilon=0.2,
        epsilon_high=0.28,
        beta=beta,
        use_bias_correction_kl=corrected,
        max_completion_length=oracle.max_completion_length,
    )
    terms = policy_loss(given, settings, items, micro_batches=2)
    loss = terms.loss
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(given.logps.grad, theirs.grad, rtol=1e-5, atol=1e-7)
    assert theirs.grad.abs().sum() > 0
    tally = Tally(torch.device("cpu"))
    tally.add(terms, entropy, given.mask, weight=1.0)
    logged = tally.means(oracle.accelerator, with_kl=beta > 0)
    assert logged == pytest.approx({name: oracle._metrics["train"][name][-1] for name in logged}, rel=1e-5)
    assert 0 < logged["clip_ratio/region_mean"] < 1
    assert ("kl" in logged) == (beta > 0)


REWARDS = torch.tensor(
    [[0.1, 1.0], [0.4, 0.0], [0.4, 1.0], [0.9, 1.0], [0.5, 1.0], [0.5, 1.0], [0.5, 1.0], [0.5, 1.0]]
    + [[0.2, 0.3], [NAN, NAN], [0.7, 0.1], [0.1, 0.2]]
)


@pytest.mark.parametrize(
    ("scale", "aggregation"),
    [*itertools.product(["group", "batch", "none"], ["sum_then_normalize"]), ("group", "normalize_then_sum")],
)
def test_advantages_equal_trl(oracle, monkeypatch, scale, aggregation):
    weights = torch.tensor([1.0, 0.5])
    monkeypatch.setattr(oracle, "scale_rewards", scale)
    monkeypatch.setattr(oracle, "multi_objective_aggregation", aggregation)
    monkeypatch.setattr(oracle, "reward_funcs", [few_as, few_as])
    monkeypatch.setattr(oracle, "reward_func_names", ["one", "two"])
    monkeypatch.setattr(oracle, "reward_weights", weights)
    monkeypatch.setattr(oracle, "_calculate_rewards", lambda *a: REWARDS.clone())
    oracle._metrics["train"].clear()
    expected = generated(oracle)["advantages"]
    scored = score(REWARDS, weights, G, scale, aggregation)
    torch.testing.assert_close(scored.advantages, expected, rtol=1e-5, atol=1e-6)
    assert scored.zero_std.float().mean().item() == pytest.approx(oracle._metrics["train"]["frac_reward_zero_std"][0])
    assert scored.total.isnan().tolist() == REWARDS.isnan().all(1).tolist()


@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_a_reward_of_weight_zero_teaches_nothing(aggregation):
    weights, more = torch.tensor([1.0, 0.5]), torch.tensor([1.0, 0.5, 0.0])
    rng = torch.Generator().manual_seed(0)
    silent = torch.cat([REWARDS, torch.rand(len(REWARDS), 1, generator=rng)], 1)
    expected, found = score(REWARDS, weights, G, "group", aggregation), score(silent, more, G, "group", aggregation)
    torch.testing.assert_close(found.advantages, expected.advantages)
    torch.testing.assert_close(found.total, expected.total, equal_nan=True)


def generated(oracle) -> dict:
    torch.manual_seed(5)
    oracle.model.train()
    rows = [row for row in oracle.train_dataset for _ in range(G)]
    return oracle._generate_and_score_completions(rows)


def test_weights_of_rewards_that_do_not_apply_go_to_the_others():
    weights = torch.tensor([1.0, 2.0, 1.0])
    parts = torch.tensor([[0.5, 0.5, 0.5], [0.5, NAN, 0.5], [NAN, 0.8, NAN], [NAN, NAN, NAN]])
    scored = score(parts, weights, 4, "none", "sum_then_normalize")
    torch.testing.assert_close(scored.total, torch.tensor([2.0, 2.0, 3.2, NAN]), equal_nan=True)
    assert scored.advantages.tolist() == pytest.approx([-0.4, -0.4, 0.8, 0.0])


@pytest.mark.parametrize(("loss_type", "beta"), [("dapo", 0.0), ("grpo", 0.04)])
def test_a_full_step_equals_trl(oracle, monkeypatch, tmp_path, loss_type, beta):
    """Loss and every gradient on the completions that TRL sampled, through TRL's model and ours of the same weights."""
    made = generated(oracle)
    ours = trainer(tmp_path, model=copy_of(oracle.model), temperature=0.9, loss_type=loss_type, beta=beta)
    if beta:
        # A reference that differs from the policy, or the KL term is zero.
        with torch.no_grad():
            for p in ours.reference.parameters():
                p.mul_(0.9)
        made["ref_per_token_logps"] = their_logps(oracle, made, ours.reference).detach()
    monkeypatch.setattr(oracle, "loss_type", loss_type)
    monkeypatch.setattr(oracle, "beta", beta)
    oracle.model.zero_grad()
    expected = oracle._compute_loss(oracle.model, made)
    expected.backward()

    ours.current_gradient_accumulation_steps = 2
    batch = {
        "input_ids": made["prompt_ids"][::G],
        "attention_mask": made["prompt_mask"][::G],
        "media": {},
        "completion_ids": made["completion_ids"],
        "completion_mask": made["completion_mask"],
        "advantages": made["advantages"],
        "owner": torch.arange(P).repeat_interleave(G),
        "whole": (P * G, int(made["completion_mask"].sum())),
        "weight": 1.0,
        "old": {},
        "number": 0,
    }
    loss = ours.compute_loss(ours.model, batch, num_items_in_batch=made["num_items_in_batch"].float())
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-7)
    theirs, checked = dict(oracle.model.named_parameters()), 0
    for name, parameter in ours.model.named_parameters():
        if name.startswith("see."):
            continue
        gap = (parameter.grad - theirs[name].grad).norm() / theirs[name].grad.norm()
        assert gap < 1e-5, (name, gap)
        checked += 1
    assert checked == len(theirs)
    assert loss_settings(ours.args).epsilon_high == oracle.epsilon_high


@pytest.mark.parametrize(("loss_type", "beta"), [("dapo", 0.0), ("grpo", 0.04)])
def test_a_full_step_on_clips_equals_trls_loss(oracle, monkeypatch, tmp_path, small, model_spec, loss_type, beta):
    """TRL's trainer cannot take video: its own loss, on the log-probabilities of each completion in a sequence of its
    own. Ours comes from packs that cut groups; every part of the model trains."""
    model, processor = small
    tuned(model, **dict.fromkeys(PARTS, "full"))
    rewards = {"letters": TrlReward(few_as, 1.0)}
    change = {"loss_type": loss_type, "beta": beta, "temperature": 0.9}
    ours = clips_trainer(tmp_path, model, processor, model_spec, rewards, **change)
    model.train()
    batch = completed(collated(processor, model_spec, P), model.config.text_config.vocab_size)
    logps, reference = unshared(model, batch), None
    if beta:
        with torch.no_grad():
            for p in ours.reference.parameters():
                p.mul_(0.9)
            reference = unshared(ours.reference, batch)
    monkeypatch.setattr(oracle, "loss_type", loss_type)
    monkeypatch.setattr(oracle, "beta", beta)
    monkeypatch.setattr(oracle, "_get_per_token_logps_and_entropies", lambda *a, **k: (logps, logps.detach(), None))
    count, blank = batch["completion_mask"].sum().float(), torch.zeros(P * G, 1, dtype=torch.long)
    given = {"prompt_ids": blank, "prompt_mask": blank, "num_items_in_batch": count}
    given |= {name: batch[name] for name in ("completion_ids", "completion_mask", "advantages")}
    given |= {"old_per_token_logps": logps.detach(), "ref_per_token_logps": reference}
    expected = oracle._compute_loss(oracle.model, given)
    expected.backward()
    theirs = gradients(model)
    ours.current_gradient_accumulation_steps, loss = 2, torch.zeros(())
    packs, whole = packs_of(batch, 60), {"weight": 1.0, "whole": (P * G, int(count))}
    assert len(packs) > P
    for number, pack in enumerate(packs):
        share = ours.compute_loss(model, pack | whole | {"old": {}, "number": number}, num_items_in_batch=count)
        share.backward()
        loss += share.detach()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-7)
    assert_gradients(gradients(model), theirs)


@pytest.mark.parametrize(("preset", "corrected"), [("paper", False), ("tiny", True)])
def test_the_kl_of_a_preset_reaches_the_loss(tmp_path, preset, corrected):
    """The released code has the plain k3 estimate, TRL's default multiplies it by the ratio."""
    stage = build("stage", composed("train", ["stage=grpo", f"preset={preset}"])["stage"], "stage")
    options = stage.policy.options() | {"per_device_train_batch_size": stage.policy.num_generations}
    args = GRPOConfig(str(tmp_path), use_cpu=True, bf16=False, **options)
    assert loss_settings(args).use_bias_correction_kl is corrected
    assert args.num_generations_eval is None


def copy_of(model):
    ours = toy()
    ours.load_state_dict(model.state_dict(), strict=False)
    return ours


def their_logps(oracle, made, reference):
    """TRL's log-probabilities of the reference's weights."""
    other = copy.deepcopy(oracle.model)
    other.load_state_dict(reference.state_dict(), strict=False)
    ids = torch.cat([made["prompt_ids"], made["completion_ids"]], 1)
    mask = torch.cat([made["prompt_mask"], made["completion_mask"]], 1)
    length = made["completion_ids"].shape[1]
    return oracle._get_per_token_logps_and_entropies(other, ids, mask, length)[0]
