"""A transformers model in this process as a language-model backend: what `llm=local` and `llm=vlm` share.

It cannot enforce a schema: the prompt tells it, and `repairs` gives it further attempts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from vqa2.core.errors import ConfigError
from vqa2.core.llm import LlmError, Message, Price, Usage
from vqa2.llms._schema import with_schema

Inputs = Callable[[Sequence[Message]], dict[str, torch.Tensor]]
"""Messages -> the model's inputs for one prompt, on its device; `input_ids [1,L]` among them."""


class Settings(Protocol):
    """What the components say about their model; `temperature` 0 is greedy."""

    model: str
    device: str
    dtype: str
    temperature: float
    max_tokens: int
    repairs: int


def loaded(settings: Settings, model_class: Any, reader_class: Any) -> tuple[Any, Any]:
    """(model, tokenizer or processor); ConfigError where they cannot be loaded or no chat template is there."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("llm.device: cuda asked for, but there is none; use cpu")
    try:
        reader = reader_class.from_pretrained(settings.model)
        model = model_class.from_pretrained(settings.model, dtype=getattr(torch, settings.dtype))
    except (OSError, ValueError, ImportError) as err:
        raise ConfigError(f"llm.model: {settings.model}: {str(err).strip().splitlines()[0]}") from None
    if reader.chat_template is None:
        raise ConfigError(f"llm.model: {settings.model}: no chat template")
    return model.to(settings.device).eval(), reader


@dataclass(frozen=True)
class InProcess:
    """One answer at a time."""

    name: str
    settings: Settings
    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    inputs: Inputs = field(repr=False)
    concurrency = 1
    price = Price(prompt=0.0, completion=0.0, chars_per_token=4.0)

    @property
    def identity(self) -> dict[str, Any]:
        told = self.settings
        return {
            "name": self.name,
            "model": told.model,
            "dtype": told.dtype,
            "temperature": told.temperature,
            "max_tokens": told.max_tokens,
        }

    @property
    def repairs(self) -> int:
        return self.settings.repairs

    @property
    def max_tokens(self) -> int:
        return self.settings.max_tokens

    def complete(
        self, messages: Sequence[Message], schema: dict[str, Any] | None, seed: int | None
    ) -> tuple[str, Usage]:
        """Greedy, or sampled with `seed`, without touching the process's random state."""
        inputs = self.inputs(with_schema(messages, schema))
        prompt, most = inputs["input_ids"].shape[1], self.max_tokens
        hot = self.settings.temperature
        sampling = {"do_sample": True, "temperature": hot} if hot else {"do_sample": False}
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed or 0)
            made = self.model.generate(**inputs, max_new_tokens=most, **sampling)[0, prompt:]
        if len(made) == most and made[-1] not in self._ends():
            raise LlmError(f"llm: the answer was cut off at {most} tokens; raise llm.max_tokens")
        text = self.tokenizer.decode(made, skip_special_tokens=True).strip()
        return text, Usage(prompt_tokens=prompt, completion_tokens=len(made))

    def options(self, messages: Sequence[Message], options: Sequence[str]) -> tuple[list[float | None], Usage]:
        """The summed log-probability of each option's tokens after the prompt, one pass each."""
        inputs = self.inputs(messages)
        found: list[float | None] = [self._logprob(inputs, option) for option in options]
        return found, Usage(prompt_tokens=inputs["input_ids"].shape[1] * len(options))

    @torch.inference_mode()
    def _logprob(self, inputs: dict[str, torch.Tensor], text: str) -> float:
        prompt = inputs["input_ids"]
        tail = self.tokenizer.encode(text, add_special_tokens=False, return_tensors="pt").to(prompt.device)
        ids = torch.cat((prompt, tail), 1)
        # Some processors say of every token whether it is text (0) or a picture's: the option is text.
        kinds = {k: F.pad(v, (0, tail.shape[1])) for k, v in inputs.items() if k.endswith("token_type_ids")}
        whole = inputs | kinds | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        logits = self.model(**whole, logits_to_keep=tail.shape[1] + 1).logits[0, :-1].float().log_softmax(-1)
        return logits.gather(1, tail[0, :, None]).sum().item()

    def _ends(self) -> list[int]:
        ends = self.model.generation_config.eos_token_id
        return ends if isinstance(ends, list) else [ends]
