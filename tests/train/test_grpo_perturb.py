"""Temporal perturbations: what each mode does to segments and frames; key and motion frames follow one re-timing."""

import numpy as np
import pytest
from grpo_toy import ToyCollate, clip, real_rewards, rows

from vqa2.rewards.temporal import Perturbation
from vqa2.train._grpo_inputs import Pairs
from vqa2.train._perturb import BLACK, MODES, perturb, retime

SEEDS = range(50)


def settings(*modes: str) -> Perturbation:
    return Perturbation(modes=modes or tuple(MODES), segments=6, window=4, most=3)


def orders(mode: str) -> list[list[int]]:
    return [list(MODES[mode](6, settings(), np.random.default_rng(s))) for s in SEEDS]


def test_every_order_is_of_six_segments_and_varies():
    for mode in MODES:
        found = orders(mode)
        assert all(len(o) == 6 for o in found)
        assert len({tuple(o) for o in found}) > 1 or mode == "reverse"


def test_modes_do_what_their_names_say():
    assert orders("reverse")[0] == [5, 4, 3, 2, 1, 0]
    assert all(sorted(o) == [0, 1, 2, 3, 4, 5] for o in orders("shuffle"))
    assert all(sorted(o[:4]) == [0, 1, 2, 3] and sorted(o[4:]) == [4, 5] for o in orders("local_shuffle"))
    assert all(abs(a - k) <= 1 and 0 <= a <= 5 for o in orders("jitter") for k, a in enumerate(o))
    for order in orders("duplicate"):
        counts = np.bincount(order, minlength=6)
        assert order == sorted(order)
        assert sorted(counts)[-2:] in ([1, 2], [1, 3], [1, 4])
    for order in orders("random_drop"):
        assert 1 <= order.count(BLACK) <= 3
        assert all(a in (k, BLACK) for k, a in enumerate(order))


@pytest.mark.parametrize("length", [4, 7, 16, 240])
def test_retime_stays_within_the_clip(length):
    for mode in MODES:
        segments = min(6, length)
        for seed in SEEDS:
            order = MODES[mode](segments, settings(), np.random.default_rng(seed))
            source = retime(order, length)
            assert len(source) == length
            assert source.min() >= BLACK
            assert source.max() < length
    assert retime(np.arange(6), length).tolist() == list(range(length)) or length < 6


def test_key_frames_show_what_motion_frames_show():
    original = clip(48, 12)
    before = original.motion.copy(), original.key.copy()
    for mode in MODES:
        for seed in range(5):
            made, _, _ = perturb(original, settings(mode), np.random.default_rng(seed))
            assert made.motion.shape == original.motion.shape
            assert made.key.shape == original.key.shape
            shown = made.motion[::4, 0, 0, 0].astype(int)
            # A key frame stands for its second: the same value within the 4 motion frames of a second, black alike.
            key = made.key[:, 0, 0, 0].astype(int)
            assert np.array_equal(key == 0, shown == 0)
            assert ((shown - key) * (key > 0) < 4).all()
            assert ((shown - key) * (key > 0) >= 0).all()
    assert np.array_equal(original.motion, before[0])
    assert np.array_equal(original.key, before[1])


def test_the_generator_decides_mode_and_order():
    original = clip(48, 12)
    made = [
        perturb(original, settings(), np.random.default_rng(s))[0].motion[:, 0, 0, 0].tobytes() for s in [0, 0, *SEEDS]
    ]
    assert made[0] == made[1]
    assert len(set(made)) > 20


def test_a_clip_of_four_frames_and_one_key_frame():
    for mode in MODES:
        made, _, _ = perturb(clip(4, 1), settings(mode), np.random.default_rng(0))
        assert made.motion.shape == (4, 2, 2, 3)
        assert made.key.shape == (1, 2, 2, 3)


def test_a_clip_of_one_motion_frame_has_no_perturbed_copy(monkeypatch):
    monkeypatch.setattr(ToyCollate, "read", lambda self, row: clip(16, 2) if row.id == "r1" else clip(1, 1))
    pairs = Pairs(ToyCollate(), real_rewards()["temporal"], 0)
    made = pairs(rows(2))
    assert len(made["clean"]["rows"]) == 2
    assert [row.id for row in made["disturbed"]["rows"]] == list(made["modes"]) == ["r1"]
    assert pairs(rows(1))["disturbed"] is None
