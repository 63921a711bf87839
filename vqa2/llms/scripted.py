"""`llm=scripted`: answers from a table, for tests and demonstrations without a model."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vqa2.core.config import register
from vqa2.core.errors import ConfigError
from vqa2.core.llm import LlmError, Message, Price, Usage


@register("llm", "scripted")
class Scripted:
    """`replies`: regular expression -> answer; the first that is found in the last message's text answers."""

    replies: dict[str, str]

    def open(self) -> "ScriptedBackend":
        for pattern in self.replies:
            try:
                re.compile(pattern)
            except re.error as err:
                raise ConfigError(f"llm.replies: {pattern!r} is no regular expression: {err}") from None
        return ScriptedBackend(self.replies)


@dataclass(frozen=True)
class ScriptedBackend:
    """A prompt that no expression fits is an LlmError."""

    replies: dict[str, str]
    concurrency = 1
    repairs = 0
    max_tokens = 0
    price = Price(prompt=0.0, completion=0.0, chars_per_token=4.0)

    @property
    def identity(self) -> dict[str, Any]:
        return {"name": "scripted", "replies": self.replies}

    def complete(
        self, messages: Sequence[Message], schema: dict[str, Any] | None, seed: int | None
    ) -> tuple[str, Usage]:
        return self._reply(messages), Usage()

    def options(self, messages: Sequence[Message], options: Sequence[str]) -> tuple[list[float | None], Usage]:
        """The reply is a JSON list with a number or null per option."""
        text = self._reply(messages)
        try:
            found = json.loads(text)
        except json.JSONDecodeError:
            found = None
        if not isinstance(found, list) or len(found) != len(options):
            raise LlmError(f"llm: the scripted reply {text[:40]!r} is no list of {len(options)} log-probabilities")
        return found, Usage()

    def _reply(self, messages: Sequence[Message]) -> str:
        asked = messages[-1]["content"]
        for pattern, answer in self.replies.items():
            if re.search(pattern, asked if isinstance(asked, str) else str(asked)):
                return answer
        raise LlmError(f"llm: no scripted reply fits {str(asked)[:80]!r}")
