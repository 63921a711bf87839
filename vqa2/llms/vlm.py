"""`llm=vlm`: any image-text-to-text model of transformers in this process (LLaVA-OneVision, Qwen2.5-VL, InternVL3-hf).

Prompts have the OpenAI form; its `image_url` parts must be data URIs, which become the processor's images.
"""

import base64
import io
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from vqa2.core.config import register
from vqa2.core.llm import LlmError, Message
from vqa2.llms._inprocess import InProcess, loaded


@register("llm", "vlm")
class Vlm:
    """`model`: a folder or hub id whose processor has a chat template; `temperature` 0 is greedy."""

    model: str
    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "bfloat16"]
    temperature: Annotated[float, Ge(0)]
    max_tokens: Annotated[int, Ge(1)]
    repairs: Annotated[int, Ge(0)]

    def open(self) -> InProcess:
        """Loads model and processor; ConfigError where that is not possible."""
        model, processor = loaded(self, AutoModelForImageTextToText, AutoProcessor)
        return InProcess("vlm", self, model, processor.tokenizer, partial(_inputs, processor, model))


def _inputs(processor: Any, model: Any, messages: Sequence[Message]) -> dict[str, torch.Tensor]:
    turns, images = [], []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        images += [_image(p) for p in parts if p["type"] == "image_url"]
        made = [{"type": "image"} if p["type"] == "image_url" else p for p in parts]
        turns.append({"role": message["role"], "content": made})
    text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    inputs = processor(text=[text], images=images or None, return_tensors="pt")
    return {
        k: v.to(model.device, model.dtype if v.is_floating_point() else v.dtype)
        for k, v in inputs.items()
        if isinstance(v, torch.Tensor)
    }


def _image(part: dict[str, Any]) -> Image.Image:
    url = part["image_url"]["url"]
    if not url.startswith("data:"):
        raise LlmError("llm: llm=vlm reads images given as data, not by address")
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
