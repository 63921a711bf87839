"""The reward that CONTRIBUTING.md shows, word for word as on the page: its file, its YAML, its line of defaults."""

import re
import shutil
import sys
from pathlib import Path

import vqa2.launch as launch
import vqa2.rewards
from vqa2.core.config import _REGISTRY, build

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"


def test_the_reward_shown_works_as_written(tmp_path, monkeypatch):
    page = PAGE.read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    told = re.search(r"with `(conf/reward/brevity.yaml)` holding ((?:`[^`]+`,? ?)+) ?and\s+`(- .*?)` among", page)
    assert told is not None
    package, conf = tmp_path / "rewards", tmp_path / "conf"
    package.mkdir()
    (package / "brevity.py").write_text(code)
    shutil.copytree(launch.conf_dir(), conf)
    (tmp_path / told[1]).write_text("\n".join(re.findall(r"`([^`]+)`", told[2])))
    stage = conf / "stage" / "grpo.yaml"
    stage.write_text(stage.read_text().replace("defaults:\n", f"defaults:\n  {told[3]}\n"))
    monkeypatch.setattr(vqa2.rewards, "__path__", [*vqa2.rewards.__path__, str(package)])
    monkeypatch.setattr(launch, "conf_dir", lambda: conf)
    try:
        values = launch.composed("train", ["stage=grpo", "stage.rewards.brevity.limit=3"])["stage"]
        build("stage", values, "stage")
        reward = build("reward", values["rewards"]["brevity"], "brevity")
        assert reward.weight == 0.1
        assert reward(completions=["ab", "abcd"], target=[1.0, 2.0]) == [1.0, 0.0]
    finally:
        sys.modules.pop("vqa2.rewards.brevity", None)
        _REGISTRY.pop(("reward", "brevity"), None)
