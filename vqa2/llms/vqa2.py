"""`llm=vqa2`: a model of ours as the chat model of the agent's roles, as `stage=agent` trains it.

It reads the clip itself, key frames and motion, and the prompt as its training rows have it: both texts in one turn and
no schema, which it has learned. It is greedy, so that a refused reply is not asked for again: it would be the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from vqa2.core.config import register
from vqa2.core.errors import MediaError
from vqa2.core.llm import LlmError, Message, Price, Usage
from vqa2.core.prompts import one_turn
from vqa2.core.records import Query
from vqa2.data.video import VideoSpec
from vqa2.model.predict import Inference, ModelPredictor


@register("llm", "vqa2")
class Ours:
    """`folder`: a saved model; `max_tokens` bounds a reply."""

    folder: str
    device: Literal["cpu", "cuda"]
    max_tokens: Annotated[int, Ge(1)]
    video: VideoSpec

    def open(self) -> "OurBackend":
        """Loads the model; ConfigError where there is none."""
        made = Inference(video=self.video, device=self.device, max_new_tokens=self.max_tokens, workers=0)
        return OurBackend(ModelPredictor.load(Path(self.folder), made))


@dataclass(frozen=True)
class OurBackend:
    """One answer at a time."""

    model: ModelPredictor
    concurrency = 1
    repairs = 0
    price = Price(prompt=0.0, completion=0.0, chars_per_token=4.0)

    @property
    def identity(self) -> dict[str, Any]:
        return {"name": "vqa2", "media": "file", "model": self.model.fingerprint}

    @property
    def max_tokens(self) -> int:
        return self.model.inference.max_new_tokens

    def complete(
        self, messages: Sequence[Message], schema: dict[str, Any] | None, seed: int | None
    ) -> tuple[str, Usage]:
        """Greedy; `schema` is not told and `seed` has no part. LlmError for an unreadable clip and for a prompt that is
        too long."""
        query = _query(messages)
        (answer,) = self.model.answer([query])
        if answer.text is None:
            raise LlmError(f"llm: {answer.error}")
        return answer.text, self._usage(query, answer.text)

    def options(self, messages: Sequence[Message], options: Sequence[str]) -> tuple[list[float | None], Usage]:
        """Log-probability of each option as the whole reply."""
        query = _query(messages)
        try:
            found: list[float | None] = [*self.model.options(query, options)]
        except MediaError as err:
            raise LlmError(f"llm: {err.reason}") from None
        return found, self._usage(query, "")

    def _usage(self, query: Query, text: str) -> Usage:
        """Of the texts; the clip's tokens are not counted."""
        count = self.model.processor.tokenizer.encode
        return Usage(prompt_tokens=len(count(query.question)), completion_tokens=len(count(text)))


def _query(messages: Sequence[Message]) -> Query:
    """The question of a chat of one turn. LlmError for pictures that are no file."""
    system = "".join(str(m["content"]) for m in messages if m["role"] == "system")
    content = messages[-1]["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    files = [p for p in parts if p["type"] == "file"]
    user = "\n".join(p["text"] for p in parts if p["type"] == "text")
    if len(files) > 1 or len(files) + sum(p["type"] == "text" for p in parts) < len(parts):
        raise LlmError("llm: llm=vqa2 reads one clip as a file, the prompt has other parts")
    question = one_turn(system, user, see=bool(files))
    if not files:
        return Query(id="chat", path=Path(), kind="text", question=question)
    return Query(id="chat", path=Path(files[0]["path"]), kind=files[0]["kind"], question=question)
