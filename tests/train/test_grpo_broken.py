"""Broken clips in GRPO: a group lost, a step lost, all data gone, and what a resumed run leaves out."""

import math
from types import SimpleNamespace

import pytest
from grpo_toy import lines, logged, real_rewards, rows, table, toy, trainer

from vqa2.core.errors import DataError, MediaError
from vqa2.data.dataset import QUARANTINE
from vqa2.data.video import Quarantine
from vqa2.train.stages.grpo import _quarantine


@pytest.mark.parametrize("per_device", [4, 8])
def test_a_broken_clip_costs_its_group(tmp_path, per_device, readable):
    """Also where it was the only prompt of its micro-batch."""
    change = {"per_device_train_batch_size": per_device, "max_steps": 8 * 4 // per_device // 2}
    made = trainer(tmp_path, rewards=real_rewards(), data=rows(8, lost=(1, 6)), **change)
    made.train()
    broken = lines(tmp_path / "broken.jsonl")
    assert sorted((b["prompt_id"], b["path"], b["reason"]) for b in broken) == [
        ("r1", "lost1.mp4", "moov atom not found"),
        ("r6", "lost6.mp4", "moov atom not found"),
    ]
    assert sum(row["broken_clips"] for row in logged(made)) == 2
    assert {r["prompt_id"] for r in table(tmp_path)} == {f"r{k}" for k in (0, 2, 3, 4, 5, 7)}
    assert all(math.isfinite(p.detach().sum()) for p in made.model.parameters())


@pytest.mark.parametrize("loss_type", ["dapo", "dr_grpo"])
def test_a_step_without_a_readable_clip_changes_nothing(tmp_path, loss_type):
    """Both its prompts are lost; the pass on a spare prompt counts for nothing."""
    made = trainer(tmp_path, data=rows(8, lost=tuple(range(7))), loss_type=loss_type, max_steps=1, beta=0.1)
    before = toy().state_dict()
    made.train()
    assert len(lines(tmp_path / "broken.jsonl")) == 2
    assert all(bool((value == before[name]).all()) for name, value in made.model.state_dict().items())


def test_data_that_is_gone_stops_the_run(tmp_path):
    made = trainer(tmp_path, data=rows(4, lost=(0, 1, 2, 3)), max_steps=1)
    with pytest.raises(DataError, match="4 clips in a row cannot be read; is the data still there"):
        made.train()
    with pytest.raises(DataError, match="none of the 4 clips can be read"):
        made.evaluate_rewards(rows(4, lost=(0, 1, 2, 3)), seed=1)


def test_a_resumed_run_leaves_out_what_was_broken_when_it_began(tmp_path):
    root, folder = tmp_path / "data", tmp_path / "run"
    root.mkdir()
    folder.mkdir()
    spec = SimpleNamespace(data=SimpleNamespace(root=str(root)))
    context = SimpleNamespace(spec=spec, run=SimpleNamespace(dir=folder))
    Quarantine.add(root / QUARANTINE, MediaError("old.mp4", "cut"))
    assert set(Quarantine.read(_quarantine(context))) == {"old.mp4"}
    Quarantine.add(root / QUARANTINE, MediaError("new.mp4", "cut"))
    state = folder / "checkpoint-2" / "trainer_state.json"
    state.parent.mkdir()
    state.write_text("{}")
    assert set(Quarantine.read(_quarantine(context))) == {"old.mp4"}
    state.unlink()
    assert set(Quarantine.read(_quarantine(context))) == {"old.mp4", "new.mp4"}
