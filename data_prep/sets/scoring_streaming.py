"""Set `scoring_streaming` (VQA² stage 2, streaming): clips with stalls; the stall condition is told in words.

Two formats, as in the paper: a 0/1 digit for every frame, and a summary of the stalls.
"""

from collections.abc import Iterable, Iterator

from data_prep._write import by_split, rated, row
from vqa2.core.config import register
from vqa2.core.prompts import SCORE_PREFIX
from vqa2.core.records import Clip, Instruction
from vqa2.core.scale import level_of


@register("set", "scoring_streaming")
class ScoringStreaming:
    """Texts. `user` has the places {told} and {question}, and {seconds}, {images} (key frames), {frames} of the clip
    and {motion_frames} (its multiple of 4). `digits` has {stalls}; `summary` {events}, {frames}, {percent}, {since},
    {since_percent}, {initial} (frames of initial buffering), {durations}, for which `several` stands where there is
    more than one stall, and {buffering}, for which `initial` stands where there is some; `smooth` stands for no stall.
    `question` closes both formats."""

    user: str
    digits: str
    summary: str
    several: str
    initial: str
    smooth: str
    question: str

    def write(self, clips: list[Clip], seed: int) -> dict[str, list[Instruction]]:
        return by_split(list(self.stream(clips, seed)))

    def stream(self, clips: Iterable[Clip], seed: int) -> Iterator[Instruction]:
        """The rows as the clips come: first the digits, then the summary."""
        for clip in rated(clips, streaming=True):
            answer = f"{SCORE_PREFIX} {level_of(clip.mos)}."
            mask = stall_mask(clip)
            rate = max(1, round(float(clip.tags["fps"])))
            sizes = {"seconds": f"{len(mask) / float(clip.tags['fps']):.1f}", "frames": len(mask),
                     "images": -(-len(mask) // rate), "motion_frames": len(mask) // 4 * 4}  # fmt: skip
            for suffix, told in (("-digits", self.digits.format(stalls=mask)), ("-summary", self._told(mask))):
                user = self.user.format(told=told, question=self.question, **sizes)
                yield row(clip, "scoring", suffix, user, answer, format=suffix[1:], content=clip.content)

    def _told(self, mask: str) -> str:
        if "1" not in mask:
            return self.smooth
        runs = [len(run) for run in mask.split("0") if run]
        initial = len(mask) - len(mask.lstrip("1"))
        since = len(mask) - mask.rindex("1") - 1
        return self.summary.format(
            events=len(runs),
            frames=sum(runs),
            percent=100 * sum(runs) / len(mask),
            durations=self.several.format(durations=", ".join(map(str, runs))) if len(runs) > 1 else "",
            buffering=self.initial.format(initial=initial) if initial else "",
            initial=initial,
            since=since,
            since_percent=100 * since / len(mask),
        )


def stall_mask(clip: Clip) -> str:
    """One digit per frame of the played clip: 1 where it stalls."""
    fps, count = float(clip.tags["fps"]), int(clip.tags["frames"])
    mask = ["0"] * count
    for stall in clip.stalls:
        start = round(stall.start_s * fps)
        mask[start : start + round(stall.length_s * fps)] = ["1"] * round(stall.length_s * fps)
    # Start and length of a stall at the very end are rounded apart.
    assert len(mask) <= count + 1
    return "".join(mask[:count])
