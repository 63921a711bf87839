"""Set `grpo` (VQAThinker): rating prompts without an answer; the rewards compare with the clip's MOS."""

from collections.abc import Iterable, Iterator
from typing import Annotated

from annotated_types import MinLen

from data_prep._write import asked, by_split, rated, row
from vqa2.core.config import register
from vqa2.core.records import Clip, Instruction


@register("set", "grpo")
class Grpo:
    """`questions`: wordings, one of which is drawn for a training clip; others get the first."""

    questions: Annotated[tuple[str, ...], MinLen(1)]

    def write(self, clips: list[Clip], seed: int) -> dict[str, list[Instruction]]:
        return by_split(list(self.stream(clips, seed)))

    def stream(self, clips: Iterable[Clip], seed: int) -> Iterator[Instruction]:
        """The rows as the clips come."""
        return (row(c, "grpo", "", asked(self.questions, seed, "grpo", c), "") for c in rated(clips))
