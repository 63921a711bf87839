"""`llm=local`: an instruction-tuned transformers model in this process; the only llm component that imports torch.

It cannot enforce a schema: the prompt tells it, and `repairs` gives it further attempts.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from transformers import AutoModelForCausalLM, AutoTokenizer

from vqa2.core.config import register
from vqa2.core.errors import ConfigError
from vqa2.core.llm import LlmError, Message, Price, Usage
from vqa2.llms._schema import with_schema


@register("llm", "local")
class Local:
    """`model`: a folder or hub id with a chat template; `temperature` 0 is greedy."""

    model: str
    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "bfloat16"]
    temperature: Annotated[float, Ge(0)]
    max_tokens: Annotated[int, Ge(1)]
    repairs: Annotated[int, Ge(0)]

    def open(self) -> "LocalBackend":
        """Loads the model; ConfigError where that is not possible."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("llm.device: cuda asked for, but there is none; use cpu")
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.model)
            model = AutoModelForCausalLM.from_pretrained(self.model, dtype=getattr(torch, self.dtype))
        except (OSError, ValueError) as err:
            raise ConfigError(f"llm.model: {self.model}: {str(err).splitlines()[0]}") from None
        if tokenizer.chat_template is None:
            raise ConfigError(f"llm.model: {self.model}: its tokenizer has no chat template")
        return LocalBackend(self, model.to(self.device).eval(), tokenizer)


@dataclass(frozen=True)
class LocalBackend:
    """One answer at a time."""

    spec: Local
    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    concurrency = 1
    price = Price(prompt=0.0, completion=0.0, chars_per_token=4.0)

    @property
    def identity(self) -> dict[str, Any]:
        keys = ("model", "dtype", "temperature", "max_tokens")
        return {"name": "local", **{key: value for key, value in asdict(self.spec).items() if key in keys}}

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
        self._check(messages)
        told = [dict(m) for m in with_schema(messages, schema)]
        ids = self.tokenizer.apply_chat_template(
            told, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(self.spec.device)
        prompt = ids["input_ids"].shape[1]
        sampling = {"do_sample": True, "temperature": self.spec.temperature} if self.spec.temperature else {}
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed or 0)
            made = self.model.generate(**ids, max_new_tokens=self.spec.max_tokens, **({"do_sample": False} | sampling))[
                0, prompt:
            ]
        if len(made) == self.spec.max_tokens and made[-1] not in self._ends():
            raise LlmError(f"llm: the answer was cut off at {self.spec.max_tokens} tokens; raise llm.max_tokens")
        text = self.tokenizer.decode(made, skip_special_tokens=True).strip()
        return text, Usage(prompt_tokens=prompt, completion_tokens=len(made))

    def options(self, messages: Sequence[Message], options: Sequence[str]) -> tuple[list[float | None], Usage]:
        """The summed log-probability of each option's tokens after the prompt, one pass each."""
        self._check(messages)
        told = [dict(m) for m in messages]
        ids = self.tokenizer.apply_chat_template(
            told, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        prompt = ids["input_ids"].to(self.spec.device)
        found = [option_logprob(self.model, prompt, {}, self.tokenizer, option) for option in options]
        return found, Usage(prompt_tokens=prompt.shape[1] * len(options))

    def _check(self, messages: Sequence[Message]) -> None:
        if not all(isinstance(m["content"], str) for m in messages):
            raise LlmError("llm: llm=local reads text alone, the prompt has other parts; use llm=vlm or llm=http")

    def _ends(self) -> list[int]:
        ends = self.model.generation_config.eos_token_id
        return ends if isinstance(ends, list) else [ends]


@torch.inference_mode()
def option_logprob(
    model: Any, prompt: torch.Tensor, media: dict[str, torch.Tensor], tokenizer: Any, text: str
) -> float:
    """Log-probability of `text` right after `prompt [1,L]`, summed over its tokens."""
    tail = tokenizer.encode(text, add_special_tokens=False, return_tensors="pt").to(prompt.device)
    ids = torch.cat((prompt, tail), 1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **media}
    logits = model(**inputs, logits_to_keep=tail.shape[1] + 1).logits[0, :-1].float().log_softmax(-1)
    return logits.gather(1, tail[0, :, None]).sum().item()
