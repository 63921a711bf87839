"""The small real model on random clips of different lengths, and its GRPO trainer.

Run as a script (`python grpo_clips.py OUT '{"parts": {"lm": "lora"}, ...}'`), it trains and writes its log and weights,
as `grpo_toy.py` does.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from grpo_toy import arguments, control, few_as, finish, packing

from vqa2.core.config import decode
from vqa2.core.records import Instruction, Turn
from vqa2.core.scale import LEVELS
from vqa2.data.dataset import ClipCache, Collator
from vqa2.data.video import Video
from vqa2.launch import composed
from vqa2.model.build import ModelSpec, build
from vqa2.model.tune import PARTS, Lora, Tune, apply_policy
from vqa2.train._grpo_inputs import prompt_batch, take_clips
from vqa2.train.grpo import GRPOTrainer
from vqa2.train.grpo_rewards import TrlReward

G = 4
"""`num_generations` of `arguments`."""


def clip(seed: int, keys: int) -> Video:
    frames = np.random.default_rng(seed).integers(0, 256, (8 * keys, 32, 32, 3), dtype=np.uint8)
    index = np.arange(8 * keys)
    return Video(frames[::8], frames, np.arange(keys), index / 8, index // 8, 8.0, f"clip{seed}")


class Clips(Collator):
    """Random clips of two lengths in place of files."""

    def read(self, row):
        number = int(Path(row.media).stem)
        return clip(number, 2 + number % 2)


def rows(count: int) -> list[Instruction]:
    return [
        Instruction(
            id=f"r{k}",
            clip_id=f"c{k}",
            kind="video",
            media=f"{k}.mp4",
            task="grpo",
            turns=(Turn(user="<video>\nHow good?" + " Say." * k, assistant=""),),
            mos=20.0 + 30 * k,
        )
        for k in range(count)
    ]


def tuned(model, **parts) -> Tune:
    tune = Tune(
        parts={part: parts.get(part, "frozen") for part in PARTS},
        lr=dict.fromkeys(parts, 0.01),
        learn_from={},
        motion_batchnorm="stored",
        lora=Lora(rank=2, alpha=4.0, dropout=0.0),
    )
    apply_policy(model, tune)
    return tune


def clips_trainer(out: Path, model, processor, spec: ModelSpec, rewards: dict, data=None, **change) -> GRPOTrainer:
    collate = Clips(processor, None, spec.video, side="left", clips=ClipCache(0))
    args, data = arguments(out, **{"max_steps": 1} | change), rows(4) if data is None else data
    return GRPOTrainer(model, args, data, collate, rewards, processor.tokenizer, packing(120), control())


def collated(processor, model_spec, count: int) -> dict:
    made = prompt_batch(Clips(processor, None, model_spec.video, side="left", clips=ClipCache(0)).collate(rows(count)))
    del made["rows"]
    return made


def completed(batch: dict, vocab: int) -> dict:
    """Random completions, each of another length."""
    rng = torch.Generator().manual_seed(2)
    count, length = len(batch["input_ids"]) * G, 9
    # No placeholder ids: the sequences apart are read as text.
    ids = torch.randint(20, vocab - 20, (count, length), generator=rng)
    lengths = 1 + torch.arange(count).unsqueeze(1) * 5 % length
    owner = torch.arange(count // G).repeat_interleave(G)
    mask = (torch.arange(length) < lengths).long()
    return batch | {
        "completion_ids": ids,
        "completion_mask": mask,
        "owner": owner,
        "advantages": torch.randn(count, generator=rng),
    }


def unshared(model, batch: dict) -> torch.Tensor:
    """Each completion in a sequence of its own, clip encoded again, no padding, no mask: `[S,C]`, 0 where padded."""
    out = torch.zeros(batch["completion_ids"].shape)
    for k, (ids, mask) in enumerate(zip(batch["completion_ids"], batch["completion_mask"])):
        prompt, own = k // G, ids[mask.bool()]
        valid = batch["attention_mask"][prompt].bool()
        frames = take_clips(batch["media"], [prompt])
        prefix = model.embed(batch["input_ids"][prompt][valid][None], **frames)
        embeds = torch.cat((prefix, model.get_input_embeddings()(own)[None]), 1)
        logits = model(inputs_embeds=embeds).logits[0, prefix.shape[1] - 1 : -1]
        out[k, : len(own)] = (logits / 0.9).log_softmax(-1).gather(1, own[:, None])[:, 0]
    return out


def loss_of(logps, batch):
    """Something that weighs every token differently."""
    weight = batch["advantages"].unsqueeze(1) * torch.linspace(1, 2, logps.shape[1]) * batch["completion_mask"]
    return (logps * weight).sum()


def gradients(model) -> dict:
    made = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return made


def assert_gradients(ours: dict, theirs: dict) -> None:
    """Equal to 1e-5."""
    assert ours.keys() == theirs.keys()
    scale = max(g.norm() for g in theirs.values())
    for name in theirs:
        gap = (ours[name] - theirs[name]).norm()
        # Weights that the loss hardly depends on have gradients of rounding size.
        assert gap < 1e-5 * max(theirs[name].norm(), 1e-3 * scale), name


def main(out: Path, settings: dict) -> None:
    """Four clips, one of which is longer: ranks with two of them each meet one length or two. `settings`: `parts` of
    the model and their policies, and what else is not as in `arguments`."""
    from small import SMALL_MODEL

    torch.set_num_threads(1)
    torch.manual_seed(0)
    spec = decode(ModelSpec, composed("train", ["stage=base", *SMALL_MODEL])["model"], "model")
    model, processor = build(spec, [f"How good? Say a bad cab. {level}" for level in LEVELS] * 50)
    tuned(model, **settings.pop("parts"))
    data = [row for row in rows(7) if row.media in ("0.mp4", "1.mp4", "2.mp4", "4.mp4")]
    made = clips_trainer(out, model, processor, spec, {"letters": TrlReward(few_as, 1.0)}, data, **settings)
    made.train()
    finish(made, out)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
