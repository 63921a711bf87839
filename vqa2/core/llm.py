"""Chat with a language model: one cached, checked call for data preparation, judges and agents.

    llm = open_llm({"name": "http", ...}, cache=Path("llm.sqlite"), where="llm")
    reply = llm.chat([{"role": "user", "content": "..."}], schema=MyModel, seed=0)
    reply.text, reply.parsed, reply.cached, reply.usage
    llm.choose([...], ["A", "B"]).logprobs      # of each option as the begin of the answer

Backends are components of kind `llm` (vqa2/llms): `http`, `local`, `vlm`, `scripted`, and `rules`, which is no model:
the caller's own deterministic rules answer. Every reply is on disk before it is used, under a hash of everything that
can change it, so a killed run continues and nothing that was answered is asked again. Refused replies are kept too,
with the reason; they are asked for again `repairs` times, the model being told what was wrong.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError

from vqa2.core._llm_cache import Cache, Row
from vqa2.core.config import build
from vqa2.core.errors import UserError

Message = Mapping[str, Any]
"""`{"role": ..., "content": ...}` as the OpenAI API has it; `content` may be a list of text and image parts."""

_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?```\s*\Z", re.DOTALL)


class LlmError(UserError):
    """This request failed for good (time-outs, 5xx, refused by the endpoint); others may succeed."""


class LlmUnavailable(UserError):
    """No request can succeed: wrong key, no such model, nothing listens. The run must stop."""


class BadReply(LlmError):
    """Every attempt was answered, none fits the schema. `rejected` holds (text, reason) of each."""

    def __init__(self, rejected: Sequence[tuple[str, str]]) -> None:
        super().__init__(f"{len(rejected)} replies refused, the last: {rejected[-1][1]}")
        self.rejected = tuple(rejected)


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens as the backend counts them; `model`: who answered, by the backend's own word (empty: it does not say)."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    model: str = ""

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            model=other.model or self.model,
        )


@dataclass(frozen=True, kw_only=True)
class Reply:
    """`parsed` is the schema's object, None without a schema; `cached`: nothing was asked for it; `usage` sums over the
    attempts, cached ones too; `rejected`: (text, reason) of attempts before this one."""

    text: str
    parsed: Any
    cached: bool
    usage: Usage
    rejected: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Log-probabilities in the order of the options, None for one that the backend did not show."""

    logprobs: tuple[float | None, ...]
    cached: bool
    usage: Usage


@dataclass(frozen=True, kw_only=True)
class Request:
    """One chat: `schema` is a pydantic model that the reply must be, as JSON and nothing else."""

    messages: tuple[Message, ...]
    schema: type[BaseModel] | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Price:
    """Of a million tokens, in any currency; None where unknown. `chars_per_token` makes the estimate."""

    prompt: float | None
    completion: float | None
    chars_per_token: float


class Backend(Protocol):
    """What answers. `identity` is every setting that can change an answer and enters the cache's key; where its `media`
    is `file`, agents send `{"type": "file", "path", "kind", "content"}` in place of frames."""

    identity: dict[str, Any]
    concurrency: int
    repairs: int
    max_tokens: int
    price: Price

    def complete(
        self, messages: Sequence[Message], schema: dict[str, Any] | None, seed: int | None
    ) -> tuple[str, Usage]:
        """One answer. Waits and tries again by itself; LlmError or LlmUnavailable where that is of no use."""

    def options(self, messages: Sequence[Message], options: Sequence[str]) -> tuple[list[float | None], Usage]:
        """Log-probability of each option as the begin of the answer; None where the backend does not tell it."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run would ask at most, before repairs. `cost` is None where a price is unknown."""

    requests: int
    cached: int
    usage: Usage
    cost: float | None

    def __str__(self) -> str:
        cost = "cost unknown (no price set)" if self.cost is None else f"cost at most {self.cost:.2f}"
        tokens = f"about {self.usage.prompt_tokens:,} tokens in, at most {self.usage.completion_tokens:,} out"
        return f"{self.requests:,} requests, {self.cached:,} answered already; to ask: {tokens}; {cost}"


class Llm:
    """A backend with its cache. Safe to call from several threads."""

    def __init__(self, backend: Backend, cache: Path) -> None:
        self.backend, self._cache = backend, Cache(cache)

    def chat(
        self, messages: Sequence[Message], schema: type[BaseModel] | None = None, seed: int | None = None
    ) -> Reply:
        """The reply to one chat. BadReply where no attempt fits `schema`; else LlmError, LlmUnavailable."""
        turns, rejected, usage, cached = list(messages), [], Usage(), True
        for _ in range(1 + self.backend.repairs):
            text, used, found = self._ask(Request(messages=tuple(turns), schema=schema, seed=seed))
            usage, cached = usage + used, cached and found
            if schema is None:
                return Reply(text=text, parsed=None, cached=cached, usage=usage)
            try:
                parsed = parse(text, schema)
            except ValueError as err:
                rejected.append((text, str(err)))
                # The earlier attempts stay in the chat: asked the same again, the cache would give the same reply.
                turns += [{"role": "assistant", "content": text}, _repair(str(err))]
                continue
            return Reply(text=text, parsed=parsed, cached=cached, usage=usage, rejected=tuple(rejected))
        raise BadReply(rejected)

    def choose(self, messages: Sequence[Message], options: Sequence[str]) -> Choice:
        """Log-probabilities of the options. LlmError where not one of them is known."""
        key = self._hash(list(messages), list(options), "options")
        with self._cache.lock(key):
            row, cached = self._cache.get(key), True
            if row is None:
                found, usage = self.backend.options(messages, options)
                if all(value is None for value in found):
                    raise LlmError(f"llm: none of the options {', '.join(options)} is among the likely answers")
                row, cached = (json.dumps(found), usage.prompt_tokens, usage.completion_tokens, usage.model), False
                row = self._cache.put(key, list(messages), row)
        return Choice(logprobs=tuple(json.loads(row[0])), cached=cached, usage=_usage(row))

    def chat_all(
        self, requests: Iterable[Request], advance: Callable[[], None], give_up_after: int
    ) -> Iterator[Reply | LlmError]:
        """Replies in the order of the requests, failures in their place; `concurrency` are asked at a time.

        LlmUnavailable ends it, and so do `give_up_after` failed requests in a row that were not answered at all. The
        requests are read as they are needed, so memory does not grow with their number.
        """
        source, failures = iter(requests), 0
        pool = ThreadPoolExecutor(self.backend.concurrency)
        window: list[Future[Reply | LlmError]] = []
        try:
            window += [pool.submit(self._outcome, r) for r in islice(source, 4 * self.backend.concurrency)]
            while window:
                outcome = window.pop(0).result()
                window += [pool.submit(self._outcome, r) for r in islice(source, 1)]
                unanswered = isinstance(outcome, LlmError) and not isinstance(outcome, BadReply)
                failures = failures + 1 if unanswered else 0
                if failures >= give_up_after:
                    raise LlmUnavailable(f"llm: {failures} requests in a row failed, the last: {outcome}")
                advance()
                yield outcome
        finally:
            # Those in flight are waited for: their answers are paid for and go to the cache.
            pool.shutdown(cancel_futures=True)

    def estimate(self, requests: Iterable[Request]) -> Estimate:
        """Tokens and cost of what is not answered yet; repairs are not foreseen."""
        count = cached = prompt = 0
        price = self.backend.price
        for request in requests:
            count += 1
            if self._cache.get(self._key(request)) is None:
                prompt += round(sum(_chars(m) for m in request.messages) / price.chars_per_token)
            else:
                cached += 1
        usage = Usage(prompt_tokens=prompt, completion_tokens=(count - cached) * self.backend.max_tokens)
        cost = None
        if price.prompt is not None and price.completion is not None:
            cost = (usage.prompt_tokens * price.prompt + usage.completion_tokens * price.completion) / 1e6
        return Estimate(requests=count, cached=cached, usage=usage, cost=cost)

    def _outcome(self, request: Request) -> Reply | LlmError:
        try:
            return self.chat(request.messages, request.schema, request.seed)
        except LlmError as err:
            return err

    def _ask(self, request: Request) -> tuple[str, Usage, bool]:
        """(text, usage, whether it was cached). Two threads with one question ask it once."""
        key = self._key(request)
        with self._cache.lock(key):
            row = self._cache.get(key)
            if row is not None:
                return row[0], _usage(row), True
            schema = request.schema.model_json_schema() if request.schema else None
            text, usage = self.backend.complete(request.messages, schema, request.seed)
            row = (text, usage.prompt_tokens, usage.completion_tokens, usage.model)
            row = self._cache.put(key, list(request.messages), row)
            return row[0], _usage(row), False

    def _key(self, request: Request) -> str:
        schema = request.schema.model_json_schema() if request.schema else None
        return self._hash(list(request.messages), schema, request.seed)

    def _hash(self, *asked: Any) -> str:
        return hashlib.sha256(json.dumps([self.backend.identity, *asked], sort_keys=True).encode()).hexdigest()


def _usage(row: Row) -> Usage:
    return Usage(prompt_tokens=row[1], completion_tokens=row[2], model=row[3])


def open_llm(values: Mapping[str, Any], cache: Path, where: str) -> Llm | None:
    """The component that `values` describe with its cache file; None for `rules`, which is no model."""
    backend = build("llm", values, where).open()
    return None if backend is None else Llm(backend, cache)


def parse(text: str, schema: type[BaseModel]) -> BaseModel:
    """The reply as an object of `schema`, strictly: JSON and nothing else, one code fence around it allowed. ValueError
    says in one line what is wrong."""
    fenced = _FENCE.match(text)
    try:
        return schema.model_validate_json(fenced[1] if fenced else text, strict=True)
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        where = ".".join(str(x) for x in first["loc"])
        raise ValueError(" ".join(f"{where or 'reply'}: {first['msg']}".split())) from None


def _repair(reason: str) -> Message:
    said = f"This reply was refused: {reason}. Reply again with the JSON object alone."
    return {"role": "user", "content": said}


def _chars(message: Message) -> int:
    content = message["content"]
    if isinstance(content, str):
        return len(content)
    return sum(len(part.get("text", "")) for part in content)
