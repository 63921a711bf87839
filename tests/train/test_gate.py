"""The learned router: its gate, how it is trained and judged, and what the decider makes of it."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import PrinterCallback, TrainingArguments

from vqa2.core.errors import ConfigError
from vqa2.model.gate import Gate, GateCard, Shape, balance, fuse, load, loss, places, save, share
from vqa2.train._routed import RoutedCollator, RoutedModel, RouterTrainer
from vqa2.train._router import GateFit, Material, judge, split

SHAPE = Shape(width=4, hidden=16, top_k=2, experts=("a", "b", "c"), types=("x", "y"))
FIT = GateFit(
    hidden=16, top_k=2, dense_epochs=5, lr=1e-2, beta=10.0, balance=0.0, types=0.1, uncertainty=0.1,
)  # fmt: skip
ALL = torch.ones(3, dtype=torch.bool)


@pytest.fixture
def fitted(tmp_path):
    """`fitted(material)`: a gate trained on it as stage=router trains one on kept features."""

    def fit(data: Material, made: GateFit = FIT, epochs: float = 20.0, accumulate: int = 1) -> Gate:
        torch.manual_seed(0)
        gate = Gate(SHAPE)
        gate.standardize(data.features)
        arguments = TrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, seed=0,
            per_device_train_batch_size=32 // accumulate, gradient_accumulation_steps=accumulate, max_grad_norm=1e9,
            num_train_epochs=epochs, lr_scheduler_type="constant", remove_unused_columns=False,
        )  # fmt: skip
        trainer = RouterTrainer(
            model=RoutedModel(gate, None, made), args=arguments, train_dataset=list(range(len(data.mos))),
            data_collator=RoutedCollator(data, None), tune=None, made=made,
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return gate.eval()

    return fit


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
    def on_average(logits):
        return balance(logits, places(share(logits, 1, ALL)) / len(logits)) / len(logits)

    even, one = torch.eye(3) * 50, torch.tensor([[50.0, 0.0, 0.0]]).repeat(3, 1)
    assert on_average(even).item() == pytest.approx(1.0)
    assert on_average(one).item() == pytest.approx(3.0)
    one.requires_grad_()
    on_average(one / 50).backward()
    assert (one.grad[:, 0] > 0).all()  # going down the gradient takes probability from the crowded expert


def test_every_part_gets_a_gradient_and_the_uncertainty_moves_no_weight():
    batch, gate = material(16, 0), Gate(SHAPE)
    RoutedModel(gate, None, FIT)(**RoutedCollator(batch, None)(range(16)))["loss"].backward()
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


def test_the_gate_learns_whom_to_trust_and_beats_every_single_expert(fitted):
    gate, held = fitted(material(400, 0)), material(100, 1)
    best, better, found = judge(gate, held, 100, 0)
    assert better
    assert best in ("a", "b")
    assert found["srcc"] > 0.9 > found["srcc_best"]
    assert found["srcc_over_best"]["lo"] > 0
    assert found["type_accuracy"] > 0.9
    assert found["weights"]["c"] < 0.1
    again = fitted(material(400, 0))
    assert all(torch.equal(a, b) for a, b in zip(gate.state_dict().values(), again.state_dict().values(), strict=True))


def test_four_small_batches_accumulated_equal_a_large_one(fitted):
    """Without load balancing, whose shares of use are those of a micro-batch; also where a clip has no score at all."""
    data = material(64, 0)
    data.scores[::7] = torch.nan
    whole, parts = (fitted(data, epochs=3.0, accumulate=n).state_dict() for n in (1, 4))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-5)


def test_load_balancing_spreads_the_use(fitted):
    """With one expert that is always right, the term alone brings the others in."""
    data = material(200, 0)
    data = replace(data, scores=torch.stack((data.mos, data.scores[:, 1], data.scores[:, 2]), 1))
    alone, spread = fitted(data), fitted(data, replace(FIT, balance=100.0))
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
    gate = Gate(SHAPE)
    gate.standardize(material(40, 0).features)
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
