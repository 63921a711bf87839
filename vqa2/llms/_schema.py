"""Telling a model about the JSON it must reply with, for backends that cannot enforce a schema."""

import json
from collections.abc import Sequence
from typing import Any

from vqa2.core.llm import Message


def with_schema(messages: Sequence[Message], schema: dict[str, Any] | None) -> list[Message]:
    """The messages, the schema appended to the system message (or put before them as one)."""
    if schema is None:
        return list(messages)
    told = f"Reply with one JSON object and nothing else. Its JSON schema: {json.dumps(schema, sort_keys=True)}"
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": told}, *messages]
    return [{"role": "system", "content": f"{messages[0]['content']}\n{told}"}, *messages[1:]]
