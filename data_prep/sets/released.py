"""Set `released`: the instruction files that VQA² published, as they are (facts: `image` holds a video's path, the
first `<image>` of the text stands for its key frames and the second for its motion features)."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, MinLen

from data_prep._rows import Bad, json_items
from data_prep.sources.labelled import Excluded
from vqa2.core.config import register
from vqa2.core.records import Clip, Instruction, Turn

MARK = re.compile("<image>")


@register("set", "released")
class Released:
    """`files`: the JSON files in `folder` and how many records each should hold; `task` of their rows. Their videos lie
    under the data root by the paths that the rows name; `folders` gives another folder to a first part of these paths.
    `disk_gb`: all these files, without videos."""

    files: Annotated[dict[str, Annotated[int, Ge(1)]], MinLen(1)]
    folder: str
    task: str
    folders: dict[str, str]
    license: str
    obtain: str
    disk_gb: Annotated[float, Gt(0)]

    def inputs(self) -> list[Path]:
        """The JSON files."""
        return [Path(self.folder) / name for name in self.files]

    def stream(self, clips: Iterable[Clip], seed: int) -> Iterator[Instruction | Excluded]:
        """The rows of the files, in order, and what cannot be used; a file with another number of records than it
        should hold is listed, too. `clips` are not asked: the files name their own."""
        for path, expected in zip(self.inputs(), self.files.values(), strict=True):
            found = 0
            for item in json_items(path, None):
                found += 1
                if isinstance(item, Bad):
                    yield Excluded(source="released", where=item.where, id="", reason=item.reason)
                    continue
                yield self._row(path.stem, *item)
            if found != expected:
                reason = f"other count: {found} records, {expected} expected"
                yield Excluded(source="released", where=path.name, id="", reason=reason)

    def _row(self, stem: str, where: str, item: Any) -> Instruction | Excluded:
        turns = _turns(item.get("conversations")) if isinstance(item, dict) else "broken row: no record"
        media = item.get("image") if isinstance(item, dict) else None
        if isinstance(turns, str):
            return Excluded(source="released", where=where, id=str(media or ""), reason=turns)
        if not isinstance(media, str) or not media:
            return Excluded(source="released", where=where, id="", reason="broken row: `image` names no file")
        first, _, rest = media.partition("/")
        score = item.get("gt_score")
        return Instruction(
            id=f"{stem}#{where.rpartition('#')[2]}",
            clip_id=media,
            kind="video" if "frames per sec" in item else "image",
            media=f"{self.folders.get(first, first)}/{rest}" if rest else media,
            task=self.task,
            turns=turns,
            tags={"split": "train", "file": stem} | ({} if score is None else {"gt_score": str(score)}),
        )


def _turns(conversations: Any) -> tuple[Turn, ...] | str:
    """The exchanges, or why they cannot be used."""
    match conversations:
        case [*pairs] if pairs and len(pairs) % 2 == 0:
            out = []
            for asked, told in zip(pairs[::2], pairs[1::2]):
                match asked, told:
                    case {"from": "human", "value": str(user)}, {"from": "gpt", "value": str(answer)}:
                        out.append(Turn(user=user, assistant=answer))
                    case _:
                        return "broken row: conversations do not alternate between human and gpt"
            marks = sum(len(MARK.findall(turn.user)) for turn in out)
            if not 1 <= marks <= 2 or len(MARK.findall(out[0].user)) != marks:
                return f"broken row: {marks} places for media, 1 or 2 in the first question expected"
            first = MARK.sub("<motion>", MARK.sub("<video>", out[0].user, count=1), count=1)
            return (Turn(user=first, assistant=out[0].assistant), *out[1:])
    return "broken row: no conversations"
