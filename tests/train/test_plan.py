"""Which settings belong to which stage of a chain."""

import pytest
from small import SMALL_MODEL

from vqa2.core.errors import ConfigError
from vqa2.launch import composed
from vqa2.train.plan import train


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """The jobs of a dry run, by stage."""

    def plan(wanted: str, *overrides: str) -> dict:
        found: dict = {}
        monkeypatch.setattr("vqa2.train.preview.preview", lambda jobs, _: found.update({j.label: j for j in jobs}))
        train(wanted, [*SMALL_MODEL, f"out={tmp_path}", "dry_run=true", *overrides], composed)
        return found

    return plan


def test_settings_of_the_stage_are_those_of_the_stage_asked_for(planned):
    """`stage=grpo` of a fresh clone trains the whole chain before it: nothing of GRPO's may reach it."""
    jobs = planned("grpo", "~stage.rewards.format", "+reward@stage.rewards.overlong=overlong", "seed=3",
                   "stage.optim.max_steps=7", "hparams@stage=tiny/grpo")  # fmt: skip
    assert list(jobs) == ["base", "distortion", "scoring", "understanding", "grpo"]
    assert {job.spec.seed for job in jobs.values()} == {3}
    assert set(jobs["grpo"].stage.rewards) == {"regression", "ranking", "temporal", "overlong"}
    assert jobs["grpo"].stage.optim.max_steps == 7
    usual = composed("train", ["stage=scoring"])["stage"]["optim"]["max_steps"]
    assert jobs["scoring"].stage.optim.max_steps == usual != 7


def test_with_all_they_are_those_of_every_stage(planned):
    assert {job.stage.optim.max_steps for job in planned("all", "stage.optim.max_steps=7").values()} == {7}


@pytest.mark.parametrize("name", ["tensorboard", "swanlab"])
def test_a_tracker_that_is_not_installed_is_one_line(name, planned, monkeypatch):
    from vqa2.train import common

    monkeypatch.setattr(common, "get_available_reporting_integrations", lambda: ["wandb"])
    job = planned("base", f"log.report_to=[{name}]")["base"]
    with pytest.raises(ConfigError, match=f"log.report_to: {name} is not installed; pip install {name}"):
        common.training_arguments(job.stage.optim, job.context(None, {}))


def test_a_run_needs_a_name(planned):
    with pytest.raises(ConfigError, match=r"train\.name: .*at least 1"):
        planned("base", "name=")
