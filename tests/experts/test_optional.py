"""Optional tools: the released calls read the released outputs; what is absent or fails says so in one line."""

import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from expert_values import INFO
from media import write_clip

from vqa2.core.config import build, decode
from vqa2.core.errors import ConfigError
from vqa2.experts.base import Media
from vqa2.experts.pool import Pool, PoolSpec
from vqa2.launch import composed, conf_dir

PRINTED = {
    "dover": ("dict_keys(['technical'])\n-0.31\nNormalized fused overall score (scale in [0,1]): 0.4231\n", 0.4231),
    "cover": ("path, semantic score, technical score, aesthetic score, overall/final score\n"
              "a.mkv,0.273010,-0.140000,0.020000,0.153010\n", 0.15301),
    "cover_technical": ("path, semantic score, technical score, aesthetic score, overall/final score\n"
                        "a.mkv,0.273010,-0.140000,0.020000,0.153010\n", -0.14),
    "fast_vqa": ("Sampled frames are [0 2 4]\nThe quality score of the video is -0.12345.\n", -0.12345),
    "uvq": ("3.7126\n", 3.7126),
    "q_align": ("Loading checkpoint shards: 100%\n[0.68408203125]\n", 0.68408203125),
}  # fmt: skip
# What stands in the place of the released modules that an adapter calls: their names and signatures, no weights.
TORCH = """
class Number(float):
    def item(self): return float(self)
"""
CHECKOUTS = {
    "modularbvqa": {
        "ModularBVQA/model/__init__.py": "",
        "ModularBVQA/model/modular.py": TORCH
        + """
class ViTbCLIP_SpatialTemporal_modular_dropout:
    def __init__(self, feat_len, sr, tr, dropout_sp, dropout_tp): self.hooks = []
    def register_forward_hook(self, hook): self.hooks.append(hook)
    def __call__(self, x):
        out = tuple(map(Number, (1.5, 2.5, 3.5, 4.25)))
        [hook(self, (x,), out) for hook in self.hooks]
        return out
""",
        "ModularBVQA/test_demo.py": """
from model import modular
def main(config):
    print('using cpu')
    assert config.method_name == 'single-scale' and config.is_gpu in (True, False)
    made = modular.ViTbCLIP_SpatialTemporal_modular_dropout(8, True, True, 0.2, 0.2)
    assert config.dist.endswith('a.mkv')
    y_b, y_s, y_t, y_st = made(config.dist)
""",
    },
    "maxvqa": {
        "demo_maxvqa.py": """
import wandb
import gradio as gr
def inference(video):
    print('Path:', video)
    pairs = [('high quality', 'low quality', 62.1), ('good content', 'bad content', 40), ('sharp', 'fuzzy', 31.5),
             ('fluent', 'choppy', 88.0), ('clear', 'severely degraded', 12.0)]
    return ''.join(f'Axis {a}<-->{b} Score: {s:.1f}\\n' for a, b, s in pairs)
iface = gr.Interface(fn=inference, inputs=gr.inputs.Video(source='upload'), outputs='text')
iface.launch(share=True)
""",
    },
    "t2vqa": {
        "t2vqa.yml": "test_load_path: weights.pth\nmodel: {args: {x: 1}}\ndata: {t2v: {args: {size: 224}}}\n",
        "dataset/__init__.py": "",
        "dataset/dataset.py": """
import torch
class T2VDataset:
    def __init__(self, opt):
        assert opt['phase'] == 'test' and opt['size'] == 224
        self.infos = opt['anno_file']
    def __getitem__(self, index):
        assert self.infos[index]['filename'].endswith('a.mkv') and self.infos[index]['prompt'] == 'a red boat'
        return {'video': torch.zeros(3, 8, 4, 4)}
""",
        "model/__init__.py": "",
        "model/model.py": """
import torch
class T2VQA(torch.nn.Module):
    def __init__(self, args):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.zeros(1))
    def forward(self, data, caption, prompt):
        assert data['video'].shape == (1, 3, 8, 4, 4) and caption == ['a red boat']
        assert prompt == 'Please rate the quality of this video'
        return 3.0 + self.gain
""",
    },
}
SAYS = {
    "modularbvqa": (4.25, {"base": 1.5, "spatial": 2.5, "temporal": 3.5}),
    "maxvqa": (62.1, {"sharp": 31.5, "fluent": 88.0}),
    "t2vqa": (3.0625, {}),
}


def shipped(name: str) -> dict:
    return yaml.safe_load((conf_dir() / "expert" / f"{name}.yaml").read_text())


def pool(**tools) -> Pool:
    values = {"tools": tools, "commercial_only": False, "isolation": "none", "timeout_s": 60.0, "calibration": "none"}
    return decode(PoolSpec, values, "experts").open()


def checkout(tmp_path: Path, values: dict, body: str) -> dict:
    """A folder with the files that the expert wants and a script of its name that runs `body`."""
    for file in values["files"]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("weights")
    (tmp_path / values["arguments"][0]).write_text(f"import sys\n{body}\n")
    return {**values, "folder": str(tmp_path)}


@pytest.mark.parametrize("name", PRINTED)
def test_the_released_output_is_read(tmp_path, name):
    text, value = PRINTED[name]
    media = Media(path=tmp_path / "a.mkv", kind="video")
    body = f"assert any(a.endswith('a.mkv') for a in sys.argv), sys.argv\nprint({text!r}, end='')"
    (reading,) = pool(x=checkout(tmp_path, shipped(name), body)).run(["x"], media, None, "a red boat", None)
    assert (reading.raw, reading.failure) == (pytest.approx(value), "uncalibrated"), reading.reason
    if name == "cover":
        assert reading.parts == {"semantic": 0.27301, "technical": -0.14, "aesthetic": 0.02}


@pytest.mark.parametrize("name", CHECKOUTS)
def test_an_adapter_calls_the_released_code_and_prints_its_score(tmp_path, name):
    values = shipped(name)
    folder = tmp_path / "checkout"
    for file in values["files"]:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("weights")
    for file, text in CHECKOUTS[name].items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    torch.save({"state_dict": {"gain": torch.tensor([0.0625])}}, folder / "weights.pth")
    media = Media(path=tmp_path / "a.mkv", kind="video")
    made = pool(x={**values, "folder": str(folder)})
    (reading,) = made.run(["x"], media, None, "a red boat", None)
    assert (reading.raw, reading.parts) == SAYS[name], reading.reason
    before = made.experts["x"].content()
    (folder / values["files"][-1]).write_text("other weights")
    assert made.experts["x"].content() != before


@pytest.mark.parametrize(
    ("body", "say"),
    [
        ("raise SystemExit('no CUDA')", "exit code 1, last said: no CUDA"),
        ("print('nothing')", "no score in what it printed: 'nothing'"),
        ("import time; time.sleep(30)", "timed out"),
    ],
)
def test_a_tool_that_fails_is_evidence(tmp_path, body, say):
    values = {**checkout(tmp_path, shipped("uvq"), body), "timeout_s": 2.0}
    (reading,) = pool(x=values).run(["x"], Media(path=tmp_path / "a.mkv", kind="video"), None, None, None)
    assert (reading.raw, reading.failure) == (None, "error")
    assert say in reading.reason
    assert "\n" not in reading.reason


def test_all_optional_experts_are_listed_with_how_to_get_them():
    values = composed("experts", ["experts=all", "experts.calibration=none"])["experts"]
    made = decode(PoolSpec, values, "experts").open()
    assert {"dover", "cover", "fast_vqa", "uvq", "maxvqa", "modularbvqa", "t2vqa", "q_align"} <= set(made.left_out)
    assert "clone github.com/VQAssessment/DOVER" in made.left_out["dover"]
    with pytest.raises(ConfigError, match="left out: .*clone github.com/google/uvq"):
        made.info("uvq")


def test_a_pattern_without_a_value_is_refused():
    with pytest.raises(ConfigError, match=r"group \(\?P<value>"):
        build("expert", {**shipped("uvq"), "pattern": "x"}, "e")


def test_pyiqa_by_name(tmp_path, monkeypatch):
    values = {"name": "pyiqa", "metric": "musiq", "frames": 2, "device": "cpu", "info": INFO}
    if "pyiqa" not in sys.modules:
        assert "pip install pyiqa" in pool(x=values).left_out.get("x", "pip install pyiqa")

    class Metric:
        lower_better, metric_mode = False, "NR"

        def __call__(self, x):
            assert x.shape == (1, 3, 24, 32)
            return x.mean((1, 2, 3))

    fake = types.ModuleType("pyiqa")
    fake.__spec__ = ModuleSpec("pyiqa", None)
    fake.list_models, fake.create_metric = lambda: ["musiq"], lambda name, device: Metric()
    monkeypatch.setitem(sys.modules, "pyiqa", fake)
    frames = np.full((4, 24, 32, 3), 51, np.uint8)
    write_clip(tmp_path / "a.mkv", frames, fps=8)
    (reading,) = pool(x=values).run(["x"], Media(path=tmp_path / "a.mkv", kind="video"), None, None, None)
    assert reading.raw == pytest.approx(0.2)
    wrong = pool(x={**values, "info": {**INFO, "higher_is_better": False}})
    (refused,) = wrong.run(["x"], Media(path=tmp_path / "a.mkv", kind="video"), None, None, None)
    assert "info.higher_is_better must be True" in refused.reason
    unknown = pool(x={**values, "metric": "mosiq"})
    assert "no metric 'mosiq'" in unknown.run(["x"], Media(path=tmp_path, kind="video"), None, None, None)[0].reason
