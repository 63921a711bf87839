"""Files that appear whole or not at all, at once or row by row; hashes of files, and those that a data root records."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from vqa2.core.errors import DataError


def write_whole(path: Path, text: str) -> None:
    """A text file under its name only when it is complete: a kill leaves the old one or none."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def read_record(path: Path) -> dict[str, Any]:
    """What data_prep noted about its own files. DataError where it is no longer readable."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise DataError(f"{path}: damaged ({err}); remove it and run data_prep again") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: damaged (no JSON object); remove it and run data_prep again")
    return found


class Parts:
    """JSONL files under construction (`<name>.part`); those that are not kept are removed."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names = folder, names
        self._stack = ExitStack()

    def __enter__(self) -> "Parts":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._files = {
            name: self._stack.enter_context((self.folder / f"{name}.part").open("w", encoding="utf-8"))
            for name in self.names
        }
        return self

    def write(self, name: str, row: Mapping[str, Any]) -> None:
        """One row of a file."""
        self._files[name].write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")

    def keep(self, *names: str) -> None:
        """Closes files and gives them their names; nothing can be written any more."""
        self._stack.close()
        for name in names:
            (self.folder / f"{name}.part").replace(self.folder / name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        for name in self.names:
            (self.folder / f"{name}.part").unlink(missing_ok=True)


def recorded_media(root: Path) -> dict[str, str]:
    """Media file, relative to the data root -> sha256 that data_prep recorded: `media/index.json` of media it made,
    `<set>.media.jsonl` of datasets."""
    found: dict[str, str] = {}
    index = root / "media" / "index.json"
    if index.is_file():
        found = {e["clip"]["path"]: e["sha256"] for e in read_record(index).values()}
    for path in sorted(root.glob("*.media.jsonl")):
        with path.open(encoding="utf-8") as lines:
            found |= {row["path"]: row["sha256"] for row in map(json.loads, lines)}
    return found
