"""Every file of conf/reward builds, with the interpolations of the mapping it is used in."""

from pathlib import Path

from omegaconf import OmegaConf

from vqa2.core.config import build, names

FOLDER = Path(__file__).parents[2] / "conf" / "reward"


def test_every_reward_has_a_file_that_builds():
    files = {p.stem: OmegaConf.load(p) for p in FOLDER.glob("*.yaml")}
    files["expert"]["file"] = str(Path(__file__).with_name("recorded.jsonl"))
    files["function"].source = "math:fsum"
    mapping = OmegaConf.to_container(
        OmegaConf.create({"policy": {"max_completion_length": 48}, "rewards": files}), resolve=True
    )["rewards"]
    assert sorted(files) == names("reward")
    made = {name: build("reward", values, name) for name, values in mapping.items()}
    assert made["temporal"].sigma == made["regression"].sigma
    assert made["overlong"].max_tokens == 48
    assert all(values["name"] == name for name, values in mapping.items())
