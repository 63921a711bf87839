"""`llm=vlm`: any image-text-to-text model of transformers in this process (LLaVA-OneVision, Qwen2.5-VL, InternVL3-hf).

Prompts have the OpenAI form; its `image_url` parts must be data URIs, which become the processor's images. As `local`
it cannot enforce a schema: the prompt tells it, and `repairs` gives it further attempts.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from vqa2.core.config import register
from vqa2.core.errors import ConfigError
from vqa2.core.llm import LlmError, Message, Price, Usage
from vqa2.llms._schema import with_schema
from vqa2.llms.local import option_logprob


@register("llm", "vlm")
class Vlm:
    """`model`: a folder or hub id whose processor has a chat template; `temperature` 0 is greedy."""

    model: str
    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "bfloat16"]
    temperature: Annotated[float, Ge(0)]
    max_tokens: Annotated[int, Ge(1)]
    repairs: Annotated[int, Ge(0)]

    def open(self) -> "VlmBackend":
        """Loads model and processor; ConfigError where that is not possible."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("llm.device: cuda asked for, but there is none; use cpu")
        try:
            processor = AutoProcessor.from_pretrained(self.model)
            model = AutoModelForImageTextToText.from_pretrained(self.model, dtype=getattr(torch, self.dtype))
        except (OSError, ValueError, ImportError) as err:
            raise ConfigError(f"llm.model: {self.model}: {str(err).strip().splitlines()[0]}") from None
        if processor.chat_template is None:
            raise ConfigError(f"llm.model: {self.model}: its processor has no chat template")
        return VlmBackend(self, model.to(self.device).eval(), processor)


@dataclass(frozen=True)
class VlmBackend:
    """One answer at a time."""

    spec: Vlm
    model: Any = field(repr=False)
    processor: Any = field(repr=False)
    concurrency = 1
    price = Price(prompt=0.0, completion=0.0, chars_per_token=4.0)

    @property
    def identity(self) -> dict[str, Any]:
        keys = ("model", "dtype", "temperature", "max_tokens")
        return {"name": "vlm", **{key: value for key, value in asdict(self.spec).items() if key in keys}}

    @property
    def repairs(self) -> int:
        return self.spec.repairs

    @property
    def max_tokens(self) -> int:
        return self.spec.max_tokens

    def complete(
        self, messages: Sequence[Message], schema: dict[str, Any] | None, seed: int | None
    ) -> tuple[str, Usage]:
        """Greedy, or sampled with `seed`, without touching the process's random state."""
        inputs = self._inputs(with_schema(messages, schema))
        prompt = inputs["input_ids"].shape[1]
        sampling = {"do_sample": True, "temperature": self.spec.temperature} if self.spec.temperature else {}
        settings = {"do_sample": False} | sampling
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed or 0)
            made = self.model.generate(**inputs, max_new_tokens=self.spec.max_tokens, **settings)[0, prompt:]
        if len(made) == self.spec.max_tokens and made[-1] not in self._ends():
            raise LlmError(f"llm: the answer was cut off at {self.spec.max_tokens} tokens; raise llm.max_tokens")
        text = self.processor.tokenizer.decode(made, skip_special_tokens=True).strip()
        return text, Usage(prompt_tokens=prompt, completion_tokens=len(made))

    def options(self, messages: Sequence[Message], options: Sequence[str]) -> tuple[list[float | None], Usage]:
        """The summed log-probability of each option's tokens after the prompt, one pass each."""
        inputs = self._inputs(messages)
        prompt = inputs["input_ids"]
        media = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
        tokenizer = self.processor.tokenizer
        found = [option_logprob(self.model, prompt, media, tokenizer, option) for option in options]
        return found, Usage(prompt_tokens=prompt.shape[1] * len(options))

    def _inputs(self, messages: Sequence[Message]) -> dict[str, torch.Tensor]:
        turns, images = [], []
        for message in messages:
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            images += [_image(p) for p in parts if p["type"] == "image_url"]
            made = [{"type": "image"} if p["type"] == "image_url" else p for p in parts]
            turns.append({"role": message["role"], "content": made})
        text = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        inputs = self.processor(text=[text], images=images or None, return_tensors="pt")
        dtype = self.model.dtype
        return {
            k: v.to(self.spec.device, dtype if v.is_floating_point() else v.dtype)
            for k, v in inputs.items()
            if isinstance(v, torch.Tensor)
        }

    def _ends(self) -> list[int]:
        ends = self.model.generation_config.eos_token_id
        return ends if isinstance(ends, list) else [ends]


def _image(part: dict[str, Any]) -> Image.Image:
    url = part["image_url"]["url"]
    if not url.startswith("data:"):
        raise LlmError("llm: llm=vlm reads images given as data, not by address")
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
