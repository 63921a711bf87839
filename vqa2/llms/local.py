"""`llm=local`: an instruction-tuned transformers model in this process, for prompts of text alone."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from transformers import AutoModelForCausalLM, AutoTokenizer

from vqa2.core.config import register
from vqa2.core.llm import LlmError, Message
from vqa2.llms._inprocess import InProcess, loaded


@register("llm", "local")
class Local:
    """`model`: a folder or hub id with a chat template; `temperature` 0 is greedy."""

    model: str
    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "bfloat16"]
    temperature: Annotated[float, Ge(0)]
    max_tokens: Annotated[int, Ge(1)]
    repairs: Annotated[int, Ge(0)]

    def open(self) -> InProcess:
        """Loads the model; ConfigError where that is not possible."""
        model, tokenizer = loaded(self, AutoModelForCausalLM, AutoTokenizer)
        return InProcess("local", self, model, tokenizer, partial(_inputs, tokenizer, self.device))


def _inputs(tokenizer: Any, device: str, messages: Sequence[Message]) -> dict[str, torch.Tensor]:
    if not all(isinstance(m["content"], str) for m in messages):
        raise LlmError("llm: llm=local reads text alone, the prompt has other parts; use llm=vlm or llm=http")
    told = [dict(m) for m in messages]
    made = tokenizer.apply_chat_template(told, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    return dict(made.to(device))
