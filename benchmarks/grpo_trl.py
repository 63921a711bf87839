"""This project's GRPO trainer against trl.GRPOTrainer on the one visual case TRL can run, a single image:
`python benchmarks/grpo_trl.py`.

Both train the same stock LLaVA-OneVision (random weights from a seed, every weight trains) on the same prompt, one
image of more than 1,000 tokens, G = 8, AdamW; no KL, no gradient checkpointing, fp32, one thread. Each trainer samples
its own completions, of 64 tokens all: no token ends them. Mean CPU seconds of three whole steps, and the peak of
resident memory over what model and trainer alone took; each side is a process of its own.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from rich.console import Console
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    PrinterCallback,
)
from trl import GRPOConfig, GRPOTrainer

from vqa2.core.records import Instruction, Turn
from vqa2.core.scale import LEVELS
from vqa2.model.processing import train_tokenizer
from vqa2.train._grpo_alarms import Alarms
from vqa2.train._grpo_show import Show
from vqa2.train._packed import Packing
from vqa2.train.grpo import GRPOTrainer as OurTrainer
from vqa2.train.grpo_config import Control
from vqa2.train.grpo_rewards import TrlReward

SIDE, PATCH, GROUP, LENGTH, STEPS = 224, 14, 8, 64, 3
QUESTION = "How good is this image?"
TEMPLATE = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}"
    "{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


class Images(LlavaOnevisionProcessor):
    """Without torchvision there is no video processor; images do not need one."""

    def check_argument_for_proper_class(self, argument_name, argument):
        return type(argument)


def processor() -> LlavaOnevisionProcessor:
    tokenizer = train_tokenizer([f"How good is this image? The quality is {level}." for level in LEVELS] * 50, 640)
    tokenizer.chat_template = TEMPLATE
    pins = [[SIDE * a, SIDE * b] for a in (1, 2) for b in (1, 2)]
    images = LlavaOnevisionImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=pins)
    return Images(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=None,
        num_image_tokens=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
    )


class Stock(LlavaOnevisionForConditionalGeneration):
    """Stock LLaVA-OneVision with the three methods that this project's trainer asks for; its tower trains."""

    def embed(self, input_ids, pixel_values, image_sizes):
        embeds = self.get_input_embeddings()(input_ids)
        found = self.model.get_image_features(pixel_values, image_sizes).pooler_output
        mask = (input_ids == self.config.image_token_id).unsqueeze(-1)
        return embeds.masked_scatter(mask, torch.cat(list(found)).to(embeds.dtype))

    def encode(self, media, clean=None):
        return media

    def constants(self, media, encoded):
        return encoded


def model(made: LlavaOnevisionProcessor, cls):
    torch.manual_seed(0)
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": PATCH,
        "vision_use_head": False,
    }
    text = {
        "model_type": "qwen2",
        "vocab_size": len(made.tokenizer),
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    }
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=made.tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=made.tokenizer.convert_tokens_to_ids("<video>"),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        image_grid_pinpoints=made.image_processor.image_grid_pinpoints,
    )
    network = cls(config)
    network.generation_config.eos_token_id = made.tokenizer.eos_token_id
    network.generation_config.pad_token_id = made.tokenizer.pad_token_id
    return network


class One:
    """The collator of this project's trainer: one image, one prompt."""

    def __init__(self, made: LlavaOnevisionProcessor, image: Image.Image, text: str) -> None:
        self.batch = dict(made(images=image, text=f"<image>{text}", return_tensors="pt"))
        self.batch = {k: self.batch[k] for k in ("input_ids", "attention_mask", "pixel_values", "image_sizes")}

    def read(self, row):
        return None

    def collate(self, rows, videos=None):
        return self.batch | {"rows": list(rows), "dropped_key_frames": 0}


def few_a(completions, **_):
    """TRL passes messages, this project texts."""
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [float(t.count("a")) for t in texts]


def arguments(out: str) -> GRPOConfig:
    return GRPOConfig(
        output_dir=out,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        per_device_train_batch_size=GROUP,
        gradient_accumulation_steps=1,
        num_generations=GROUP,
        max_completion_length=LENGTH,
        max_steps=STEPS,
        learning_rate=1e-6,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        seed=3,
    )


def trainer(side: str, made: LlavaOnevisionProcessor, image: Image.Image, out: str):
    args = arguments(out)
    if side == "TRL":
        rows = Dataset.from_list([{"prompt": [{"role": "user", "content": QUESTION}], "image": image}] * STEPS)
        args.generation_kwargs = {"min_new_tokens": LENGTH}
        network = model(made, LlavaOnevisionForConditionalGeneration)
        return GRPOTrainer(network, few_a, args, rows, processing_class=made)
    turns = (Turn(user=QUESTION, assistant=""),)
    row = Instruction(id="r", clip_id="c", kind="image", media="i.png", task="grpo", turns=turns, mos=50.0)
    rewards, room = {"a": TrlReward(few_a, 1.0)}, 1_000_000
    packing = Packing(max_tokens=room, rollout_tokens=room, attention="sdpa")
    nothing = Alarms(steps=0, patience=1, parse_rate=0.0, length=0.5, stop=False)
    control = Control(
        resample_rounds=0,
        reward_timeout_s=60.0,
        shuffle_rewards=False,
        alarms=nothing,
        show=Show(every=0, prompts=1),
    )
    one = One(made, image, QUESTION)
    ours = OurTrainer(model(made, Stock), args, [row] * STEPS, one, rewards, made.tokenizer, packing, control)
    ours.sampling = replace(ours.sampling, ends=())
    return ours


def measure(side: str) -> dict:
    """CPU seconds of a step, peak memory in MB, prompt and mean completion lengths."""
    made, pixels = processor(), np.random.default_rng(0).integers(0, 256, (2 * SIDE, 2 * SIDE, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    with tempfile.TemporaryDirectory() as out:
        runner = trainer(side, made, image, out)
        runner.remove_callback(PrinterCallback)
        start, began = memory(), time.process_time()
        runner.train()
        return {
            "seconds": (time.process_time() - began) / STEPS,
            "peak_mb": memory() - start,
            "prefix": One(made, image, QUESTION).batch["input_ids"].shape[1],
            "lengths": [r["completions/mean_length"] for r in runner.state.log_history if "reward" in r],
        }


def memory() -> float:
    """Peak of resident memory so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        sys.stdout.write("\n" + json.dumps(measure(sys.argv[1])) + "\n")
        return
    console, made = Console(width=110), {}
    for side in ("ours", "TRL"):
        done = subprocess.run([sys.executable, __file__, side], stdout=subprocess.PIPE, text=True, check=True)
        made[side] = json.loads(done.stdout.splitlines()[-1])
        console.print(side, made[side])
    ratio = {name: made["TRL"][name] / made["ours"][name] for name in ("seconds", "peak_mb")}
    console.print(f"TRL / ours: {ratio['seconds']:.2f} in seconds, {ratio['peak_mb']:.2f} in memory")


if __name__ == "__main__":
    main()
