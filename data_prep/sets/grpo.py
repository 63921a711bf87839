"""Set `grpo` (VQAThinker): rating prompts without an answer; the rewards compare with the clip's MOS."""

from collections.abc import Iterable, Iterator

from data_prep._write import by_split, rated, row
from vqa2.core.config import register
from vqa2.core.prompts import REASON_QUESTION
from vqa2.core.records import Clip, Instruction


@register("set", "grpo")
class Grpo:
    """The prompt text is vqa2/core/prompts.py's."""

    def write(self, clips: list[Clip], seed: int) -> dict[str, list[Instruction]]:
        return by_split(list(self.stream(clips, seed)))

    def stream(self, clips: Iterable[Clip], seed: int) -> Iterator[Instruction]:
        """The rows as the clips come."""
        return (row(c, "grpo", "", REASON_QUESTION, "") for c in rated(clips))
