"""Set `scoring_ugc` (VQA² stage 2): a clip and its level, five 20-point bins of MOS on 0-100."""

from collections.abc import Iterable, Iterator

from data_prep._write import by_split, rated, row
from vqa2.core.config import register
from vqa2.core.prompts import SCORE_PREFIX, SCORE_QUESTION
from vqa2.core.records import Clip, Instruction
from vqa2.core.scale import level_of


@register("set", "scoring_ugc")
class ScoringUgc:
    """The question and answer texts are those of the level score (vqa2/core/prompts.py)."""

    def write(self, clips: list[Clip], seed: int) -> dict[str, list[Instruction]]:
        return by_split(list(self.stream(clips, seed)))

    def stream(self, clips: Iterable[Clip], seed: int) -> Iterator[Instruction]:
        """The rows as the clips come."""
        return (
            row(c, "scoring", "", SCORE_QUESTION, f"{SCORE_PREFIX} {level_of(c.mos)}.", content=c.content)
            for c in rated(clips)
        )
