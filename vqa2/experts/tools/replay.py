"""Expert `replay`: scores of another program, read from a CSV by media id. No media are opened."""

import csv
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
    """A media without a row is not applicable; two rows of one id that differ are a DataError."""

    def __init__(self, made: Replay) -> None:
        self._rows: dict[str, Raw] = {}
        for file in made.files:
            with open(file, newline="", encoding="utf-8") as handle:
                for number, row in enumerate(csv.DictReader(handle), 2):
                    self._add(made, row, f"{file}:{number}")

    def _add(self, made: Replay, row: dict[str, str], where: str) -> None:
        absent = [c for c in (made.id_column, made.column, *made.parts) if row.get(c) is None]
        if absent:
            raise DataError(f"{where}: no column {absent[0]!r}; there are {', '.join(k for k in row if k)}")
        try:
            raw = Raw(value=float(row[made.column]), parts={p: float(row[p]) for p in made.parts})
        except ValueError:
            raise DataError(f"{where}: {made.column}: a number is needed, got {row[made.column]!r}") from None
        name = row[made.id_column]
        if self._rows.setdefault(name, raw) != raw:
            raise DataError(f"{where}: {name}: a second, different score")

    def score(self, media: Media, reference: Media | None, prompt: str | None) -> Raw:
        """The recorded score of `media.id`."""
        if media.key not in self._rows:
            raise NotApplicable(f"no recorded score of {media.key}")
        return self._rows[media.key]
