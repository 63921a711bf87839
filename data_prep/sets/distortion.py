"""Set `distortion` (VQA² stage 1): the 11 spatial distortions on stills, the 2 motion distortions on clips."""

from data_prep._degrade import TEMPORAL
from data_prep._write import by_split, row
from vqa2.core.config import register
from vqa2.core.records import Clip, Instruction


@register("set", "distortion")
class DistortionSet:
    """`spatial`, `temporal`: question texts; `answer` has the place `{name}`."""

    spatial: str
    temporal: str
    answer: str

    def write(self, clips: list[Clip], seed: int) -> dict[str, list[Instruction]]:
        rows = []
        for clip in clips:
            if not clip.distortions or clip.tags.get("set") == "streaming":
                continue
            name = clip.distortions[0].name
            if (clip.kind == "image") == (name in TEMPORAL):
                continue
            user = self.temporal if name in TEMPORAL else self.spatial
            rows.append(row(clip, "distortion", "", user, self.answer.format(name=name)))
        return by_split(rows)
