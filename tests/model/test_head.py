"""The loss of label positions in pieces: equal to the plain one, and no logits of a whole prompt anywhere."""

import pytest
import torch
from model_clips import clip, inputs
from torch.utils._python_dispatch import TorchDispatchMode

from vqa2.model import _head
from vqa2.model._head import Head

ANSWER = 7


def labelled(processor) -> dict[str, torch.Tensor]:
    """Two clips; the last tokens of both rows are answers, of different number."""
    batch = inputs(processor, [clip(0), clip(1)])
    labels = torch.full_like(batch["input_ids"], -100)
    labels[0, -ANSWER:], labels[1, -ANSWER + 3 :] = (
        batch["input_ids"][0, -ANSWER:],
        batch["input_ids"][1, -ANSWER + 3 :],
    )
    return batch | {"labels": labels}


def plain_loss(model, batch, count) -> torch.Tensor:
    """Every position projected, mean by the given count: the textbook form."""
    rest = {k: v for k, v in batch.items() if k != "labels"}
    logits = model(**rest).logits[:, :-1].flatten(0, 1)
    return torch.nn.functional.cross_entropy(logits, batch["labels"][:, 1:].flatten(), reduction="sum") / count


@pytest.mark.parametrize("rows", [1, 4, 1000])
def test_pieces_give_the_loss_and_every_gradient_of_the_plain_form(small, monkeypatch, rows):
    model, processor = small
    model.train()
    monkeypatch.setattr(_head, "PIECE_BYTES", 4 * model.lm_head.out_features * rows)
    batch, found = labelled(processor), []
    for loss in (plain_loss(model, batch, 30), model(**batch, num_items_in_batch=30).loss):
        model.zero_grad()
        loss.backward()
        found.append((loss.detach(), {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}))
    (loss, gradients), (ours, our_gradients) = found
    assert torch.allclose(ours, loss, atol=1e-6)
    assert gradients.keys() == our_gradients.keys()
    assert all(torch.allclose(our_gradients[k], g, atol=1e-6) for k, g in gradients.items())
    assert all(g.any() for k, g in our_gradients.items() if k.startswith("model.language_model"))


class WordRows(TorchDispatchMode):
    """Most rows of any tensor that is a vocabulary wide."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.vocabulary, self.weight, self.most = head.out_features, (head.in_features, head.out_features), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        # A weight of the head seen sideways, and its gradient, are not logits.
        if isinstance(out, torch.Tensor) and out.shape[-1:] == (self.vocabulary,) and out.shape != self.weight:
            self.most = max(self.most, out.numel() // self.vocabulary)
        return out


def test_only_label_positions_are_projected_a_piece_at_a_time(small, monkeypatch):
    model, processor = small
    batch = labelled(processor)
    positions = batch["input_ids"].numel()
    labels = 2 * ANSWER - 3
    for piece, most in ((1000, labels), (4, 4)):
        monkeypatch.setattr(_head, "PIECE_BYTES", 4 * model.lm_head.out_features * piece)
        with WordRows(model.lm_head) as seen:
            model(**batch).loss.backward()
        assert seen.most == most
    rest = {k: v for k, v in batch.items() if k != "labels"}
    with WordRows(model.lm_head) as seen:
        model(**rest)
    assert seen.most == positions, "the counter sees whole logits where they are asked for"


def test_a_rank_without_labels_has_loss_zero_and_gradients():
    head = Head(8, 16, bias=False)
    hidden = torch.zeros(0, 8, requires_grad=True)
    head(hidden, torch.zeros(0, dtype=torch.long)).backward()
    assert head.weight.grad is not None
