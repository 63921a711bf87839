"""Set `clips`: what the source drew for a set, a line a clip, without a question: to be written about by people.

With `overall` (and `in_context`) added to each line it is the file that `python -m data_prep extend` reads.
"""

from collections.abc import Iterable, Iterator

from data_prep._write import row
from vqa2.core.config import register
from vqa2.core.records import Clip, Instruction


@register("set", "clips")
class Clips:
    """Nothing to set: the clips are the source's."""

    def stream(self, clips: Iterable[Clip], seed: int) -> Iterator[Instruction]:
        """A row without an answer for every clip."""
        return (row(clip, "depict", "", "<video>", "") for clip in clips)
