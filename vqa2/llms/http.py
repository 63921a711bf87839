"""`llm=http`: any OpenAI-compatible endpoint, through the `openai` client.

Base URL and key come from the environment (vqa2/core/run.py). The client backs off exponentially on 408, 409, 429, 5xx,
time-outs and broken connections and obeys Retry-After; a body that is no chat completion is asked for again as well.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import openai
from annotated_types import Ge, Gt, Interval
from openai.types.chat import ChatCompletion
from openai.types.chat.chat_completion_token_logprob import TopLogprob

from vqa2.core.config import register
from vqa2.core.llm import LlmError, LlmUnavailable, Message, Price, Usage
from vqa2.core.run import Endpoint, llm_endpoint
from vqa2.llms._schema import with_schema

_HOPELESS = {
    401: "the endpoint refuses the key",
    403: "the key may not use this model",
    404: "no such model or path; OPENAI_BASE_URL usually ends with /v1",
}
_TOP = 20
"""First tokens whose log-probabilities are asked for: the API's limit."""
_SHOWN = 200
"""Characters of an endpoint's error text that are shown."""


@register("llm", "http")
class Http:
    """`temperature`, `top_p`: null leaves them to the endpoint (some models refuse them). `limit_field`: how the
    endpoint calls the limit of `max_tokens`. `json_mode`: `schema` is enforced by the endpoint (response_format
    json_schema), `object` asks for some JSON object, `none` only for text; the last two tell the schema in the prompt.
    `timeout_s`: seconds without a byte. `retries` of failed calls, `repairs` of refused replies. Prices per million
    tokens."""

    model: str
    temperature: Annotated[float, Ge(0)] | None
    top_p: Annotated[float, Interval(gt=0, le=1)] | None
    max_tokens: Annotated[int, Ge(1)]
    limit_field: Literal["max_tokens", "max_completion_tokens"]
    json_mode: Literal["schema", "object", "none"]
    concurrency: Annotated[int, Ge(1)]
    timeout_s: Annotated[float, Gt(0)]
    retries: Annotated[int, Ge(0)]
    repairs: Annotated[int, Ge(0)]
    price_prompt: Annotated[float, Ge(0)] | None
    price_completion: Annotated[float, Ge(0)] | None
    chars_per_token: Annotated[float, Gt(0)]

    def open(self) -> "HttpBackend":
        """A client for the endpoint of the environment; ConfigError where that names none."""
        endpoint = llm_endpoint()
        client = openai.OpenAI(
            base_url=endpoint.url, api_key=endpoint.key, timeout=self.timeout_s, max_retries=self.retries
        )
        return HttpBackend(self, client, endpoint)


@dataclass(frozen=True)
class HttpBackend:
    """Calls the endpoint. The base URL is no part of `identity`: one model may be served in several places."""

    spec: Http
    client: openai.OpenAI
    endpoint: Endpoint

    @property
    def identity(self) -> dict[str, Any]:
        keys = ("model", "temperature", "top_p", "max_tokens", "json_mode")
        return {"name": "http", **{key: value for key, value in asdict(self.spec).items() if key in keys}}

    @property
    def concurrency(self) -> int:
        return self.spec.concurrency

    @property
    def repairs(self) -> int:
        return self.spec.repairs

    @property
    def max_tokens(self) -> int:
        return self.spec.max_tokens

    @property
    def price(self) -> Price:
        return Price(
            prompt=self.spec.price_prompt,
            completion=self.spec.price_completion,
            chars_per_token=self.spec.chars_per_token,
        )

    def complete(
        self, messages: Sequence[Message], schema: dict[str, Any] | None, seed: int | None
    ) -> tuple[str, Usage]:
        """One answer; LlmError where this request has none, LlmUnavailable where none will have."""
        return self._text(self._call(self._arguments(messages, schema, seed)))

    def options(self, messages: Sequence[Message], options: Sequence[str]) -> tuple[list[float | None], Usage]:
        """Read off the 20 likeliest first tokens; an option that is not among them is None."""
        arguments = self._arguments(messages, None, None) | {self.spec.limit_field: 1, "logprobs": True}
        made = self._call(arguments | {"top_logprobs": _TOP})
        told = made.choices[0].logprobs
        if told is None or not told.content:
            raise LlmError("llm: the endpoint gives no log-probabilities")
        return [_likely(option, told.content[0].top_logprobs) for option in options], _usage(made)

    def _call(self, arguments: dict[str, Any]) -> ChatCompletion:
        for _ in range(1 + self.spec.retries):
            try:
                made = self.client.chat.completions.create(**arguments)
            except openai.APIStatusError as err:
                raise self._error(err) from None
            except openai.APIConnectionError as err:
                kind = "no answer in time" if isinstance(err, openai.APITimeoutError) else "cannot be reached"
                raise LlmError(f"llm: the endpoint: {kind}, tried {1 + self.spec.retries} times") from None
            except (ValueError, openai.APIResponseValidationError):
                continue
            if isinstance(made, ChatCompletion) and made.choices:
                return made
        raise LlmError(f"llm: the endpoint's body is no chat completion, tried {1 + self.spec.retries} times")

    def _arguments(self, messages: Sequence[Message], schema: dict[str, Any] | None, seed: int | None) -> dict:
        enforced = self.spec.json_mode == "schema"
        arguments: dict[str, Any] = {
            "model": self.spec.model,
            "messages": list(messages) if enforced else with_schema(messages, schema),
            self.spec.limit_field: self.spec.max_tokens,
        }
        for key, value in (("temperature", self.spec.temperature), ("top_p", self.spec.top_p), ("seed", seed)):
            if value is not None:
                arguments[key] = value
        if schema is not None and enforced:
            form = {"name": "reply", "schema": schema, "strict": True}
            arguments["response_format"] = {"type": "json_schema", "json_schema": form}
        elif schema is not None and self.spec.json_mode == "object":
            arguments["response_format"] = {"type": "json_object"}
        return arguments

    def _text(self, made: ChatCompletion) -> tuple[str, Usage]:
        first = made.choices[0]
        if first.finish_reason == "length":
            raise LlmError(f"llm: the answer was cut off at {self.spec.max_tokens} tokens; raise llm.max_tokens")
        if not first.message.content:
            raise LlmError(f"llm: an answer without text (finish_reason {first.finish_reason})")
        return first.message.content, _usage(made)

    def _error(self, err: openai.APIStatusError) -> LlmError | LlmUnavailable:
        if err.status_code in _HOPELESS:
            return LlmUnavailable(f"llm: {err.status_code}: {_HOPELESS[err.status_code]}")
        if err.code == "insufficient_quota":
            return LlmUnavailable("llm: 429: the account has no quota left")
        # Some endpoints repeat what they were sent.
        said = " ".join(err.message.split()).replace(self.endpoint.key, "***")
        return LlmError(f"llm: {err.status_code} after {self._tries(err.status_code)}: {said[:_SHOWN]}")

    def _tries(self, status: int) -> str:
        again = status in (408, 409, 429) or status >= 500
        return f"{1 + self.spec.retries} tries" if again else "one try"


def _usage(made: ChatCompletion) -> Usage:
    usage = made.usage
    if usage is None:
        return Usage(model=made.model or "")
    return Usage(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens, model=made.model or "")


def _likely(option: str, tokens: Sequence[TopLogprob]) -> float | None:
    """The summed probability of the tokens that are the option, blanks aside (`A` and ` A`)."""
    same = [math.exp(t.logprob) for t in tokens if t.token.strip() == option]
    return math.log(sum(same)) if sum(same) > 0 else None
