"""Set `grpo` (VQAThinker): rating prompts without an answer; the rewards compare with the clip's MOS."""

from data_prep._write import by_split, row, videos
from vqa2.core.config import register
from vqa2.core.prompts import REASON_QUESTION
from vqa2.core.records import Clip, Instruction


@register("set", "grpo")
class Grpo:
    """The prompt text is vqa2/core/prompts.py's."""

    def write(self, clips: list[Clip], seed: int) -> dict[str, list[Instruction]]:
        return by_split([row(c, "grpo", "", REASON_QUESTION, "") for c in videos(clips)])
