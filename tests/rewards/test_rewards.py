"""Value tables of the rewards. The figures of the first two tables were computed with the authors' own formulas."""

import random
from pathlib import Path

import pytest
from trl.rewards import get_soft_overlong_punishment

from vqa2.core.config import build
from vqa2.core.errors import ConfigError
from vqa2.rewards._scoring import field_of
from vqa2.rewards.accuracy import Accuracy
from vqa2.rewards.format import Format
from vqa2.rewards.ranking import Ranking
from vqa2.rewards.regression import Regression
from vqa2.rewards.temporal import Temporal

EPS = 1e-6
BAD = "I would say 3."


def say(value) -> str:
    return BAD if value is None else f"<think>t</think><answer>{value}</answer>"


def regression(**change) -> Regression:
    return build("reward", {"name": "regression", "weight": 1.0, "sigma": 0.5} | change, "r")


def ranking(**change) -> Ranking:
    return build("reward", {"name": "ranking", "weight": 1.0, "eps": EPS, "memory": 0} | change, "r")


def temporal(**change) -> Temporal:
    perturbation = {"modes": ["reverse"], "segments": 6, "window": 4, "most": 3}
    values = {
        "weight": 1.0,
        "variant": "fixed",
        "bonus": 0.3,
        "regression_above": 0.9,
        "ranking_above": 0.5,
        "sigma": 0.5,
        "eps": EPS,
    }
    return build("reward", {"name": "temporal", "perturbation": perturbation} | values | change, "r")


def ranked(groups: list[list], targets: list[float]) -> list:
    ids = [f"p{i}" for i, g in enumerate(groups) for _ in g]
    target = [y for g, y in zip(groups, targets) for _ in g]
    return ranking()([say(a) for g in groups for a in g], prompt_id=ids, target=target)


@pytest.mark.parametrize(("error", "value"), [(0.0, 1.0), (0.1, 0.9802), (0.25, 0.8825), (0.5, 0.6065), (1.0, 0.1353)])
def test_regression_table(error, value):
    assert regression()([say(3 + error), say(3 - error)], target=[3.0, 3.0]) == pytest.approx([value, value], abs=5e-5)


def test_regression_unreadable_and_decimals():
    assert regression()([BAD, say("3.5"), say("3.50")], target=[3.5] * 3) == [0.0, 1.0, 1.0]


def test_ranking_table():
    expected = [0.9294, 0.9835, 0.9637, 0.9982, 0.9998, 0.9796, 0.9567, 0.9181]
    got = ranked([[3.2, 3.4, 3.3, 3.6], [2.6, 2.9, 3.0, 3.1]], [3.4, 2.8])
    assert got == pytest.approx(expected, abs=5e-5)


def test_ranking_without_spread_is_a_step():
    # All answers equal: right order 1.001, wrong order 0.002; the same answer for both clips 0.708.
    assert ranked([[4, 4], [2, 2]], [4.0, 2.0]) == pytest.approx([1.001] * 4, abs=1e-3)
    assert ranked([[2, 2], [4, 4]], [4.0, 2.0]) == pytest.approx([0.002] * 4, abs=1e-3)
    assert ranked([[3, 3], [3, 3]], [4.0, 2.0]) == pytest.approx([0.708] * 4, abs=1e-3)


def test_ranking_tied_targets_want_equal_answers():
    apart, same = ranked([[4, 4], [2, 2]], [3.0, 3.0]), ranked([[3, 3], [3, 3]], [3.0, 3.0])
    assert same == pytest.approx([1.0] * 4, abs=1e-5)
    assert all(a < 0.72 for a in apart)


def test_ranking_unreadable_earns_zero_and_enters_no_statistic():
    got = ranked([[3.2, None, 3.6], [2.6, 3.0]], [3.4, 2.8])
    without = ranked([[3.2, 3.6], [2.6, 3.0]], [3.4, 2.8])
    assert got[1] == 0.0
    assert [got[0], *got[2:]] == without


def test_ranking_without_opponents_does_not_apply():
    assert ranked([[3.0, 3.1]], [3.0]) == [None, None]
    # The other prompt has no readable answer: prompt 0 has no opponent, prompt 1 has one and earns nothing.
    assert ranked([[3.0, None], [None, None]], [3.0, 2.0]) == [None, None, 0.0, 0.0]


def test_ranking_opponents_are_all_other_prompts():
    three = ranked([[4.0, 4.2], [3.0, 3.2], [2.0, 2.2]], [4.0, 3.0, 2.0])
    pairs = [ranked([[4.0, 4.2], other], [4.0, y])[0] for other, y in (([3.0, 3.2], 3.0), ([2.0, 2.2], 2.0))]
    assert three[0] == pytest.approx(sum(pairs) / 2)


def test_memory_adds_opponents():
    """A prompt from the memory ranks like a prompt of the step, except that it earns nothing itself."""
    ids, texts, target = ["a", "a", "b", "b"], [say(a) for a in (4.0, 4.2, 2.0, 2.4)], [4.0, 4.0, 2.0, 2.0]
    together = ranking()([*texts, say(3.0), say(3.2)], prompt_id=[*ids, "c", "c"], target=[*target, 3.0, 3.0])
    past = field_of(["c", "c", "b", "b"], [3.0, 3.2, 5.0, 5.0], [3.0, 3.0, 2.0, 2.0])
    # An older answer of a prompt that is in the step again is no opponent.
    assert ranking(memory=2)(texts, prompt_id=ids, target=target, past=past) == together[:4]
    # With one prompt in the step the memory alone decides.
    alone = ranking(memory=2)(texts[:2], prompt_id=ids[:2], target=target[:2], past=field_of(["c"], [3.0], [3.0]))
    assert all(0.9 < a < 1.0011 for a in alone)


def test_opponents_are_logged():
    extras, metrics = {}, {}
    texts, target = [say(4.0), say(2.0), BAD, say("B")], [4.0, 2.0, 3.0, None]
    ranking()(
        texts, prompt_id=list("abcd"), target=target,
        log_extra=extras.__setitem__, log_metric=metrics.__setitem__,
    )  # fmt: skip
    # c has no readable answer: it meets a and b, they do not meet it; d asks for no rating.
    assert extras == {"opponents": [1, 1, 2, None]}
    assert metrics == {"opponents": pytest.approx(4 / 3)}


def test_prompts_without_rating_get_no_rating_rewards():
    texts, given = [say(4.0), say("B")], {"prompt_id": ["a", "b"], "target": [4.0, None], "perturbed": [say(2.0), None]}
    assert regression()(texts, **given) == [1.0, None]
    assert ranking()(texts, **given) == [None, None]
    assert temporal()(texts, **given) == [0.3, None]


def test_accuracy():
    texts = [say("B"), say(" B. "), say("b"), say("A"), say("B or C"), "B", say(3.0)]
    choice = ["B"] * 6 + [None]
    assert Accuracy(weight=1.0)(texts, choice=choice) == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, None]


RECORDED = str(Path(__file__).with_name("recorded.jsonl"))


def expert(**change):
    return build("reward", {"name": "expert", "weight": 1.0, "file": RECORDED, "sigma": 0.5} | change, "r")


@pytest.mark.parametrize(
    ("clip", "answer", "value"),
    [("a", 3.0, 1.0), ("a", 3.5, 0.6065), ("a", 2.0, 0.1353), ("b", 5.0, 1.0), ("a", None, 0.0), ("c", 3.0, None),
     ("unknown", 3.0, None)],
)  # fmt: skip
def test_expert_table(clip, answer, value):
    """a is recorded as 0.5 (3 on 1-5), b as 1 (5); c was not scored, the last one not asked."""
    got = expert()([say(answer)], clip_id=[clip], choice=[None])[0]
    assert got is None if value is None else got == pytest.approx(value, abs=5e-5)


def test_expert_needs_no_mos_and_counts_what_is_not_recorded():
    metrics = {}
    texts = [say(3.0), say("B"), say(3.0), say(4.0)]
    got = expert()(texts, clip_id=["a", "a", "c", "z"], choice=[None, "B", None, None], target=[None] * 4,
                   log_metric=metrics.__setitem__)  # fmt: skip
    assert got == [1.0, None, None, None]
    assert metrics == {"expert_not_recorded": 2.0}, "a multiple-choice prompt asks for no rating"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "no recorded scores; docs/rewards.md has the command"),
        ("", "holds no score01"),
        ('{"id": "a", "score01": 3.2}', "x.jsonl:1: an id and a score01 in"),
        ('{"score01": 0.2}', "x.jsonl:1: an id and a score01 in"),
        ("no json", "x.jsonl:1: not a JSON object"),
        ('{"id": "a", "score01": 0.2}\n{"id": "a", "score01": 0.3}', "x.jsonl:2: a: two different scores"),
    ],
)
def test_expert_refuses_a_file_that_is_none_before_anything_is_trained(tmp_path, text, reason):
    if text is not None:
        (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=reason):
        expert(file=str(tmp_path / "x.jsonl"))


def test_overlong_equals_trl():
    ids = [[1] * n for n in range(1, 45)]
    reward = build("reward", {"name": "overlong", "weight": 1.0, "max_tokens": 40, "cache": 0.2}, "r")
    expected = get_soft_overlong_punishment(max_completion_len=40, soft_punish_cache=8)(ids)
    assert reward(completion_ids=ids) == pytest.approx(expected)
    assert min(expected) == -1.0
    assert max(expected) == 0.0


def test_temporal_variants():
    """Two clips; a's clean group is better in both terms, b's is better in ranking and worse in regression."""
    ids, target = ["a"] * 2 + ["b"] * 2, [4.0] * 2 + [2.0] * 2
    clean = [say(4.0), say(3.5), say(1.5), say(2.6)]
    perturbed = [say(2.5), say(2.6), say(2.4), say(2.2)]
    given = {"prompt_id": ids, "target": target, "perturbed": perturbed}
    # Among the perturbed answers b still wins a little against a (2.3 below 2.55): worse than clean, above chance.
    assert temporal(variant="paper_aug")(clean, **given) == [0.3, 0.3, 0.0, 0.0]
    assert temporal(variant="release_nov")(clean, **given) == [0.6, 0.3, 0.3, 0.3]
    assert temporal()(clean, **given)[:2] == [0.3, 0.0]


def test_temporal_variants_take_ties_and_need_what_they_compare():
    one = {"prompt_id": ["a", "a"], "target": [4.0, 4.0]}
    same = {"perturbed": [say(4.0)] * 2}
    assert temporal(variant="release_nov")([say(4.0), say(3.0)], **one, **same) == [0.0, 0.0]
    assert temporal(variant="release_nov")([say(4.0)] * 2, **one, **same) == [0.3, 0.3]
    assert temporal(variant="paper_aug")([say(4.0)] * 2, **one, **same) == [None, None]
    two = {"prompt_id": ["a", "b"], "target": [4.0, 2.0], "perturbed": [say(4.0), say(2.0)]}
    assert temporal(variant="paper_aug")([say(4.0), say(2.0)], **two) == [0.3, 0.3]
    assert temporal()([say(4.0), say(2.0)], **two) == [0.0, 0.0]


def step(seed: int) -> list[tuple]:
    rng = random.Random(seed)
    rows = []
    for p in range(5):
        y = rng.uniform(1, 5)
        near = [min(5.0, max(1.0, round(rng.gauss(y, 0.3), 2))) for _ in range(4)]
        off = [None if p == 4 else say(rng.choice([None, *near])) for _ in near]
        rows += [(say(rng.choice([None, a, a, a])), f"p{p}", y, o) for a, o in zip(near, off)]
    return rows


@pytest.mark.parametrize(
    "reward",
    [
        regression(),
        ranking(),
        temporal(),
        temporal(variant="paper_aug"),
        temporal(variant="release_nov"),
        Format(weight=1.0),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_shuffling_the_step_permutes_rewards(reward, seed):
    def rewards(rows):
        texts, ids, target, perturbed = (list(c) for c in zip(*rows))
        return reward(texts, prompt_id=ids, target=target, perturbed=perturbed)

    rows = step(seed)
    order = random.Random(seed + 10).sample(range(len(rows)), len(rows))
    straight = rewards(rows)
    assert rewards([rows[k] for k in order]) == [straight[k] for k in order]


def test_temporal_is_per_clip():
    ids, target = ["a"] * 2 + ["b"] * 2, [4.0] * 2 + [2.0] * 2
    clean = [say(4.0), say(3.5), say(2.0), say(2.1)]
    # Clip a is worse when perturbed, clip b better: only a's answers within the thresholds earn the bonus.
    perturbed = [say(2.5), say(2.5), say(2.0), say(2.0)]
    assert temporal()(clean, prompt_id=ids, target=target, perturbed=perturbed) == [0.3, 0.0, 0.0, 0.0]
    assert temporal(regression_above=0.5)(clean, prompt_id=ids, target=target, perturbed=perturbed)[:2] == [0.3, 0.3]


def test_temporal_ties_earn_nothing_and_one_clip_uses_regression_alone():
    reward, one = temporal(), {"prompt_id": ["a", "a"], "target": [4.0, 4.0]}
    assert reward([say(4.0)] * 2, **one, perturbed=[say(4.0)] * 2) == [0.0, 0.0]
    assert reward([say(4.0), BAD], **one, perturbed=[say(2.0)] * 2) == [0.3, 0.0]


def test_temporal_needs_a_readable_perturbed_answer():
    reward, one = temporal(), {"prompt_id": ["a", "a"], "target": [4.0, 4.0]}
    assert reward([say(4.0)] * 2, **one) == [None, None]
    assert reward([say(4.0)] * 2, **one, perturbed=[None, None]) == [None, None]
    assert reward([say(4.0)] * 2, **one, perturbed=[BAD, BAD]) == [None, None]
    # The unreadable one is left out: the readable one is as good as the clean answers, so nothing is earned.
    assert reward([say(4.0)] * 2, **one, perturbed=[BAD, say(4.0)]) == [0.0, 0.0]
    # On the clean side likewise: the readable answer is better than those on the perturbed clip.
    assert reward([BAD, say(4.0)], **one, perturbed=[say(3.9)] * 2) == [0.0, 0.3]
    assert reward([BAD, BAD], **one, perturbed=[say(3.9)] * 2) == [0.0, 0.0]


def test_temporal_logs_how_many_clips_are_better_in_order():
    metrics = {}
    ids, target = list("aabbccdd"), [4.0, 4.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0]
    clean = [say(a) for a in (4.0, 4.1, 2.4, 2.5, 3.0, 3.0)] + [BAD] * 2
    perturbed = [say(a) for a in (3.0, 3.1, 2.0, 2.1, 3.0, 3.0, 3.0, 3.0)]
    temporal()(clean, prompt_id=ids, target=target, perturbed=perturbed, log_metric=metrics.__setitem__)
    # a is better, b worse, c equal, and d says nothing.
    assert metrics == {"clean_better": pytest.approx(1 / 3)}


def test_format():
    texts = [say(3), "<think>x</think><answer>seven</answer>", BAD, say(3) + say(3)]
    assert Format(weight=1.0)(texts) == [1.0, 1.0, 0.0, 0.0]


def test_a_function_of_ones_own(tmp_path, monkeypatch):
    """From a file or a module, with TRL's signature; None is kept."""
    (tmp_path / "mine.py").write_text(
        "def even(completions, target, **_):\n"
        "    return [None if y is None else float(len(c) % 2 == 0) for c, y in zip(completions, target)]\n"
    )

    def reward(source):
        return build("reward", {"name": "function", "weight": 1.0, "source": source}, "stage.rewards.mine")

    given = {"completions": ["ab", "abc", "ab"], "target": [1.0, 2.0, None], "prompt_id": ["a", "b", "c"]}
    assert reward(f"{tmp_path}/mine.py:even")(**given) == [1.0, 0.0, None]
    monkeypatch.syspath_prepend(tmp_path)
    assert reward("mine:even")(**given) == [1.0, 0.0, None]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mine.py", "'mine.py': write my_rewards.py:brevity"),
        ("nowhere/mine.py:even", "No such file or directory: .*nowhere/mine.py"),
        ("no.such.module:even", "No module named 'no'"),
        ("math:fsun", "math has no function 'fsun' .did you mean 'fsum'"),
    ],
)
def test_a_function_that_is_not_there_is_named(source, message):
    with pytest.raises(ConfigError, match=message):
        build("reward", {"name": "function", "weight": 1.0, "source": source}, "stage.rewards.mine")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "regresion", "weight": 1.0, "sigma": 0.5}, "did you mean 'regression'"),
        (
            {"name": "regression", "weight": -1.0, "sigma": 0.5},
            "stage.rewards.r.weight: input should be greater than or equal to 0",
        ),
        ({"name": "regression", "weight": 1.0, "sigma": 0.0}, "stage.rewards.r.sigma"),
        ({"name": "ranking", "weight": 1.0, "memory": 0}, "stage.rewards.r.eps: required and missing"),
        ({"name": "ranking", "weight": 1.0, "eps": 1e-6, "memory": -1}, "stage.rewards.r.memory"),
        ({"name": "overlong", "weight": 1.0, "max_tokens": 8, "cache": 1.5}, "stage.rewards.r.cache"),
        ({"name": "format", "weight": 1.0, "wieght": 2.0}, "did you mean 'weight'"),
    ],
)
def test_bad_settings_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        build("reward", values, "stage.rewards.r")
