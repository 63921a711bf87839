"""Format reward (VQAThinker, arXiv:2508.06051): one thought and one answer block, and nothing else.

Departs from the released code: white space around the completion is allowed, and the tags may not occur inside the
blocks (the released pattern accepts several thoughts and answers in a row). What the answer says is not looked at.
"""

from typing import Annotated

from annotated_types import Ge

from vqa2.core.config import register
from vqa2.rewards._answer import has_form


@register("reward", "format")
class Format:
    """1 where the whole completion has the form `<think>…</think><answer>…</answer>`, else 0."""

    weight: Annotated[float, Ge(0)]

    def __call__(self, completions: list[str], **_: object) -> list[float | None]:
        """One reward per completion."""
        return [float(has_form(c)) for c in completions]
