"""One GRPO step with a shared prefix against the unshared computation, in one run: `python benchmarks/grpo.py`.

Both sides have the same model (VQA² classes, random weights from a seed), clip and completions: rollout, then
log-probabilities, backward and optimizer step. Unshared is what trl.GRPOTrainer computes: the prompt and its clip
repeated G times through `generate`, and again through one forward over G whole sequences. Greedy tokens of the two
rollouts are compared. Every measurement is a process of its own, one thread: CPU seconds (wall time on a busy machine
measures the neighbors) and the peak of resident memory over what the model alone took.

Results go to OUT/grpo_speed.csv; shapes that are in it are not measured again, so that a call may be cut short or split
(`--most 3`); with all of them there, OUT/grpo_speed.png is drawn.

`--device cuda` measures one shape on a GPU, the 7B model with random weights in bf16 and gradient checkpointing (16 key
and 240 motion frames, G 8, 256 tokens): seconds by the clock, allocated memory, utilization as nvidia-smi tells it. In
bf16 near ties may fall either way, so the two sides' greedy tokens are compared and their share is shown. Not run yet.
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from vqa2.core.config import decode
from vqa2.core.records import Turn
from vqa2.core.scale import LEVELS
from vqa2.data.video import Video
from vqa2.launch import composed
from vqa2.model.build import ModelSpec, build
from vqa2.train._packed import completion_logps
from vqa2.train._rollout import Sampling, positions, sample, uniforms

MODEL = [
    "model.vision={hidden_size: 192, intermediate_size: 512, num_hidden_layers: 4, num_attention_heads: 4, "
    "image_size: 224, patch_size: 16}",
    "model.text.hidden_size=256",
    "model.text.intermediate_size=704",
    "model.text.num_hidden_layers=6",
    "model.text.max_position_embeddings=8192",
]
BASE = {"keys": 16, "group": 8, "length": 64}
GROWTH = {"keys": (8, 16, 32), "group": (2, 4, 8, 16), "length": (16, 64, 256)}
MOTION_PER_KEY = 15
MODEL_7B = ["model=llava_ov_7b", "model.weights=null", "model.tokenizer=null", "model.vocab_size=640"]
ON_GPU = {"keys": 16, "group": 8, "length": 256}
MEASURED = {"rollout_s": 2, "update_s": 2, "peak_mb": 0}
"""What is measured, and its digits."""
SIDES = ("shared", "unshared")


def prepared(keys: int, device: str):
    """Model and a batch of one prompt with `keys` key frames and 15 motion frames for each."""
    torch.manual_seed(0)
    values = composed("train", ["stage=base", *(MODEL_7B if device == "cuda" else MODEL)])["model"]
    with torch.device(device):
        texts = [f"How good is this video? The quality is {level}." for level in LEVELS] * 50
        model, processor = build(decode(ModelSpec, values, "model"), texts)
    if device == "cuda":
        model.gradient_checkpointing_enable()
    for tower in (model.model.vision_tower, model.model.motion_tower):
        tower.requires_grad_(False)
    rng, count, side = np.random.default_rng(0), keys * MOTION_PER_KEY, processor.image_size
    small, index = processor.motion_size, np.arange(count)
    video = Video(
        key=rng.integers(0, 256, (keys, side, side, 3), dtype=np.uint8),
        motion=rng.integers(0, 256, (count, small, small, 3), dtype=np.uint8),
        key_times=np.arange(keys, dtype=float),
        motion_times=index / MOTION_PER_KEY,
        motion_second=index // MOTION_PER_KEY,
        fps=float(MOTION_PER_KEY),
        path="random",
    )
    example = processor.example((Turn(user="<video>\nHow good is this video?", assistant=""),), video, "clip")
    ids = torch.tensor([example.input_ids], device=device)
    media = {k: v.to(device, model.dtype if v.is_floating_point() else v.dtype) for k, v in
             processor.media([video]).items()}  # fmt: skip
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "media": media}


def roll_shared(model, batch, group: int, length: int):
    encoded = model.encode(batch["media"])
    # No token ends a completion: both sides write `length` tokens.
    greedy = Sampling(num=group, max_tokens=length, temperature=1.0, top_k=1, top_p=1.0, ends=(), pad=0)
    rolled = sample(model, batch | {"media": encoded}, greedy, uniforms((0,), ["clip"], greedy))
    return rolled.ids, model.constants(batch["media"], encoded)


def repeated(batch, group: int) -> dict:
    """The prompt and its clip, G times."""
    ids = batch["input_ids"].repeat(group, 1)
    media = {k: v.repeat(group, *[1] * (v.ndim - 1)) for k, v in batch["media"].items()}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "media": media}


def roll_unshared(model, many, length: int):
    with torch.no_grad():
        return model.generate(
            many["input_ids"],
            attention_mask=many["attention_mask"],
            **many["media"],
            do_sample=False,
            min_new_tokens=length,
            max_new_tokens=length,
            eos_token_id=-1,
            pad_token_id=0,
        )


def logps_unshared(model, many, ids):
    embeds = model.embed(many["input_ids"], **many["media"])
    embeds = torch.cat((embeds, model.get_input_embeddings()(ids).to(embeds.dtype)), 1)
    mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=ids.device)
    out = model(
        inputs_embeds=embeds, attention_mask=mask, position_ids=positions(mask), logits_to_keep=ids.shape[1] + 1
    )
    return out.logits[:, :-1].float().log_softmax(-1).gather(2, ids.unsqueeze(2)).squeeze(2)


def measure(side: str, shape: dict[str, int], device: str) -> dict:
    """Seconds of rollout and update, peak memory in MB, the tokens and the mean log-probability."""
    group, length = shape["group"], shape["length"]
    model, batch = prepared(shape["keys"], device)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-9)
    advantages = torch.linspace(-1, 1, group, device=device).unsqueeze(1)
    many = repeated(batch, group)
    start, clock = memory(device), clock_of(device)
    times: list[list[float]] = []
    for _ in range(2):
        model.eval()
        began = clock()
        if side == "shared":
            ids, media = roll_shared(model, batch, group, length)
        else:
            ids = roll_unshared(model, many, length)
        middle = clock()
        model.train()
        if side == "shared":
            owner = torch.zeros(group, dtype=torch.long, device=device)
            given = {"media": media, "completion_ids": ids, "completion_mask": torch.ones_like(ids), "owner": owner}
            logps, _ = completion_logps(model, batch | given, 1.0, "sdpa")
        else:
            logps = logps_unshared(model, many, ids)
        (logps * advantages).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append([middle - began, clock() - middle])
    rollout, update = min(t[0] for t in times), min(t[1] for t in times)
    return {
        "rollout_s": rollout,
        "update_s": update,
        "peak_mb": memory(device) - start,
        "prefix": batch["input_ids"].shape[1],
        "ids": ids.tolist(),
        "logp": logps.mean().item(),
    }


def clock_of(device: str) -> Callable[[], float]:
    """Processor time; of a GPU the wall's, when all that was started is done."""
    if device == "cpu":
        return time.process_time

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return clock


def memory(device: str) -> float:
    """Peak of resident memory so far, of a GPU of what was allocated, MB."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def apart(job: dict) -> dict:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def compare(shape: dict[str, int]) -> dict[str, float]:
    """Both sides at one shape, which must agree: a row of the table."""
    made = {side: apart({"side": side, "shape": shape, "device": "cpu"}) for side in SIDES}
    ours, theirs = made.values()
    assert ours["ids"] == theirs["ids"], f"greedy tokens differ at {shape}"
    assert abs(ours["logp"] - theirs["logp"]) < 1e-5 * abs(theirs["logp"]), (ours["logp"], theirs["logp"])
    return row_of(shape, made)


def row_of(shape: dict[str, int], made: dict[str, dict]) -> dict[str, float]:
    columns = {f"{side}_{name}": round(found[name], 3) for side, found in made.items() for name in MEASURED}
    return {**shape, "prefix": made["shared"]["prefix"], **columns}


def on_gpu(console: Console) -> None:
    """The 7B shape, one side after the other, and how busy the GPU was."""
    made, busy = {}, {}
    for side in SIDES:
        words = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as watch:
            try:
                made[side] = apart({"side": side, "shape": ON_GPU, "device": "cuda"})
            finally:
                watch.terminate()
            seen = [float(line) for line in watch.stdout.read().split()]
        busy[side] = sum(seen) / max(1, len(seen))
    show([row_of(ON_GPU, made)], console)
    ours, theirs = (torch.tensor(made[side]["ids"]) for side in SIDES)
    means = ", ".join(f"{found['logp']:.4f}" for found in made.values())
    console.print(f"mean utilization, loading included: {', '.join(f'{b:.0f} %' for b in busy.values())}")
    console.print(f"greedy tokens that agree: {(ours == theirs).float().mean():.1%}; mean log-probability: {means}")
    console.print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")


def ratios(row: dict[str, float]) -> dict[str, float]:
    """Unshared over shared."""
    whole = [row[f"{side}_rollout_s"] + row[f"{side}_update_s"] for side in ("unshared", "shared")]
    names = {"rollout": "rollout_s", "log-probabilities and update": "update_s", "peak memory": "peak_mb"}
    parts = {label: row[f"unshared_{name}"] / row[f"shared_{name}"] for label, name in names.items()}
    return {"whole step": whole[0] / whole[1], **parts}


def show(rows: list[dict[str, float]], console: Console) -> None:
    table = Table("prefix", "G", "length", "rollout s", "update s", "step", "peak MB", title="shared, unshared")
    for r in rows:
        pairs = [[f"{r[f'{side}_{name}']:.{n}f}" for side in SIDES] for name, n in MEASURED.items()]
        rollout, update, peak = map(", ".join, pairs)
        shape = (f"{r[name]:.0f}" for name in ("prefix", "group", "length"))
        table.add_row(*shape, rollout, update, f"{ratios(r)['whole step']:.1f} times", peak)
    console.print(table)


def plot(rows: list[dict[str, float]], path: Path) -> None:
    """Speed-up of the whole step, of its halves, and the memory ratio over prefix, G and completion length."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.6), sharey=True, layout="constrained")
    names = {"keys": "prefix tokens", "group": "completions per prompt (G)", "length": "completion tokens"}
    for axis, (key, label) in zip(axes, names.items()):
        some = sorted((r for r in rows if all(r[k] == BASE[k] for k in BASE if k != key)), key=lambda r: r[key])
        x = [r["prefix" if key == "keys" else key] for r in some]
        for name in ratios(some[0]):
            style = "--" if "memory" in name else "-"
            axis.plot(x, [ratios(r)[name] for r in some], marker="o", linestyle=style, label=name)
        axis.axhline(1, color="gray", linewidth=0.8)
        axis.set(xlabel=label, xscale="log", xticks=x, xticklabels=[f"{v:.0f}" for v in x])
        axis.minorticks_off()
    axes[0].set_ylabel("unshared / shared")
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def measured(path: Path) -> list[dict[str, float]]:
    """The rows of an earlier call."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--most", type=int, default=99, help="shapes to measure in this call, the base shape first")
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options.add_argument("--out", type=Path, default=Path("docs/results"))
    options.add_argument("--one", help=argparse.SUPPRESS)
    given = options.parse_args()
    torch.set_num_threads(1)
    if given.one:
        sys.stdout.write(json.dumps(measure(**json.loads(given.one))) + "\n")
        return
    if given.device == "cuda":
        if not torch.cuda.is_available():
            sys.exit("error: --device cuda: no GPU is visible")
        on_gpu(Console(width=110))
        return
    given.out.mkdir(parents=True, exist_ok=True)
    path, console = given.out / "grpo_speed.csv", Console(width=110)
    shapes = [BASE, *(BASE | {k: v} for k in GROWTH for v in GROWTH[k] if v != BASE[k])]
    rows = measured(path)
    missing = [s for s in shapes if not any(all(r[k] == s[k] for k in s) for r in rows)]
    for shape in missing[: given.most]:
        rows.append(compare(shape))
        show(rows[-1:], console)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    show(rows, console)
    if len(rows) == len(shapes):
        plot(rows, given.out / "grpo_speed.png")


if __name__ == "__main__":
    main()
