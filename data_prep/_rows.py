"""What readers of label files share: rows, rows that cannot be used, and streams over text and JSON files.

A reader yields `Row` and `Bad` in the order of the file and holds no more than one of them. A byte that is not UTF-8
makes its row bad and leaves the others alone; a file of another encoding, or one that ends too early, is a DataError.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TextIO

from vqa2.core.errors import DataError
from vqa2.core.records import Stall

CHUNK = 1 << 20
csv.field_size_limit(1 << 20)
_FOREIGN = re.compile("[\udc80-\udcff]")
_BETWEEN = re.compile(r"[\s,]*")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One usable line: `id` is the item's name in its dataset, `mos` is on the file's own scale; `cells` are all
    columns as text (a YAML's path pattern may use them); `frames` and `fps` of the played clip where the file tells
    them; `split` where one file holds several."""

    id: str
    mos: float
    where: str
    cells: Mapping[str, str] = field(default_factory=dict)
    stalls: tuple[Stall, ...] = ()
    frames: int = 0
    fps: float = 0.0
    split: str = ""


@dataclass(frozen=True, kw_only=True)
class Bad:
    """A line that is left out. `reason` begins with its class, which is counted: `broken row: 3 cells, 4 expected`."""

    where: str
    reason: str
    id: str = ""


class Reader(Protocol):
    """A form of label file."""

    def read(self, files: Sequence[Path]) -> Iterator[Row | Bad]:
        """All rows of the label files of one split."""


def row_of(name: str, mos: Sequence[str], where: str, cells: Mapping[str, str]) -> Row | Bad:
    """A row, or why it is none; `mos` are the texts whose mean is the opinion."""
    if not name:
        return Bad(where=where, reason="broken row: no name")
    try:
        values = [float(text) for text in mos]
    except ValueError:
        return Bad(where=where, reason=f"broken row: MOS {' '.join(mos)[:40]!r} is no number", id=name)
    return Row(id=name, mos=sum(values) / len(values), where=where, cells=cells)


def played(row: Row | Bad, stalls: Sequence[Stall], frames: int, fps: float) -> Row | Bad:
    """A row with its streaming timeline; a bad one stays bad."""
    return row if isinstance(row, Bad) else replace(row, stalls=tuple(stalls), frames=frames, fps=fps)


def checked(path: Path) -> Path:
    """The file, refused where it is missing, empty or UTF-16."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with path.open("rb") as handle:
        start = handle.read(2)
    if not start:
        raise DataError(f"{path}: the label file is empty")
    if start in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path}: is UTF-16; save it as UTF-8")
    return path


def utf8(text: str) -> bool:
    """Whether text read with `surrogateescape` held only UTF-8."""
    return _FOREIGN.search(text) is None


def delimited(
    path: Path, separator: str, quoted: bool, columns: Sequence[str]
) -> Iterator[tuple[str, dict[str, str]] | Bad]:
    """(`file:line`, column -> stripped text) of every line that is not blank. Without `columns`, the first line has
    them."""
    names = list(columns)
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    with checked(path).open(encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
        lines = csv.reader(handle, delimiter=separator, quoting=quoting, skipinitialspace=True)
        for cells in _parsed(lines, path):
            where = f"{path.name}:{lines.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if not names:
                names = [cell.strip() for cell in cells]
            elif not all(utf8(cell) for cell in cells):
                yield Bad(where=where, reason="mixed encoding: bytes that are not UTF-8")
            elif len(cells) != len(names):
                yield Bad(
                    where=where, reason=f"broken row: {len(cells)} cells, {len(names)} expected", id=cells[0].strip()
                )
            else:
                yield where, {name: cell.strip() for name, cell in zip(names, cells)}


def _parsed(lines: Iterator[list[str]], path: Path) -> Iterator[list[str]]:
    try:
        yield from lines
    except csv.Error as err:
        raise DataError(f"{path}: no table: {err}; is it the file that its name says?") from None


def column(cells: Mapping[str, str], name: str, where: str) -> str:
    """A cell; a DataError where the file has no such column, because then it has it in no row."""
    if name not in cells:
        raise DataError(f"{where}: no column {name!r}; the file has {', '.join(cells)}")
    return cells[name]


def json_items(path: Path, key: str | None) -> Iterator[tuple[str, Any] | Bad]:
    """(`file#number`, element) of a JSON array that is the file, or the value of `key` in it; or of JSON lines.

    Reads a piece at a time: the released files are larger than 100 MB. An array that breaks off, or holds what is no
    JSON, is a DataError, since nothing says where its next element starts; a broken line is one bad row.
    """
    with checked(path).open(encoding="utf-8-sig", errors="surrogateescape") as handle:
        text = handle.read(CHUNK)
        if key is None and text.lstrip()[:1] == "{":
            handle.seek(0)
            yield from _lines(path, handle)
            return
        start = text.find("[", text.find(f'"{key}"') if key else 0)
        if start < 0 or (key and f'"{key}"' not in text):
            raise DataError(f"{path}: holds no list{f' {key!r}' if key else ''} of records")
        yield from _elements(path, handle, text, start + 1)


def _lines(path: Path, handle: TextIO) -> Iterator[tuple[str, Any] | Bad]:
    for number, line in enumerate(handle, 1):
        where = f"{path.name}:{number}"
        if not line.strip():
            continue
        if not utf8(line):
            yield Bad(where=where, reason="mixed encoding: bytes that are not UTF-8")
            continue
        try:
            item = json.loads(line)
        except json.JSONDecodeError as err:
            yield Bad(where=where, reason=f"broken row: no JSON ({err.msg})")
        else:
            yield where, item


def _elements(path: Path, handle: TextIO, text: str, at: int) -> Iterator[tuple[str, Any] | Bad]:
    """The elements of the array whose first one starts at `text[at]`; `handle` has the rest."""
    decoder, number = json.JSONDecoder(), 0
    while True:
        at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]
        if text[at : at + 1] == "]":
            return
        try:
            item, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            end = len(text)
        # What reaches to the end of the piece may go on behind it.
        if end == len(text):
            more = handle.read(CHUNK)
            if not more:
                raise DataError(f"{path}: not valid JSON after record {number}; the download may be incomplete")
            text, at = text[at:] + more, 0
            continue
        where = f"{path.name}#{number}"
        good = utf8(text[at:end])
        yield (where, item) if good else Bad(where=where, reason="mixed encoding: bytes that are not UTF-8")
        number, at = number + 1, end
