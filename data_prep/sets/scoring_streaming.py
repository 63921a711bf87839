"""Set `scoring_streaming` (VQA² stage 2, streaming): clips with stalls; the stall condition is told in words.

Two formats, as in the paper: a 0/1 digit for every frame, and a summary of the stalls.
"""

from data_prep._write import by_split, row, videos
from vqa2.core.config import register
from vqa2.core.prompts import SCORE_PREFIX
from vqa2.core.records import Clip, Instruction
from vqa2.core.scale import level_of


@register("set", "scoring_streaming")
class ScoringStreaming:
    """Texts; `digits` has the place `{stalls}`, `summary` {events} {frames} {percent} {initial} {since}; `smooth`
    stands for no stall; `question` closes both."""

    digits: str
    summary: str
    smooth: str
    question: str

    def write(self, clips: list[Clip], seed: int) -> dict[str, list[Instruction]]:
        rows = []
        for clip in videos(clips, streaming=True):
            answer = f"{SCORE_PREFIX} {level_of(clip.mos)}."
            mask = stall_mask(clip)
            for suffix, told in (("-digits", self.digits.format(stalls="".join(mask))), ("-summary", self._told(mask))):
                user = f"<video>\n{told} {self.question}"
                rows.append(row(clip, "scoring", suffix, user, answer, format=suffix[1:]))
        return by_split(rows)

    def _told(self, mask: list[str]) -> str:
        if "1" not in mask:
            return self.smooth
        text = "".join(mask)
        initial = len(text) - len(text.lstrip("1"))
        return self.summary.format(
            events=sum(1 for run in text.split("0") if run),
            frames=text.count("1"),
            percent=round(100 * text.count("1") / len(text)),
            initial=initial,
            since=len(text) - text.rindex("1") - 1,
        )


def stall_mask(clip: Clip) -> list[str]:
    """One digit per frame of the played clip: 1 where it stalls."""
    fps, count = int(clip.tags["fps"]), int(clip.tags["frames"])
    mask = ["0"] * count
    for stall in clip.stalls:
        start = round(stall.start_s * fps)
        mask[start : start + round(stall.length_s * fps)] = ["1"] * round(stall.length_s * fps)
    assert len(mask) == count
    return mask
