"""The official code's numbers at toy size (../shared/data/reference, see its README): our model from its weights, and
the largest difference of every stage of the forward pass. `make parity` prints them."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from vqa2.core.scale import level_score
from vqa2.data.layout import Slots, Tokens, clip_block
from vqa2.model import _official
from vqa2.model.modeling import VQA2ForConditionalGeneration

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "reference"
LEVELS = [1550, 1661, 6624, 7852, 3347]
PLACEHOLDER = -200
IDS = (8189, 8190, 8191)
"""Image, video and motion placeholder: the last ids of the toy vocabulary, which the reference text does not use."""


def model() -> VQA2ForConditionalGeneration:
    """The toy model of the reference with the official weights under our names."""
    state = load_file(FOLDER / "state_min.safetensors")
    sizes = json.loads((FOLDER / "config_toy.json").read_text()) | {"mm_vision_num_attention_heads": 4}
    config = _official.config_from(sizes, {k: tuple(v.shape) for k, v in state.items()}, IDS)
    made = VQA2ForConditionalGeneration(config).eval()
    live = {_official.to_ours(k): v for k, v in state.items() if not _official.dead_reason(k)}
    missing, unexpected = made.load_state_dict(live, strict=False)
    assert not unexpected
    assert all(k.endswith("num_batches_tracked") for k in missing), missing
    return made


def frames() -> tuple[torch.Tensor, torch.Tensor]:
    """Key frames `[3,3,384,384]` and motion frames `[20,3,384,384]` of the reference clip, by our resize."""
    video = np.load(FOLDER / "video.npz")
    resized = np.stack(
        [np.asarray(Image.fromarray(f).resize((384, 384), Image.Resampling.BICUBIC)) for f in video["frames"]]
    )
    assert np.array_equal(resized[0].transpose(2, 0, 1), video["frame0_resized_u8"])
    x = torch.from_numpy(resized).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    return x[torch.from_numpy(video["key_idx"])], x[: len(x) // 4 * 4]


def sequence(truth: dict, keys: int, motion: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels with both placeholders expanded by our layout rules, `[1,L]`."""
    tokens = Tokens(video=IDS[1], motion=IDS[2], layout="official", use_motion=True, system="")
    slots = Slots(tokens_per_frame=196, num_key=keys, motion_second=(0,) * motion)
    blocks = iter(clip_block(slots, tokens))
    ids: list[int] = []
    labels: list[int] = []
    for token, label in zip(truth["input_ids"][0].tolist(), truth["labels"][0].tolist()):
        piece = next(blocks) if token == PLACEHOLDER else [token]
        ids += piece
        labels += [-100] * len(piece) if token == PLACEHOLDER else [label]
    return torch.tensor([ids]), torch.tensor([labels])


@torch.no_grad()
def differences() -> dict[str, float]:
    """Difference from the official code by stage (see `apart`), fp32 on the CPU."""
    torch.set_num_threads(2)
    truth = load_file(FOLDER / "ref_llava_finetune.safetensors")
    summary = json.loads((FOLDER / "summary_llava_finetune.json").read_text())
    network = model()
    core = network.model
    keys, motion = frames()
    media = {"key_frames": keys, "motion_frames": motion, "clip_sizes": torch.tensor([[len(keys), len(motion)]])}
    ids, labels = sequence(truth, len(keys), len(motion))
    pooled = core.motion_tower.fast_features(motion.transpose(0, 1)[None])[0]
    vision = core.vision_tower(keys, output_hidden_states=True).hidden_states[-1]
    small = truth["small_clip"]
    merged = core.embed(ids, **media)
    out = network(input_ids=ids, **media).logits
    loss = network(input_ids=ids, labels=labels, **media).loss
    level = out[0, _level_position(truth, out, summary)][LEVELS]
    found = {
        "motion features before positions": (pooled, truth["fast_pooled_no_pos"]),
        "motion features": (core.motion_tower(motion, [len(motion)]), truth["motion_features"]),
        "motion tokens": (core.motion_tokens(motion, [len(motion)]), truth["motion_tokens"]),
        "motion features, small clip": (core.motion_tower(small, [len(small)]), truth["small_clip_motion_features"]),
        "vision features": (vision, truth["vision_features"]),
        "visual tokens before pooling": (core.multi_modal_projector(vision), truth["visual_projected"]),
        "visual tokens": (core.visual_tokens(keys), truth["visual_pooled"]),
        "merged sequence": (merged, truth["merged_embeds"]),
        "merged labels": (labels, truth["merged_labels"]),
        "logits, last 12 positions": (out[:, -12:], truth["logits"]),
        "loss": (loss, truth["loss"][0]),
        "level logits": (level, torch.tensor(summary["level_logits"])),
        "level score": (
            torch.tensor(level_score(level.softmax(0).tolist())),
            torch.tensor(summary["score_1_75_5_25_0"]),
        ),
    }
    for name, (ours, theirs) in found.items():
        assert ours.shape == theirs.shape, f"{name}: {tuple(ours.shape)}, official {tuple(theirs.shape)}"
    return {k: apart(ours, theirs) for k, (ours, theirs) in found.items()}


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference, relative to the largest official value where that is above 1: how CPUs order the sums of a
    convolution moves features of 40 by 2e-5."""
    theirs = theirs.double()
    return ((ours.double() - theirs).abs().max() / theirs.abs().max().clamp(min=1)).item()


def _level_position(truth: dict, logits: torch.Tensor, summary: dict) -> int:
    """The position whose logits the reference scored: found in its own last 12 positions."""
    wanted = torch.tensor(summary["level_logits"])
    distance = (truth["logits"][0][:, LEVELS] - wanted).abs().amax(1)
    assert distance.min() == 0
    return logits.shape[1] - 12 + int(distance.argmin())


def main() -> None:
    """Prints what is held in the repository, and the whole comparison where its folder is."""
    from golden import differences as held

    Console().print(_table("held in tests/model/golden (pinned: recorded from this code, see golden.py)", held()))
    if FOLDER.is_dir():
        Console().print(_table("the official code, whole chain", differences()))
    else:
        Console().print(f"{FOLDER}: not here, so the towers and the language model were not compared with it")


def _table(title: str, found: dict[str, float]) -> Table:
    table = Table("stage", "largest difference (fp32)", title=title)
    for name, value in found.items():
        table.add_row(name, f"{value:.1e}")
    return table


if __name__ == "__main__":
    main()
