"""Sets `distortion_spatial` and `distortion_temporal` (VQA² stage 1): 11 spatial distortions on stills, 2 motion
distortions on clips."""

from collections.abc import Iterable, Iterator
from typing import Literal

from data_prep._degrade import TEMPORAL
from data_prep._write import by_split, row
from vqa2.core.config import register
from vqa2.core.records import Clip, Instruction


@register("set", "distortion")
class DistortionSet:
    """`kind`: which half; `question` is asked, `answer` has the place `{name}`."""

    kind: Literal["image", "video"]
    question: str
    answer: str

    def write(self, clips: list[Clip], seed: int) -> dict[str, list[Instruction]]:
        return by_split(list(self.stream(clips, seed)))

    def stream(self, clips: Iterable[Clip], seed: int) -> Iterator[Instruction]:
        """The rows as the clips come."""
        for clip in clips:
            if not clip.distortions or clip.tags.get("set") == "streaming":
                continue
            name = clip.distortions[0].name
            if clip.kind == self.kind and (clip.kind == "video") == (name in TEMPORAL):
                yield row(clip, "distortion", "", self.question, self.answer.format(name=name))
