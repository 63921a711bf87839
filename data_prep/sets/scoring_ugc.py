"""Set `scoring_ugc` (VQA² stage 2): a clip and its level, five 20-point bins of MOS on 0-100."""

from collections.abc import Iterable, Iterator
from typing import Annotated

from annotated_types import MinLen

from data_prep._write import asked, by_split, rated, row
from vqa2.core.config import register
from vqa2.core.prompts import SCORE_PREFIX
from vqa2.core.records import Clip, Instruction
from vqa2.core.scale import level_of


@register("set", "scoring_ugc")
class ScoringUgc:
    """`questions`: wordings, one of which is drawn for a training clip; others get the first. The answer begins as the
    level score does (vqa2/core/prompts.py)."""

    questions: Annotated[tuple[str, ...], MinLen(1)]

    def write(self, clips: list[Clip], seed: int) -> dict[str, list[Instruction]]:
        return by_split(list(self.stream(clips, seed)))

    def stream(self, clips: Iterable[Clip], seed: int) -> Iterator[Instruction]:
        """The rows as the clips come."""
        for clip in rated(clips):
            question = asked(self.questions, seed, "scoring_ugc", clip)
            yield row(clip, "scoring", "", question, f"{SCORE_PREFIX} {level_of(clip.mos)}.", content=clip.content)
