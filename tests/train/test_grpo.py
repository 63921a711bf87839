"""The trainer on the toy: resume, micro-batches, rewards through to the table, learning, bad input."""

import json
from dataclasses import replace

import pytest
import torch
from grpo_toy import (
    REWARDS,
    ToyCollate,
    arguments,
    control,
    few_as,
    packing,
    real_rewards,
    rows,
    table,
    tokenizer,
    toy,
    trainer,
)
from trl.rewards import get_soft_overlong_punishment

import vqa2.train.grpo as grpo
from vqa2.core.config import build
from vqa2.core.errors import ConfigError, DataError
from vqa2.train._grpo_loss import policy_loss
from vqa2.train._rollout import Rollout
from vqa2.train.grpo_rewards import TrlReward


def weights(made) -> dict:
    return {name: p.detach().clone() for name, p in made.model.named_parameters()}


def assert_same(one: dict, other: dict, atol: float = 0.0) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0.0, atol=atol)


@pytest.mark.parametrize("updates", [1, 2])
def test_resume_equals_an_uninterrupted_run(tmp_path, updates):
    change = {"max_steps": 5, "beta": 0.1, "num_iterations": updates}
    straight = trainer(tmp_path / "a", **change)
    straight.train()
    stopped = trainer(tmp_path / "b", save_strategy="steps", save_steps=2, **change)
    stopped.train()
    # The table of the first run goes on to step 5; the resumed run takes it back to the checkpoint.
    resumed = trainer(tmp_path / "b", **change)
    resumed.train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-2"))
    assert_same(weights(resumed), weights(straight))
    assert table(tmp_path / "b") == table(tmp_path / "a")
    assert [row["step"] for row in table(tmp_path / "a")] == [k + 1 for k in range(5) for _ in range(8)]
    assert any(row["advantage"] for row in table(tmp_path / "a"))


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_one_large_micro_batch_equals_several_small(tmp_path, loss_type):
    change = {"loss_type": loss_type, "optim": "sgd", "max_steps": 2}
    large = trainer(tmp_path / "a", per_device_train_batch_size=16, gradient_accumulation_steps=1, **change)
    small = trainer(tmp_path / "b", per_device_train_batch_size=4, gradient_accumulation_steps=4, **change)
    before = weights(large)
    for made in (large, small):
        made.train()
    assert_same(weights(large), weights(small), atol=1e-6)
    assert max((before[n] - p).abs().max() for n, p in weights(large).items()) > 1e-4
    logs = [[row for row in made.state.log_history if "loss" in row] for made in (large, small)]
    assert [r["loss"] for r in logs[0]] == pytest.approx([r["loss"] for r in logs[1]], abs=1e-6)
    assert [r["entropy"] for r in logs[0]] == pytest.approx([r["entropy"] for r in logs[1]], rel=1e-5)


@pytest.mark.parametrize(("loss_type", "beta"), [("dapo", 0.0), ("grpo", 0.1), ("dr_grpo", 0.0), ("bnpo", 0.0)])
def test_packs_change_nothing(tmp_path, loss_type, beta):
    """A budget that holds two or three completions of a group, and one that holds every group of the micro-batch."""
    change = {"loss_type": loss_type, "beta": beta, "optim": "sgd", "max_steps": 2, "per_device_train_batch_size": 8}
    whole, cut = (trainer(tmp_path / str(n), max_tokens=n, **change) for n in (4096, 20))
    before = weights(whole)
    for made in (whole, cut):
        made.train()
    assert_same(weights(whole), weights(cut), atol=1e-6)
    assert max((before[n] - p).abs().max() for n, p in weights(whole).items()) > 1e-4
    logs = [[row for row in made.state.log_history if "loss" in row] for made in (whole, cut)]
    for name in ("loss", "entropy", *(["kl"] if beta else [])):
        assert [r[name] for r in logs[0]] == pytest.approx([r[name] for r in logs[1]], rel=1e-5, abs=1e-6)


def test_updates_on_one_rollout_clip_and_equal_trls(tmp_path, monkeypatch):
    """Two steps of three updates, in packs that cut groups and in whole micro-batches: the same weights; the ratio
    leaves 1 from the second update on, and is clipped. Every update's loss is TRL's with the log-probabilities of the
    first as old ones (test_grpo_loss.py: policy_loss)."""
    seen = []
    monkeypatch.setattr(grpo, "policy_loss", lambda tokens, *a: seen.append(tokens) or policy_loss(tokens, *a))
    change = {"num_iterations": 3, "learning_rate": 0.05, "lr_scheduler_type": "linear", "beta": 0.1, "optim": "sgd"}
    change |= {"max_grad_norm": 1e9, "learning_rate": 1.0}
    whole, cut = (trainer(tmp_path / str(n), max_tokens=n, **change) for n in (4096, 20))
    before = weights(whole)
    whole.train()
    assert len(seen) == 2 * 3 * 2  # steps, updates, micro-batches
    for step in range(2):
        for micro in range(2):
            first, second, third = (seen[6 * step + 2 * update + micro] for update in range(3))
            assert torch.equal(first.logps, first.old_logps)
            for later in (second, third):
                assert torch.equal(later.old_logps, first.old_logps)
                assert (later.logps - later.old_logps).abs().max() > 1e-3
    cut.train()
    assert_same(weights(whole), weights(cut), atol=1e-5)
    assert max((before[n] - p).abs().max() for n, p in weights(whole).items()) > 1e-3
    rows = [row for row in whole.state.log_history if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(0 < row["clip_ratio/region_mean"] < 1 for row in rows)
    # The schedule counts rollouts.
    assert [row["learning_rate"] for row in rows] == [1.0, 0.5]


def test_updates_ahead_are_those_of_the_loop(tmp_path):
    """Three updates on a rollout, against the loop taking three steps on it."""
    change = {"max_grad_norm": 0.1, "learning_rate": 1e-2, "loss_type": "dapo"}
    ahead = trainer(tmp_path / "a", num_iterations=3, max_steps=1, **change)
    ahead.train()
    loop = trainer(tmp_path / "b", max_steps=3, **change)
    made, first = loop.get_batch_samples, []

    def same(*given):
        first.append(made(*given)) if not first else None
        loop.ahead.rollout = first[0]
        return first[0]

    loop.get_batch_samples = same
    loop.train()
    assert_same(weights(ahead), weights(loop))


def test_training_raises_the_reward(tmp_path):
    made = trainer(tmp_path, max_steps=25, per_device_train_batch_size=16, learning_rate=5e-3)
    before = made.evaluate_rewards(rows(), seed=7)
    made.train()
    after = made.evaluate_rewards(rows(), seed=7)
    assert before["reward"] < 0.2
    assert after["reward"] > 0.5
    assert after["prompts"] == 8


def test_rewards_of_other_completions_teach_nothing(tmp_path):
    """The control of the test above: every completion gets the reward of another one of its group. Held-out rewards
    are never shuffled."""
    change = {"max_steps": 25, "per_device_train_batch_size": 16, "learning_rate": 5e-3}
    made = trainer(tmp_path / "a", options={"shuffle_rewards": True}, **change)
    made.train()
    found = table(tmp_path / "a")
    assert any(row["reward"] != few_as([row["completion"]])[0] for row in found)
    for k in range(0, len(found), 4):
        own = [few_as([row["completion"]])[0] for row in found[k : k + 4]]
        assert sorted(row["reward"] for row in found[k : k + 4]) == pytest.approx(sorted(own))
    assert made.evaluate_rewards(rows(), seed=7, table=tmp_path / "held_out.jsonl")["reward"] < 0.3
    for line in (tmp_path / "held_out.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["reward"] == pytest.approx(few_as([row["completion"]])[0])


def scripted(monkeypatch, clean: list[str], disturbed: list[str]) -> list[tuple[int, int]]:
    """Replaces decoding: a clean prompt gets the four texts `clean`, the prompt of a perturbed clip `disturbed`. How
    many of each a decoding loop had."""
    made, loops = tokenizer(), []

    def sample(model, batch, sampling, numbers):
        # The toy's clean clips end in full brightness, its reversed ones in darkness.
        bright = (batch["media"]["levels"] > 0.9).tolist()
        loops.append((bright.count(True), bright.count(False)))
        texts = [text for is_clean in bright for text in (clean if is_clean else disturbed)]
        assert len(texts) == len(numbers)
        ids = torch.zeros(len(texts), 40, dtype=torch.long)
        for k, text in enumerate(texts):
            one = [*made.encode(text), 1]
            ids[k, : len(one)] = torch.tensor(one)
        mask = (ids != 0).long()
        return Rollout(ids, mask, torch.zeros(len(texts), dtype=torch.bool))

    monkeypatch.setattr("vqa2.train._rollout.sample", sample)
    return loops


def say(value: float) -> str:
    return f"<think>a</think><answer>{value}</answer>"


def test_recorded_expert_scores_reward_by_clip_and_missing_ones_are_counted(tmp_path, monkeypatch):
    scripted(monkeypatch, [say(3.0), "bad"] * 2, [])
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(f'{{"id": "c{k}", "score01": 0.5}}\n' for k in range(6)))
    values = {"name": "expert", "weight": 1.0, "file": str(file), "sigma": 0.5}
    rewards = {"expert": build("reward", values, "r"), "format": real_rewards()["format"]}
    made = trainer(tmp_path, rewards=rewards, max_steps=1, per_device_train_batch_size=16, max_completion_length=40)
    made.train()
    for row in table(tmp_path):
        known = int(row["prompt_id"][1:]) < 6
        assert row["rewards"]["expert"] == (float(row["completion"] != "bad") if known else None)
    log = made.state.log_history[0]
    assert log["rewards/expert/not_applicable"] == log["expert_not_recorded"] == 8


def test_every_reward_reaches_loss_table_and_log(tmp_path, monkeypatch):
    # Targets: 1 + 4k/8 for row k of the step; every prompt gets the same four texts, one of them unreadable.
    loops = scripted(monkeypatch, [say(1.5), say(2.5), say(3.0), "bad"], [say(5)] * 4)
    made = trainer(
        tmp_path, rewards=real_rewards(), max_steps=1, per_device_train_batch_size=8, max_completion_length=40
    )
    made.train()
    # Two micro-batches of two prompts, clean and perturbed: one decoding loop.
    assert loops == [(4, 4)]
    found, log = table(tmp_path), made.state.log_history[0]
    assert len(found) == 16
    for row in found:
        readable = row["completion"] != "bad"
        assert row["perturbed"] == say(5)
        assert row["perturbation"] == "reverse"
        assert (row["answer"] is not None) == readable
        assert row["rewards"]["format"] == readable
        assert row["rewards"]["temporal"] in (0.0, 0.3)
        assert readable or row["rewards"]["ranking"] == row["rewards"]["regression"] == row["reward"] == 0.0
        assert row["reward"] == pytest.approx(sum(row["rewards"].values()))
    assert {r["rewards"]["temporal"] for r in found} == {0.0, 0.3}
    assert log["parse_rate"] == 0.75
    assert log["rewards/format/mean"] == 0.75
    assert log["rewards/temporal/not_applicable"] == 0
    assert log["reward"] == pytest.approx(sum(r["reward"] for r in found) / 16)
    assert {
        "data_s",
        "generation_s",
        "reward_s",
        "update_s",
        "completions/mean_length",
        "reward_std",
        "frac_reward_zero_std",
    } <= log.keys()


def test_rewards_that_do_not_apply_are_counted_and_left_out(tmp_path, monkeypatch):
    """One prompt of a still image: no ranking, no temporal reward and no perturbed rollout."""
    loops = scripted(monkeypatch, [say(1), say(2), say(3), say(4)], [])
    made = trainer(
        tmp_path,
        rewards=real_rewards(),
        data=rows(1, kind="image"),
        max_steps=1,
        gradient_accumulation_steps=1,
        max_completion_length=40,
    )
    made.train()
    assert loops == [(1, 0)]
    log, found = made.state.log_history[0], table(tmp_path)
    assert log["rewards/ranking/not_applicable"] == log["rewards/temporal/not_applicable"] == 4
    assert "rewards/ranking/mean" not in log
    # Regression 1 and format 1, renormalized to the four weights.
    assert [r["reward"] for r in found if r["answer"] == 1.0] == [4.0]
    assert found[0]["rewards"]["ranking"] is None


def test_truncated_completions_can_be_left_out_of_the_loss(tmp_path):
    made = trainer(tmp_path, mask_truncated_completions=True, max_steps=1, max_completion_length=6)
    made.train()
    pairs = iter(made.get_train_dataloader())
    batches, counted = made.get_batch_samples(pairs, 2, torch.device("cpu"))
    clipped = torch.tensor([row["clipped"] for row in table(tmp_path)][-8:])
    lengths = torch.cat([piece["completion_mask"].sum(1) for b in batches for piece in b["pieces"]])
    assert clipped.any()
    assert (lengths[clipped] == 0).all()
    assert (lengths[~clipped] > 0).all()
    assert counted == lengths.sum()


def test_evaluation_is_repeatable_and_leaves_the_model_as_it_was(tmp_path):
    made = trainer(tmp_path, num_generations_eval=2)
    made.model.train()
    first = made.evaluate_rewards(rows(5), seed=1)
    assert first == made.evaluate_rewards(rows(5), seed=1)
    assert first != made.evaluate_rewards(rows(5), seed=2)
    assert made.model.training
    made.eval_dataset = rows(5)
    assert made.evaluate()["eval_reward"] >= 0


def test_plain_trl_rewards_plug_in(tmp_path):
    punish = get_soft_overlong_punishment(max_completion_len=8, soft_punish_cache=4)
    made = trainer(tmp_path, rewards={"length": TrlReward(punish, 0.5), **REWARDS}, max_steps=1)
    made.train()
    assert all(-1 <= row["rewards"]["length"] <= 0 for row in table(tmp_path))
    assert made.state.log_history[0]["rewards/length/mean"] < 0


def test_optimizer_groups_are_used(tmp_path):
    def groups(model):
        return [{"params": list(model.lm_head.parameters()), "lr": 0.1}]

    model = toy()
    made = grpo.GRPOTrainer(
        model,
        arguments(tmp_path, max_steps=1),
        rows(),
        ToyCollate(),
        REWARDS,
        tokenizer(),
        packing(),
        control(),
        None,
        groups,
    )
    before = weights(made)
    made.train()
    moved = {name for name, p in weights(made).items() if not torch.equal(p, before[name])}
    assert moved == {"lm_head.weight"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"per_device_train_batch_size": 6, "gradient_accumulation_steps": 4}, "per_device_train_batch_size: counts"),
        ({"num_iterations": 0}, "num_iterations: must be at least 1"),
        ({"use_vllm": True}, "use_vllm"),
        ({"reward_weights": [1.0]}, "reward_weights"),
        ({"loss_type": "drgrpo"}, "loss_type: not 'drgrpo' .did you mean 'dr_grpo'"),
        ({"scale_rewards": "groups"}, "scale_rewards: not 'groups' .did you mean 'group'"),
        ({"steps_per_generation": 4}, "steps_per_generation: must equal gradient_accumulation_steps"),
        ({"temperature": 0.0}, "temperature: must be above 0"),
    ],
)
def test_arguments_that_do_not_fit_are_named(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        trainer(tmp_path, **change)


def test_rewards_and_rows_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(ConfigError, match="at least one reward"):
        trainer(tmp_path, rewards={})
    with pytest.raises(ConfigError, match="rewards.letters.weight: must be at least 0"):
        trainer(tmp_path, rewards={"letters": TrlReward(few_as, -1.0)})
    with pytest.raises(ConfigError, match="the weights of letters are all 0"):
        trainer(tmp_path, rewards={"letters": TrlReward(few_as, 0.0)})
    with pytest.raises(ConfigError, match="max_completion_length: 4 tokens cannot hold an answer"):
        trainer(tmp_path, rewards=real_rewards(), max_completion_length=4)
    with pytest.raises(DataError, match="r0: a GRPO row needs a MOS"):
        trainer(tmp_path, data=[replace(rows(1)[0], mos=None)])
