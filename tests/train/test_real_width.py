"""The published widths through a training step and a score: SigLIP so400m, Qwen2-7B and SlowFast-R50's fast path, one
layer of each tower and of the language model, four key frames and 32 motion frames of 384 px, in bfloat16."""

import json

import numpy as np
import pytest
from media import write_clip
from safetensors import safe_open

from vqa2 import load
from vqa2.core.prompts import SCORE_PREFIX, SCORE_QUESTION
from vqa2.core.records import Instruction, Turn, write_jsonl
from vqa2.launch import composed
from vqa2.train.plan import train

ONE_LAYER = [
    "model.weights=null", "model.tokenizer=null", "model.vocab_size=600",
    "model.vision.num_hidden_layers=1", "model.text.num_hidden_layers=1",
]  # fmt: skip


@pytest.fixture
def root(tmp_path):
    """Four seconds at 8 frames a second, and a row that asks for their level."""
    root = tmp_path / "data"
    root.mkdir()
    rng = np.random.default_rng(0)
    frames = np.kron(rng.integers(0, 255, (32, 27, 48, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)
    write_clip(root / "a.mkv", frames, 8)
    levels = ["high", "good", "fair", "poor", "low"]
    turns = [(Turn(user=SCORE_QUESTION, assistant=f"{SCORE_PREFIX} {level}."),) for level in levels]
    rows = [
        Instruction(id=f"a{k}", clip_id="a", kind="video", media="a.mkv", task="scoring", turns=made, mos=50.0,
                    tags={"split": "train"})
        for k, made in enumerate(turns)
    ]  # fmt: skip
    write_jsonl(root / "scoring_ugc.train.jsonl", rows)
    (root / "prepared.json").write_text("{}")
    return root


@pytest.mark.slow
def test_a_step_and_a_score_at_the_published_widths(root, tmp_path):
    overrides = ["preset=paper", "engine=cpu", f"data.root={root}", "data.held_out=[]", f"out={tmp_path}"]
    overrides += ["log.wandb=disabled"]
    train("scoring", [*overrides, *ONE_LAYER, "stage.after=null", "stage.optim.max_steps=1", "stage.optim.workers=0"],
          composed)  # fmt: skip
    done = json.loads((tmp_path / "paper" / "scoring" / "done.json").read_text())
    assert np.isfinite(done["train_loss"])
    trained = {part: counts["trainable"] for part, counts in done["parameters"].items()}
    assert all(trained[p] == done["parameters"][p]["total"] for p in trained), "stage 2 trains everything"
    assert trained["motion"] == 514_152
    assert trained["projector"] == 1152 * 3584 + 3584 + 3584 * 3584 + 3584 + 3584
    saved = tmp_path / "paper" / "scoring" / "model"
    with safe_open(saved / "model.safetensors", "pt") as tensors:
        assert tensors.get_slice("lm_head.weight").get_shape() == [152128, 3584]
        assert tensors.get_slice("lm_head.weight").get_dtype() == "BF16"
    score = load(saved).score(root / "a.mkv")
    assert 0 <= score.score100 <= 100
