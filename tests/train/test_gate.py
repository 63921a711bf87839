"""The learned router: its gate, how it is trained and judged, and what the decider makes of it."""

import json
from dataclasses import replace

import pytest
import torch

from vqa2.core.errors import ConfigError
from vqa2.model.gate import Gate, GateCard, Shape, balance, fuse, load, loss, save, share
from vqa2.train._router import GateFit, Material, judge, objective, split, train_gate

SHAPE = Shape(width=4, hidden=16, top_k=2, experts=("a", "b", "c"), types=("x", "y"))
FIT = GateFit(
    hidden=16, top_k=2, epochs=40, dense_epochs=10, batch_size=32, lr=1e-2, weight_decay=0.0, beta=10.0, balance=0.0,
    types=0.1, uncertainty=0.1,
)  # fmt: skip
ALL = torch.ones(3, dtype=torch.bool)


def material(n: int, seed: int) -> Material:
    """Expert `a` is right where feature 0 is positive, `b` where it is not; else they tell nothing. `c` never does."""
    torch.manual_seed(seed)
    features, mos = torch.randn(n, 4), 100 * torch.rand(n)
    types = (features[:, 0] > 0).long()
    noise = 100 * torch.rand(n, 3)
    scores = torch.stack((torch.where(types == 1, mos, noise[:, 0]), torch.where(types == 0, mos, noise[:, 1]),
                          noise[:, 2]), 1)  # fmt: skip
    return Material(features=features, scores=scores, mos=mos, types=types)


def test_weights_are_of_the_k_heaviest_allowed_experts_and_sum_to_one():
    logits = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    weights = share(logits, 2, ALL)
    assert weights[0, 0] == weights[1, 2] == 0
    torch.testing.assert_close(weights[0, 1:], torch.tensor([2.0, 3.0]).softmax(0))
    torch.testing.assert_close(share(logits, 2, torch.tensor([True, False, False])), torch.eye(3)[[0, 0]])


def test_a_silent_expert_leaves_its_weight_to_the_others_and_no_expert_no_score():
    weights = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.25, 0.75, 0.0]])
    nan = float("nan")
    scores = torch.tensor([[40.0, nan, 9.0], [nan, nan, 9.0], [40.0, 80.0, 9.0]])
    fused, scored = fuse(weights, scores)
    assert scored.tolist() == [True, False, True]
    assert fused[[0, 2]].tolist() == pytest.approx([40.0, 70.0])


def test_balance_is_one_for_equal_use_and_e_for_a_single_expert():
    even, one = torch.eye(3) * 50, torch.tensor([[50.0, 0.0, 0.0]]).repeat(3, 1)
    assert balance(even, share(even, 1, ALL)).item() == pytest.approx(1.0)
    assert balance(one, share(one, 1, ALL)).item() == pytest.approx(3.0)
    one.requires_grad_()
    balance(one / 50, share(one / 50, 1, ALL)).backward()
    assert (one.grad[:, 0] > 0).all()  # going down the gradient takes probability from the crowded expert


def test_every_part_gets_a_gradient_and_the_uncertainty_moves_no_weight():
    batch, gate = material(16, 0), Gate(SHAPE)
    objective(gate, FIT, batch, 2).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in gate.parameters())
    gate.zero_grad()
    routed = gate(batch.features)
    loss(routed, share(routed.experts, 2, ALL), batch.scores, batch.mos, 10.0)[1].backward()
    assert gate.experts.weight.grad is None
    assert gate.spread.weight.grad.abs().sum() > 0


def test_whole_contents_are_held_out():
    contents = [f"c{i // 5}" for i in range(50)]
    fit, held = split(contents, 0.3, 0)
    assert sorted(fit + held) == list(range(50))
    assert not {contents[i] for i in fit} & {contents[i] for i in held}
    assert len(held) == 15
    assert split(contents, 0.3, 1) != (fit, held)


def test_the_gate_learns_whom_to_trust_and_beats_every_single_expert():
    gate, held = train_gate(SHAPE, FIT, material(400, 0), 0), material(100, 1)
    best, better, found = judge(gate, held, 100, 0)
    assert better
    assert best in ("a", "b")
    assert found["srcc"] > 0.9 > found["srcc_best"]
    assert found["srcc_over_best"]["lo"] > 0
    assert found["type_accuracy"] > 0.9
    assert found["weights"]["c"] < 0.1
    again = train_gate(SHAPE, FIT, material(400, 0), 0)
    assert all(torch.equal(a, b) for a, b in zip(gate.state_dict().values(), again.state_dict().values(), strict=True))


def test_load_balancing_spreads_the_use():
    """With one expert that is always right, the term alone brings the others in."""
    data = material(200, 0)
    data = replace(data, scores=torch.stack((data.mos, data.scores[:, 1], data.scores[:, 2]), 1))
    alone = train_gate(SHAPE, FIT, data, 0)
    spread = train_gate(SHAPE, replace(FIT, balance=100.0), data, 0)
    use = [judge(g, data, 0, 0)[2]["weights"]["a"] for g in (alone, spread)]
    assert use[0] > 0.9 > use[1]


def test_a_gate_that_is_not_better_says_so_and_names_an_expert_that_always_speaks():
    held = material(100, 1)
    scores = held.scores.clone()
    scores[:, 0], scores[:, 1] = held.mos, held.mos + 20 * torch.randn(100)
    scores[0, 0] = float("nan")  # the best expert is silent once
    best, better, found = judge(Gate(SHAPE), replace(held, scores=scores), 10, 0)
    assert not better
    assert best == "b"
    assert found["srcc_over_best"]["value"] < 0


def card(**changes) -> GateCard:
    values = {"shape": SHAPE, "curves": dict.fromkeys("abc", ""), "backbone": "m", "checkpoint": "c", "better": True,
              "best": "a", "validation": {"srcc": 0.5}}  # fmt: skip
    return GateCard(**(values | changes))


def test_saved_and_loaded_gates_are_equal(tmp_path):
    gate = train_gate(SHAPE, FIT, material(40, 0), 0)
    save(Gate(SHAPE), card(better=False), tmp_path / "model")  # what a killed run left
    save(gate, card(), tmp_path / "model")
    again, told = load(tmp_path / "model")
    assert told == card()
    x = torch.randn(3, 4)
    assert all(torch.equal(a, b) for a, b in zip(gate(x), again(x), strict=True))
    with pytest.raises(ConfigError, match=r"no learned router here; run `python train.py stage=router` first"):
        load(tmp_path)
    values = json.loads((tmp_path / "model" / "gate.json").read_text())
    (tmp_path / "model" / "gate.json").write_text(json.dumps({**values, "better": "perhaps"}))
    with pytest.raises(ConfigError, match=r"gate.json: better: "):
        load(tmp_path / "model")
