"""Miniatures of what is published, made up: datasets under their own folder and file names, and checkpoints."""

from pathlib import Path

import numpy as np
import torch
from labels_form import FORMS, VQC, fast, records, vqathinker
from media import write_clip
from PIL import Image
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from data_prep.sources.labelled import Excluded, Labelled
from vqa2.core.config import build
from vqa2.core.prompts import REASON_QUESTION, SCORE_PREFIX, SCORE_QUESTION
from vqa2.core.scale import LEVELS
from vqa2.launch import composed
from vqa2.model.motion import MotionConfig, MotionTower
from vqa2.model.processing import train_tokenizer

MOS = (12.0, 35.5, 51.0, 70.25, 90.0)


def lsvq(folder: str, mos: tuple[float, ...] = MOS) -> list[tuple[str, float]]:
    return [(f"{folder}/{k}.mp4", m) for k, m in enumerate(mos)]


def label_files(sources: list[str]) -> dict[str, str]:
    """Label file -> text. The lists of LSVQ share no clip, as the published ones."""
    lists = {
        "lsvq_train": {"LSVQ/LSVQ_train_labels.txt": fast(*lsvq("yfcc-batch1"))},
        "lsvq_1080p": {"LSVQ/labels_1080p.txt": fast(*lsvq("yfcc-batch2"))},
        "lsvq_test": {"LSVQ/labels_test.txt": fast(*lsvq("ia-batch3"))},
        # Of the five of each whole list, those that the paper did not train on.
        "lsvq_1080p_2575": {
            "LSVQ/LSVQ(test_1080p).json": records(*({"img_path": n, "mos": m} for n, m in lsvq("yfcc-batch2")[3:]))
        },
        "live_vqc_88": {"LIVE-VQC/live_VQC.json": records(*({"img_path": n, "mos": 0.5} for n in VQC[3:]))},
        "vqathinker_lsvq_test": vqathinker("LSVQ", "LSVQ_whole_test_ds_score.json", [n for n, _ in lsvq("ia-batch3")]),
    }
    return {name: text for source in sources for name, text in (FORMS | lists)[source].items()}


def picture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(40, 220, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)


def moving(seed: int, frames: int) -> np.ndarray:
    return np.stack([np.roll(picture(seed), 2 * t, 1) for t in range(frames)])


def write_dataset(root: Path, sources: list[str], frames: int = 12) -> None:
    """Label files of the sources and every file that they name, clips at 8 frames a second."""
    for name, text in label_files(sources).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    number = 0
    for source in sources:
        part = build("source", composed("data_prep", [f"source={source}", "set=scoring_ugc"])["source"], "source")
        assert isinstance(part, Labelled)
        for item in part.rows(root):
            if isinstance(item, Excluded):
                continue
            path, number = root / part.media(item[1], None), number + 1
            path.parent.mkdir(parents=True, exist_ok=True)
            if part.kind == "image":
                Image.fromarray(picture(number)).save(path)
            elif not path.exists():
                row = item[1]  # a streaming clip is as long as its label file tells
                length, rate = (row.frames, round(row.fps)) if row.frames else (frames, 8)
                write_clip(path, moving(number, length), rate, "libx264", "yuv420p", crf="20")


def write_llava_onevision(folder: Path) -> None:
    """llava-hf's published form of LLaVA-OneVision, tiny: fp16 weights, tokenizer and config.json by transformers."""
    texts = [SCORE_QUESTION, REASON_QUESTION, *(f"{SCORE_PREFIX} {level}." for level in LEVELS)]
    words = train_tokenizer(texts * 4, 400)
    text = {"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 448}  # fmt: skip
    vision = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
              "num_attention_heads": 2, "image_size": 56, "patch_size": 14, "vision_use_head": False}  # fmt: skip
    image, video = words.convert_tokens_to_ids(["<image>", "<video>"])
    torch.manual_seed(0)
    config = LlavaOnevisionConfig(
        vision_config=vision, text_config=text, image_token_index=image, video_token_index=video
    )
    LlavaOnevisionForConditionalGeneration(config).half().save_pretrained(folder)
    words.save_pretrained(folder)


def slowfast_state() -> dict[str, torch.Tensor]:
    """A fast path of full size under pytorchvideo's names, with a slow path and a head beside it."""
    torch.manual_seed(1)
    fast = {k: v for k, v in MotionTower(MotionConfig()).state_dict().items() if k.startswith("feature_extraction.")}
    found = {k.replace("feature_extraction.", "blocks."): v for k, v in fast.items()}
    return found | {
        "blocks.0.multipathway_blocks.0.conv.weight": torch.zeros(1),
        "blocks.6.proj.weight": torch.zeros(1),
    }
