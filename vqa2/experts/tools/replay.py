"""Expert `replay`: scores of another program, read from a CSV by media id. No media are opened."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from vqa2.core.config import register
from vqa2.core.errors import ConfigError, DataError
from vqa2.experts.base import Info, Media, NotApplicable, Raw, files_hash


@register("expert", "replay")
class Replay:
    """`files`: CSVs with a header; `id_column` names the media, `column` is the score, `parts` are sub-scores."""

    info: Info
    files: tuple[str, ...]
    id_column: str
    column: str
    parts: tuple[str, ...]

    def missing(self) -> str:
        absent = [f for f in self.files if not Path(f).is_file()]
        return f"{absent[0]}: no such file" if absent else ""

    def content(self) -> str:
        return files_hash([Path(f) for f in self.files])

    def open(self) -> "Replayed":
        if self.missing():
            raise ConfigError(self.missing())
        return Replayed(self)


class Replayed:
    """A media without a row is not applicable."""

    def __init__(self, made: Replay) -> None:
        self._made, self._rows = made, recorded(made.files, made.id_column, (made.column, *made.parts))

    def score(self, media: Media, reference: Media | None, prompt: str | None) -> Raw:
        """The recorded score of `media.id`."""
        if media.key not in self._rows:
            raise NotApplicable(f"no recorded score of {media.key}")
        row = self._rows[media.key]
        return Raw(value=row[self._made.column], parts={part: row[part] for part in self._made.parts})


def recorded(files: Sequence[str], id_column: str, columns: Sequence[str]) -> dict[str, dict[str, float]]:
    """Numbers of CSVs with a header by id and column. DataError, with file and line, for a column that is not there,
    what is no finite number, and two rows of one id that differ."""
    found: dict[str, dict[str, float]] = {}
    for file in files:
        with open(file, newline="", encoding="utf-8") as handle:
            for number, row in enumerate(csv.DictReader(handle), 2):
                where = f"{file}:{number}"
                if absent := [c for c in (id_column, *columns) if row.get(c) is None]:
                    raise DataError(f"{where}: no column {absent[0]!r}; there are {', '.join(k for k in row if k)}")
                values = {column: _number(row[column], f"{where}: {column}") for column in columns}
                if found.setdefault(row[id_column], values) != values:
                    raise DataError(f"{where}: {row[id_column]}: a second, different score")
    return found


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: a number is needed, got {text!r}")
    return value
