"""The audit waits for the first step that uses a part: batches of rows of like length may hold text alone."""

from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl

from vqa2.model.tune import PARTS, Audit
from vqa2.train.callbacks import AuditFirstSteps

POLICY = dict.fromkeys(PARTS, "frozen") | {"vision": "full", "lm": "full"}


class Parts:
    """One parameter per part."""

    def __init__(self):
        self.values = {prefixes[0] + "weight": torch.nn.Parameter(torch.zeros(3)) for prefixes in PARTS.values()}

    def named_parameters(self):
        return self.values.items()

    def move(self, *parts):
        for part in parts:
            self.values[PARTS[part][0] + "weight"].data += 1


@pytest.fixture
def audited():
    tune = SimpleNamespace(parts=POLICY)
    model, used, said = Parts(), {"lm"}, []
    callback = AuditFirstSteps(Audit(tune), used, said.append)
    args, control = SimpleNamespace(warmup_steps=0.1), TrainerControl()

    def step(number, uses, *moved):
        used.clear()
        used.update(uses)
        model.move(*moved)
        callback.on_step_end(args, SimpleNamespace(global_step=number, max_steps=100), control, model=model)

    callback.on_train_begin(args, None, control, model=model)
    return step, said


def test_it_waits_for_rows_with_a_clip(audited):
    step, said = audited
    step(1, {"lm", "vision"})  # the warm-up's rate is zero here
    step(2, {"lm"}, "lm")
    assert said == []
    step(3, {"lm", "vision"}, "lm", "vision")
    assert said == ["audit: moved vision, lm; stayed projector, motion, position, motion_projector"]
    step(4, {"lm", "vision"})
    assert len(said) == 1


def test_a_used_part_that_stays_or_a_frozen_one_that_moves_stops_the_run(audited):
    step, _ = audited
    step(2, {"lm"}, "lm")
    with pytest.raises(RuntimeError, match="vision is full but did not move"):
        step(3, {"lm", "vision"}, "lm")
    with pytest.raises(RuntimeError, match="motion is frozen but moved"):
        step(3, {"lm"}, "motion")


def test_parts_that_no_row_uses_are_named(audited):
    step, said = audited
    for number in range(2, 2 + AuditFirstSteps.PATIENCE + 1):
        step(number, {"lm"}, "lm")
    assert said == [
        "audit: moved lm; stayed vision, projector, motion, position, motion_projector; not used by the rows: vision"
    ]
