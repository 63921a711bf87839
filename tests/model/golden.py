"""Parity that travels with the repository: tests/model/golden/parity.safetensors.

`official/*` is cut from the official code's own run at toy size (../shared/data/reference: random weights, fp32, CPU):
the projectors, positions and every text row that the run used, the vision features of its first key frame, and what the
official code made of them. The towers' and the language model's weights are left out for their size; for the whole
chain `pinned/*` holds what our model gave from weights and pixels made by a seed, recorded by this file only while the
full comparison with the official code (reference.py) was within 1e-5. It guards against drift; it is not official.

`names_7b.json.gz` lists the entries of the released 7B checkpoints and their shapes.

Recorded by `python tests/model/golden.py` (needs ../shared/data/reference); read by `make parity` and the tests.
"""

import gzip
import json
from pathlib import Path

import numpy as np
import reference
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vqa2.core.scale import level_score
from vqa2.model.modeling import VQA2Config, VQA2ForConditionalGeneration

FILE = Path(__file__).parent / "golden" / "parity.safetensors"
NAMES = FILE.with_name("names_7b.json.gz")
KEYS, MOTION, FRAME = 3, 20, 196
FIRST_VISUAL = 9
LIMIT = 1e-5


def config() -> VQA2Config:
    """The toy's sizes, under our names (written before anything else is recorded)."""
    with safe_open(FILE, "pt") as file:
        return VQA2Config.from_dict(json.loads(file.metadata()["config"]))


def seeded(model: VQA2ForConditionalGeneration) -> VQA2ForConditionalGeneration:
    """Fills every weight from a seed: uniform noise scaled by the fan-in, statistics and norms near one."""
    rng = np.random.default_rng(0)
    for name, tensor in sorted(model.state_dict().items()):
        if not tensor.is_floating_point():
            continue
        noise = torch.from_numpy(rng.random(tuple(tensor.shape), dtype=np.float32) * 2 - 1)
        if tensor.ndim > 1 and "embed" not in name:
            tensor.copy_(noise * (3 / tensor[0].numel()) ** 0.5)
        elif (
            name.endswith(("norm.weight", "running_var")) or "layernorm.weight" in name or "layer_norm1.weight" in name
        ):
            tensor.copy_(1 + noise / 4)
        else:
            tensor.copy_(noise / 4)
    return model.eval()


def pinned() -> dict[str, torch.Tensor]:
    """The whole chain from seeded weights and pixels, thinned."""
    model = seeded(VQA2ForConditionalGeneration(config()))
    rng = np.random.default_rng(1)
    key = torch.from_numpy(rng.random((1, 3, 384, 384), dtype=np.float32) * 2 - 1)
    motion = torch.from_numpy(rng.random((8, 3, 96, 96), dtype=np.float32) * 2 - 1)
    video, slot = model.config.video_token_index, model.config.motion_token_index
    ids = torch.tensor([[1, 2, 3] + [video] * (FRAME + 1) + [4] + [slot] * 8 + list(range(5, 17))])
    labels = torch.where((ids > 9) & (ids < 17), ids, -100)
    media = {"key_frames": key, "motion_frames": motion, "clip_sizes": torch.tensor([[1, 8]])}
    return {
        "motion features": model.model.motion_tower(motion, [8])[:, ::4],
        "vision features": model.model.see(key)[0, ::16, ::4],
        "visual tokens": model.model.visual_tokens(key)[0, ::8, ::4],
        "logits": model(input_ids=ids, **media).logits[0, -12:, ::64],
        "loss": model(input_ids=ids, labels=labels, **media).loss[None],
    }


def splice(held: dict[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Ours and the official values of everything between the towers and the language model."""
    model = VQA2ForConditionalGeneration(config()).eval()
    core = model.model
    core.multi_modal_projector.load_state_dict(_under(held, "official/projector/"))
    core.motion_projector.load_state_dict(_under(held, "official/motion_projector/"))
    core.image_newline.data = held["official/newline"]
    core.motion_tower.position_embedding.weight.data[:MOTION] = held["official/positions"]
    core.get_input_embeddings().weight.data[held["official/words"]] = held["official/word_rows"]
    seen = held["official/vision_features"]
    ids, labels = reference.sequence(
        {"input_ids": held["official/input_ids"], "labels": held["official/labels"]}, KEYS, MOTION
    )
    merged = core.embed(
        ids,
        key_features=torch.cat((seen, torch.zeros(KEYS - 1, *seen.shape[1:]))),
        motion_features=held["official/fast_pooled"],
        clip_sizes=torch.tensor([[KEYS, MOTION]]),
    )
    motion = core.motion_tower.place(held["official/fast_pooled"], [MOTION])
    score = level_score(held["official/level_logits"].softmax(0).tolist())
    return {
        "motion features": (motion, held["official/motion_features"]),
        "motion tokens": (core.motion_projector(motion), held["official/motion_tokens"]),
        "visual tokens, first key frame": (core.project(seen), held["official/visual_pooled"]),
        "merged sequence without two key frames": (merged[0, _rows(ids)], held["official/merged"]),
        "merged labels": (labels, held["official/merged_labels"]),
        "level score": (torch.tensor([score]), held["official/score"]),
    }


def _rows(ids: torch.Tensor) -> torch.Tensor:
    """Rows of the merged sequence but those of the key frames whose features are not held."""
    place = torch.arange(ids.shape[1])
    return (place < FIRST_VISUAL + FRAME) | (place >= FIRST_VISUAL + KEYS * FRAME)


def _under(held: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in held.items() if k.startswith(prefix)}


@torch.no_grad()
def differences() -> dict[str, float]:
    """Difference (`reference.apart`) of every held stage, fp32 on the CPU; `pinned` ones are this project's own."""
    held = load_file(FILE)
    found = splice(held) | {f"{k} (pinned)": (v, held[f"pinned/{k}"]) for k, v in pinned().items()}
    for name, (ours, theirs) in found.items():
        assert ours.shape == theirs.shape, f"{name}: {tuple(ours.shape)}, held {tuple(theirs.shape)}"
    return {k: reference.apart(ours, theirs) for k, (ours, theirs) in found.items()}


def cut() -> dict[str, torch.Tensor]:
    """The official part, from the reference folder."""
    truth = load_file(reference.FOLDER / "ref_llava_finetune.safetensors")
    state = load_file(reference.FOLDER / "state_min.safetensors")
    summary = json.loads((reference.FOLDER / "summary_llava_finetune.json").read_text())
    words = torch.tensor(sorted({i for i in truth["input_ids"][0].tolist() if i >= 0}))
    ids, _ = reference.sequence(truth, KEYS, MOTION)
    projectors = {f"projector/linear_{n + 1}.{k}": state[f"model.mm_projector.{2 * n}.{k}"]
                  for n in (0, 1) for k in ("weight", "bias")}  # fmt: skip
    motion = {f"motion_projector/{n}.{k}": state[f"model.slowfast_projector.{n}.{k}"]
              for n in (0, 2) for k in ("weight", "bias")}  # fmt: skip
    made = {
        **projectors,
        **motion,
        "newline": state["model.image_newline"],
        "positions": state["model.slowfast.position_embedding.weight"][:MOTION],
        "words": words,
        "word_rows": state["model.embed_tokens.weight"][words],
        "input_ids": truth["input_ids"],
        "labels": truth["labels"],
        "vision_features": truth["vision_features"][:1],
        "visual_pooled": truth["visual_pooled"][:1],
        "fast_pooled": truth["fast_pooled_no_pos"],
        "motion_features": truth["motion_features"],
        "motion_tokens": truth["motion_tokens"],
        "merged": truth["merged_embeds"][0, _rows(ids)],
        "merged_labels": truth["merged_labels"],
        "level_logits": torch.tensor(summary["level_logits"]),
        "score": torch.tensor([summary["score_1_75_5_25_0"]]),
    }
    return {f"official/{k}": v.contiguous() for k, v in made.items()}


def names_7b() -> dict[str, tuple[int, ...]]:
    """Name -> shape of every entry of the released 7B checkpoints, as the official code makes them."""
    return {k: tuple(v) for k, v in json.loads(gzip.decompress(NAMES.read_bytes())).items()}


def main() -> None:
    """Records, unless the full comparison says that our model is not the official one."""
    apart = {k: v for k, v in reference.differences().items() if v > LIMIT}
    assert not apart, f"not recorded, our model differs from the official code: {apart}"
    network = reference.model()
    facts = {
        "config": network.config.to_json_string(use_diff=False),
        "provenance": "official VQA2 training code at toy size, random weights, fp32, CPU; see tests/model/golden.py",
    }
    FILE.parent.mkdir(exist_ok=True)
    save_file(cut(), FILE, metadata=facts)
    with torch.no_grad():
        whole = cut() | {f"pinned/{k}": v.contiguous() for k, v in pinned().items()}
    save_file(whole, FILE, metadata=facts)
    entries = json.loads((reference.FOLDER / "state_keys_7b.json").read_text())
    NAMES.write_bytes(gzip.compress(json.dumps({k: v[0] for k, v in entries.items()}).encode(), mtime=0))


if __name__ == "__main__":
    main()
