"""What the trainer does beside the plain step: dynamic sampling, memory, time limits, alarms, pages."""

import base64
import io
import math
import multiprocessing
import sys
import threading
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
from grpo_toy import REWARDS, few_as, lines, logged, real_rewards, rows, table, trainer
from PIL import Image

from vqa2.core.config import build, decode
from vqa2.core.errors import ConfigError
from vqa2.core.records import write_jsonl
from vqa2.launch import composed
from vqa2.rewards._scoring import EMPTY, Field
from vqa2.train._grpo_alarms import Alarms, Watch
from vqa2.train._grpo_log import Record
from vqa2.train._grpo_memory import RankingMemory
from vqa2.train._grpo_show import log_to_wandb
from vqa2.train.grpo_rewards import Judge, TrlReward, Verdict

# -- dynamic sampling -------------------------------------------------------------------------------------------------

DULL = {"r0", "r1", "r2"}


def dull(completions, prompt_id, **_):
    """Teaches nothing about some prompts."""
    return [0.5 if i in DULL else value for i, value in zip(prompt_id, few_as(completions))]


def test_groups_without_signal_are_replaced(tmp_path):
    change = {"rewards": {"dull": TrlReward(dull, 1.0)}, "max_steps": 4, "loss_type": "grpo"}
    plain = trainer(tmp_path / "a", **change)
    plain.train()
    made = trainer(tmp_path / "b", options={"resample_rounds": 3}, **change)
    made.train()
    # An epoch of four steps meets every prompt once; the dull ones give way to others.
    assert {r["prompt_id"] for r in table(tmp_path / "a")} == {r.id for r in rows()}
    assert not DULL & {r["prompt_id"] for r in table(tmp_path / "b")}
    assert [len(table(tmp_path / name)) for name in "ab"] == [4 * 8, 4 * 8]
    assert sum(row["resampled_groups"] for row in logged(made)) >= 3
    assert sum(row["frac_reward_zero_std"] for row in logged(plain)) > 0
    assert sum(row["frac_reward_zero_std"] for row in logged(made)) == 0


def test_rounds_end_and_what_is_left_has_advantage_zero(tmp_path):
    """No prompt has any signal, and the rows run out."""
    same = {"same": TrlReward(lambda completions, **_: [1.0] * len(completions), 1.0)}
    made = trainer(tmp_path, rewards=same, max_steps=1, options={"resample_rounds": 2})
    made.train()
    assert logged(made)[0]["resampled_groups"] == 4
    assert {r["advantage"] for r in table(tmp_path)} == {0.0}
    assert not made.has_signal


# -- memory and resume ------------------------------------------------------------------------------------------------


def test_memory_keeps_the_newest_prompts():
    memory = RankingMemory(3)
    memory.remember(Field(("a", "b"), (1.0, 2.0), (1.5, None), (0.1, 0.0)))
    memory.remember(Field(("c", "a"), (3.0, 1.0), (2.5, 4.0), (0.0, 0.2)))
    assert memory.past == Field(("c", "a", "b"), (3.0, 1.0, 2.0), (2.5, 4.0, None), (0.0, 0.2, 0.0))
    none = RankingMemory(0)
    none.remember(memory.past)
    assert none.past == EMPTY


def test_a_resumed_run_has_the_same_opponents_substitutes_and_pages(tmp_path, readable):
    """Killed in the middle of an epoch, and past the checkpoint."""
    options = {"resample_rounds": 1, "show": {"every": 1, "prompts": 1}}
    change = {"data": rows(12, lost=(4,)), "options": options, "max_steps": 5, "beta": 0.1}

    def run(name: str, memory: int = 5, resume: str | None = None, **more):
        made = trainer(tmp_path / name, rewards=real_rewards(memory), **change, **more)
        made.train(resume_from_checkpoint=resume)
        return {n: p.detach() for n, p in made.model.named_parameters()}

    straight = run("a")
    run("b", save_strategy="steps", save_steps=2)
    resumed = run("b", resume=str(tmp_path / "b" / "checkpoint-2"))
    assert all(bool((resumed[name] == value).all()) for name, value in straight.items())
    for file in ("completions.jsonl", "shown.jsonl", "broken.jsonl"):
        assert (tmp_path / "a" / file).read_text() == (tmp_path / "b" / file).read_text()
    opponents = [{r["opponents"] for r in table(tmp_path / "a") if r["step"] == k} for k in (1, 3)]
    assert max(opponents[0]) <= 1
    assert min(opponents[1]) > 1


# -- rewards ----------------------------------------------------------------------------------------------------------

RECORD = Record(
    prompt_id="p",
    clip_id="c",
    prompt="rate",
    kind="video",
    target=3.0,
    choice=None,
    text="no",
    tokens=(1,),
    clipped=False,
    counted=1,
    perturbed=None,
    perturbation=None,
)
"""A completion that rewards can be asked about."""


def test_a_late_reward_applies_to_nothing_and_is_not_called_again_while_it_runs():
    release, called = threading.Event(), []

    def slow(completions, **_):
        called.append(len(completions))
        release.wait(20)
        return [1.0] * len(completions)

    judge = Judge({"slow": TrlReward(slow, 1.0), "letters": TrlReward(few_as, 1.0)}, 0.05, is_main=True)
    for _ in range(2):
        verdict = judge([], EMPTY)
        assert verdict.metrics == {"rewards/slow/timeouts": 1.0, "rewards/letters/timeouts": 0.0}
    assert called == [0]
    release.set()
    judge._late["slow"].wait(20)
    assert judge([], EMPTY).metrics["rewards/slow/timeouts"] == 0.0


def test_a_late_reward_leaves_the_step_to_the_others(tmp_path):
    release = threading.Event()
    late = {"late": TrlReward(lambda completions, **_: release.wait(20) or [], 1.0), **REWARDS}
    made = trainer(tmp_path, rewards=late, max_steps=1, options={"reward_timeout_s": 0.05})
    made.train()
    release.set()
    row = logged(made)[0]
    assert row["rewards/late/not_applicable"] == 8
    assert row["rewards/late/timeouts"] == 1
    assert any(r["advantage"] for r in table(tmp_path))


@pytest.mark.parametrize(
    ("reward", "text"),
    [
        (lambda **_: None, "gave NoneType; a list with a value per completion is needed"),
        (lambda **_: 0.5, "gave float; a list"),
        (lambda **_: [0.0], "gave 1 values for 2 completions"),
        (lambda **_: [None, math.nan], "gave nan; use None where the reward does not apply"),
        (lambda **_: ["0.5", 1.0], "gave '0.5'; use None"),
        (lambda **_: [1 / 0, 0.0], r"ZeroDivisionError: division by zero \(test_grpo_control.py, line \d+\)$"),
        (lambda log_extra, **_: log_extra("note", 3) or [0.0, 0.0], "reward note: gave int; a list"),
        (lambda log_metric, **_: log_metric("note", "3") or [0.0, 0.0], "gave '3'; use None"),
    ],
)
def test_a_reward_that_misbehaves_stops_every_process(monkeypatch, reward, text):
    """What the main process finds is what all of them raise."""
    sent = []
    monkeypatch.setattr("vqa2.train.grpo_rewards.broadcast_object_list", lambda box: sent.append(box[0]))
    with pytest.raises(ConfigError, match=text) as caught:
        Judge({"odd": TrlReward(reward, 1.0)}, 20, is_main=True)([RECORD] * 2, EMPTY)
    assert sent == [str(caught.value)]
    monkeypatch.setattr("vqa2.train.grpo_rewards.broadcast_object_list", lambda box: box.__setitem__(0, sent[0]))
    with pytest.raises(ConfigError, match=text):
        Judge({}, 20, is_main=False)([], EMPTY)


def test_a_reward_that_gives_up_by_itself_is_not_late():
    def impatient(**_):
        raise multiprocessing.TimeoutError("no answer from the service")

    with pytest.raises(ConfigError, match="reward odd: TimeoutError: no answer from the service"):
        Judge({"odd": TrlReward(impatient, 1.0)}, 20, is_main=True)([RECORD] * 2, EMPTY)


def test_shuffled_rewards_stay_in_their_group():
    verdict = Verdict({"a": [float(k) for k in range(12)], "b": [k / 10 for k in range(12)]})
    mixed = verdict.shuffled(4, (1, 2))
    assert mixed == verdict.shuffled(4, (1, 2)) != verdict.shuffled(4, (1, 3))
    assert mixed.parts["a"] != verdict.parts["a"]
    # Parts of one completion stay together.
    assert [a / 10 for a in mixed.parts["a"]] == pytest.approx(mixed.parts["b"])
    for first in range(0, 12, 4):
        assert sorted(mixed.parts["a"][first : first + 4]) == verdict.parts["a"][first : first + 4]


def test_multiple_choice_and_ratings_in_one_step(tmp_path, monkeypatch):
    data = [replace(row, tags={"answer": "B"}) if k % 2 else row for k, row in enumerate(rows(4))]
    texts = ["<think></think><answer>B</answer>", "<think></think><answer>2.5</answer>", "no", "no"]
    monkeypatch.setattr("vqa2.train._grpo_collect.words", lambda rollout, _: texts * (len(rollout.ids) // 4))
    rewards = {**real_rewards(), "accuracy": build("reward", {"name": "accuracy", "weight": 1.0}, "accuracy")}
    made = trainer(tmp_path, rewards=rewards, data=data, max_steps=1, gradient_accumulation_steps=4)
    made.train()
    found = {(r["prompt_id"], k % 4): r for k, r in enumerate(table(tmp_path))}
    assert [found["r1", k]["rewards"]["accuracy"] for k in range(4)] == [1.0, 0.0, 0.0, 0.0]
    assert [found["r1", k]["answer"] for k in range(4)] == ["B", None, None, None]
    assert found["r1", 0]["target"] == "B"
    assert found["r1", 0]["rewards"]["regression"] is found["r1", 0]["rewards"]["ranking"] is None
    assert found["r0", 0]["rewards"]["accuracy"] is None
    assert [found["r0", k]["answer"] for k in range(2)] == [None, 2.5]
    # The other rating prompt is the only opponent; questions are none.
    assert found["r0", 1]["opponents"] == 1
    assert found["r1", 0]["opponents"] is None


def test_a_row_that_a_set_holds_twice_is_two_prompts(tmp_path, readable):
    made = trainer(tmp_path, rewards=real_rewards(), data=rows(2) * 2, max_steps=1, per_device_train_batch_size=8)
    made.train()
    found = table(tmp_path)
    assert Counter(r["prompt_id"] for r in found) == dict.fromkeys(["r0", "r1", "r0#2", "r1#2"], 4)
    assert {r["opponents"] for r in found} == {3}
    perturbed = {name: [r["perturbed"] for r in found if r["prompt_id"] == name] for name in ("r0", "r0#2")}
    assert perturbed["r0"] != perturbed["r0#2"]


def test_a_held_out_row_is_measured_once(tmp_path):
    write_jsonl(tmp_path / "grpo.test.jsonl", rows(4))
    stage = build("stage", composed("train", ["stage=grpo", "stage.sets.grpo=2.0"])["stage"], "stage")
    context = SimpleNamespace(spec=SimpleNamespace(data=SimpleNamespace(root=str(tmp_path)), seed=0))
    assert sorted(r.id for r in stage.held_out(context, None)) == ["r0", "r1", "r2", "r3"]


# -- alarms and pages -------------------------------------------------------------------------------------------------

ALARMS = {"steps": 20, "patience": 3, "parse_rate": 0.02, "length": 0.25, "stop": False}
GOOD = {"parse_rate": 0.9, "frac_reward_zero_std": 0.2, "completions/mean_length": 40.0}


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("parse_rate", {"parse_rate": 0.01}),
        ("zero_variance", {"frac_reward_zero_std": 1.0}),
        ("length", {"completions/mean_length": 9.0}),
    ],
)
def test_alarms(name, bad):
    watch = Watch(decode(Alarms, ALARMS, "alarms"))
    # Two bad steps are no alarm, nor are bad steps that are not in a row.
    for step, metrics in enumerate([GOOD, GOOD | bad, GOOD | bad, GOOD, GOOD | bad, GOOD | bad], 1):
        watch.see(step, metrics)
    assert not watch.raised
    watch.see(7, GOOD | bad)
    assert list(watch.raised) == [name]
    late = Watch(decode(Alarms, ALARMS, "alarms"))
    for step in range(20, 30):
        late.see(step, GOOD if step == 20 else GOOD | bad)
    assert not late.raised
    strict = Watch(decode(Alarms, ALARMS | {"stop": True}, "alarms"))
    for step in range(1, 4):
        strict.see(step, GOOD if step == 1 else GOOD | bad)
    with pytest.raises(ConfigError, match=f"alarm {name}"):
        strict.see(4, GOOD | bad)


def test_a_run_that_cannot_answer_raises_the_alarm(tmp_path):
    made = trainer(tmp_path, max_steps=3, options={"alarms": ALARMS})
    made.train()
    assert list(made.watch.raised) == ["parse_rate"]


def test_completions_can_be_looked_at(tmp_path, monkeypatch):
    texts = ["<think>a<b></think><answer>4.25</answer>", "<script>", "no", "no"]
    monkeypatch.setattr("vqa2.train._grpo_collect.words", lambda rollout, _: texts * (len(rollout.ids) // 4))
    made = trainer(
        tmp_path,
        rewards=real_rewards(),
        data=[*rows(7), replace(rows(8)[7], kind="image")],
        max_steps=3,
        options={"show": {"every": 2, "prompts": 2}},
    )
    sent = []
    stub = SimpleNamespace(run=object(), Image=lambda image: image, Table=lambda names, rows: (names, rows))
    stub.log = lambda row, commit: sent.append((row["completions"], commit))
    monkeypatch.setitem(sys.modules, "wandb", stub)
    made.args.report_to = ["wandb"]
    made.train()
    shown = lines(tmp_path / "shown.jsonl")
    assert [(row["step"], len(row["completions"])) for row in shown] == [(1, 4), (1, 4), (2, 4), (2, 4)]
    assert Image.open(io.BytesIO(base64.b64decode(shown[0]["thumbnail"]))).size == (2, 2)
    page = (tmp_path / "completions.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<img ") == 4
    assert page.count("unreadable") == 4 * 3
    assert page.index("Step 2") < page.index("Step 1")
    # Two steps of two prompts; without a run of wandb's nothing is sent.
    assert [(len(found), commit) for (_, found), commit in sent] == [(8, False), (8, False)]
    stub.run = None
    log_to_wandb(shown)
    assert len(sent) == 2
    names, found = sent[0][0]
    row = dict(zip(names, found[0]))
    assert (row["step"], row["answer"], row["format"]) == (1, "4.25", 1.0)
    assert row["clip"].size == (2, 2)
