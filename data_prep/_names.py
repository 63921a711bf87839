"""Items of any list that names clips, and when two names mean one clip.

A name is its folders and its stem, in lower case, without extension, generic folders and the endings that copies get.
Two names agree where one is the end of the other: `LSVQ/yfcc-batch1/722.mp4` and `yfcc-batch1/722`. Agreement in the
bare file name alone is no proof (many datasets have a `0001.mp4`) and is told apart.
"""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vqa2.core.config import spec
from vqa2.core.errors import ConfigError, DataError

MEDIA = {".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".yuv", ".y4m", ".mpg", ".mpeg", ".ts", ".flv", ".wmv",
         ".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}  # fmt: skip

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?")


@spec
class NameRules:
    """`keys`: where a JSON record or CSV column may name its clip, in lower case, first match. `generic` folders say
    nothing; `endings`: regular expressions of what copies append to a stem."""

    keys: tuple[str, ...]
    generic: tuple[str, ...]
    endings: tuple[str, ...]

    def __post_init__(self) -> None:
        for pattern in self.endings:
            try:
                re.compile(pattern)
            except re.error as err:
                raise ConfigError(f"names.endings: {pattern!r} is no regular expression: {err}") from None

    def parts(self, name: str, dataset: str | None) -> tuple[str, ...]:
        """What identifies a clip, from the most general to the stem."""
        path = PurePosixPath(name.strip().replace("\\", "/").lower())
        stem = path.name
        while (suffix := PurePosixPath(stem).suffix) in MEDIA:
            stem = stem.removesuffix(suffix)
        for pattern in self.endings:
            stem = re.sub(rf"(?:{pattern})\Z", "", stem) or stem
        folders = [p for p in path.parts[:-1] if p not in ("/", ".", "..") and p not in self.generic]
        if dataset is not None and (not folders or folders[0] != dataset.lower()):
            folders = [dataset.lower(), *folders]
        return (*folders, stem)


@dataclass(frozen=True)
class Match:
    """Two names that agree; `certain` where more than the bare file name does."""

    a: str
    b: str
    certain: bool


def read_names(path: Path, rules: NameRules) -> list[str]:
    """The clips that a list names, each once, in order. DataError where it names none."""
    if path.is_dir():
        found = (p.relative_to(path).as_posix() for p in sorted(path.rglob("*")) if p.suffix.lower() in MEDIA)
    elif not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    elif path.suffix == ".jsonl":
        found = _of_records(path, _json_lines(path), rules)
    elif path.suffix == ".json":
        found = _of_records(path, _json_list(path), rules)
    else:
        found = _of_table(path, rules)
    try:
        names = list(dict.fromkeys(found))
    except UnicodeDecodeError as err:
        raise DataError(f"{path}: not UTF-8 (byte {err.start}); convert the file first") from None
    if not names:
        raise DataError(f"{path}: names no clips")
    return names


def same_names(a: dict[str, tuple[str, ...]], b: dict[str, tuple[str, ...]]) -> list[Match]:
    """Every pair of names that agree; `a` and `b` map a name to its parts."""
    whole, ends = defaultdict(list), defaultdict(list)
    for name, parts in b.items():
        whole[parts].append(name)
        for start in range(1, len(parts)):
            ends[parts[start:]].append(name)
    made = []
    for name, parts in a.items():
        hits = {other: len(parts) - start for start in range(len(parts)) for other in whole[parts[start:]]}
        hits |= {other: len(parts) for other in ends[parts]}
        made += [Match(name, other, shared > 1) for other, shared in hits.items()]
    return made


def _json_lines(path: Path) -> Iterator[tuple[int, object]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as err:
                raise DataError(f"{path}:{number}: not JSON: {err}") from None


def _json_list(path: Path) -> Iterator[tuple[int, object]]:
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as err:
        raise DataError(f"{path}: not JSON: {err}") from None
    if isinstance(records, dict):
        # As VQAThinker's lists: {"annotations": [...]}.
        lists = [value for value in records.values() if isinstance(value, list)]
        records = lists[0] if len(lists) == 1 else records
    if not isinstance(records, list):
        raise DataError(f"{path}: a list of records is needed, got {type(records).__name__}")
    yield from enumerate(records)


def _of_records(path: Path, records: Iterator[tuple[int, object]], rules: NameRules) -> Iterator[str]:
    """Names in JSON records. A null name is a text-only row."""
    for number, record in records:
        fields = {k.lower(): value for k, value in record.items()} if isinstance(record, dict) else {}
        key = next((k for k in rules.keys if k in fields), None)
        if key is None:
            raise DataError(f"{path}: record {number}: names no clip under {', '.join(rules.keys)}")
        value = fields[key]
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, str):
                yield from _members(name)
            elif name is not None:
                raise DataError(f"{path}: record {number}: {key}: a name is needed, got {name!r}")


def _members(name: str) -> list[str]:
    """The clips of a name: Q-Bench-Video writes a pair as `<first>_cat_<second>.mp4`."""
    first, pair, second = name.partition("_cat_")
    return [first, second] if pair else [name]


def _of_table(path: Path, rules: NameRules) -> Iterator[str]:
    """Names in a list with commas (or tabs): of the column that the header names, else the first."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        tabs = "\t" in file.readline()
        file.seek(0)
        rows = csv.reader(file, delimiter="\t" if tabs else ",")
        head = next(rows, [])
        low = [cell.strip().lower() for cell in head]
        column = next((low.index(key) for key in rules.keys if key in low), None)
        if column is None:
            if len(head) > 1 and not any(_NUMBER.fullmatch(cell) for cell in low[1:]):
                raise DataError(f"{path}:1: a header without any of {', '.join(rules.keys)} (names.keys)")
            column = 0
            yield from _cell(path, 1, head, 0)
        for number, row in enumerate(rows, 2):
            yield from _cell(path, number, row, column)


def _cell(path: Path, number: int, row: Sequence[str], column: int) -> Iterator[str]:
    if not row:
        return
    if len(row) <= column or not row[column].strip():
        raise DataError(f"{path}:{number}: no name in column {column + 1}")
    yield row[column].strip()
