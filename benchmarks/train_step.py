"""One supervised step, ours against the same model trained the released way: `python benchmarks/train_step.py`.

The other side runs SlowFast's two paths and projects every position of the prompt to the vocabulary. Both sides start
from the same weights and see the same batch, each in a process of its own for its peak memory; the losses must agree.
Sizes: the full vocabulary, tower grid and motion path; a narrow and shallow language model, so that it fits a laptop
(about a minute on two idle cores).
"""

import os
import resource
import subprocess
import sys
import time

import torch
from _two_path import TwoPath
from rich.console import Console
from rich.table import Table
from torch import nn

from vqa2.model.modeling import VQA2Config, VQA2ForConditionalGeneration

KEYS, MOTION, ANSWER, REPEATS = 3, 32, 12, 2
IDS = (152061, 152062, 152063)
SIDES = {"ours": ("ours", 0), "ours, checkpointing": ("ours", 1), "full logits, two paths": ("naive", 0)}


def model() -> VQA2ForConditionalGeneration:
    torch.manual_seed(0)
    vision = {"model_type": "siglip_vision_model", "vision_use_head": False, "hidden_size": 192, "image_size": 384,
              "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4, "patch_size": 14}  # fmt: skip
    text = {"model_type": "qwen2", "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 152064}  # fmt: skip
    config = VQA2Config(
        vision_config=vision, text_config=text, motion={"image_size": 224},
        image_token_index=IDS[0], video_token_index=IDS[1], motion_token_index=IDS[2],
    )  # fmt: skip
    return VQA2ForConditionalGeneration._from_config(config, dtype=torch.float32, attn_implementation="sdpa").train()


def batch(network: VQA2ForConditionalGeneration) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    clip = [IDS[1]] * (KEYS * network.config.tokens_per_frame + 1) + [IDS[2]] * MOTION
    ids = torch.tensor([[5] * 20 + clip + [7] * ANSWER])
    labels = torch.full_like(ids, -100)
    labels[:, -ANSWER:] = ids[:, -ANSWER:]
    return {
        "input_ids": ids,
        "labels": labels,
        "key_frames": torch.rand(KEYS, 3, 384, 384) * 2 - 1,
        "motion_frames": torch.rand(MOTION, 3, 224, 224) * 2 - 1,
        "clip_sizes": torch.tensor([[KEYS, MOTION]]),
    }


def naive_loss(network: VQA2ForConditionalGeneration, both: TwoPath, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    media = {k: v for k, v in inputs.items() if k not in ("input_ids", "labels", "motion_frames")}
    media["motion_features"] = both(inputs["motion_frames"].transpose(0, 1)[None])[0]
    embeds = network.embed(inputs["input_ids"], **media)
    logits = network.lm_head(network.model.language_model(inputs_embeds=embeds).last_hidden_state).float()
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten())


def side(kind: str, checkpointing: bool) -> tuple[float, float, float]:
    """(best seconds of forward, backward and update, MB of peak memory above rest, first loss)."""
    torch.set_num_threads(2)
    network = model()
    both = TwoPath(network.model.motion_tower)
    both.eval()
    if checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    inputs = batch(network)
    rest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times, losses = [], []
    for _ in range(REPEATS):
        started = time.perf_counter()
        loss = network(**inputs).loss if kind == "ours" else naive_loss(network, both, inputs)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - started)
        losses.append(loss.item())
    return min(times), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rest) / 1024, losses[0]


def main() -> None:
    if len(sys.argv) > 1:
        sys.stdout.write("{} {} {}".format(*side(sys.argv[1], sys.argv[2] == "1")))
        return
    table, found = Table("side", "seconds a step", "peak MB above rest", "loss"), {}
    for name, (kind, checkpointing) in SIDES.items():
        command = [sys.executable, __file__, kind, str(checkpointing)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = tuple(map(float, done.stdout.split()))
        table.add_row(name, f"{found[name][0]:.2f}", f"{found[name][1]:.0f}", f"{found[name][2]:.6f}")
    console = Console()
    console.print(table)
    ours, checked, naive = found.values()
    assert abs(ours[2] - naive[2]) < 1e-4, "the two sides compute different losses"
    console.print(f"load of the machine over the last minute: {os.getloadavg()[0]:.1f}")
    for name, one in (("ours", ours), ("ours with checkpointing", checked)):
        console.print(f"released way / {name}: time {naive[0] / one[0]:.2f}, memory {naive[1] / one[1]:.2f}")


if __name__ == "__main__":
    main()
