"""Rows of every kind that cannot be used, written into the label files of any source."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.sources.labelled import Labelled

FAULTS = ("broken row", "duplicated id", "MOS out of range", "mixed encoding")
FOREIGN = "\xff"
"""A byte that is no UTF-8, once it is written as Latin-1."""


def add_faults(root: Path, made: Labelled) -> None:
    """One row of each of FAULTS behind the good ones of the source's first split."""
    paths = [root / (name if isinstance(name, str) else name[-1]) for name in next(iter(made.files.values()))]
    reader = made.reader
    match reader["name"]:
        case "table" | "drawn":
            _table(paths[0], reader["separator"], reader["columns"], reader["id"], reader["mos"])
        case "nflx2":
            _table(paths[0], ",", (), "distorted_mp4_video", ["retrospective_zscored_mos"])
        case "sessions":
            _table(paths[0], ",", (), "streaming_log", ["mos"])
            logs = paths[1].read_text().splitlines()
            (paths[1]).write_text("\n".join([*logs, *(f"new-{x}" for x in logs if x.startswith("1.csv"))]) + "\n")
        case "paired":
            _table(paths[0], ",", reader["columns"], reader["id"], ["other"], other="9")
            _append(paths[1], ["bad,0,0", "1,0,0", "1e9,0,0", "1,0,0"])
        case "records" | "scores":
            _records(paths[0], reader)


def _append(path: Path, lines: Sequence[str]) -> None:
    with path.open("ab") as out:
        out.write("".join(f"{line}\n" for line in lines).encode("latin-1"))


def _table(path: Path, separator: str, columns: Sequence[str], ident: str, mos: Sequence[str], other: str = "") -> None:
    """`other`: what stands for the MOS in a list whose opinions lie elsewhere; then no line is broken."""
    rows = list(csv.reader(path.read_text().splitlines(), delimiter=separator, skipinitialspace=True))
    names = list(columns) or rows.pop(0)
    first = dict(zip(names, rows[0]))

    def line(**changes: str) -> str:
        cells = {**first, **changes}.values()
        return separator.join(f'"{c}"' if separator in c else c for c in cells)

    far = dict.fromkeys(mos, other or "1e9")
    broken = line(**{ident: f"cut-{first[ident]}"}) if other else f"cut-{first[ident]}"
    far_off = line(**{ident: f"new-{first[ident]}"}, **far)
    _append(path, [broken, line(), far_off, line(**{ident: FOREIGN + first[ident]})])


def _records(path: Path, reader: dict[str, Any]) -> None:
    text = path.read_text()
    by_line = path.suffix == ".jsonl"
    held: Any = [json.loads(x) for x in text.splitlines()] if by_line else json.loads(text)
    rows = held if reader["key"] is None else held[reader["key"]]
    first = rows[0]
    if reader["name"] == "records":
        ident, far = reader["id"], dict.fromkeys(reader["mos"], 1e9)
    elif "image_id" in first:
        ident, far = "image_id", {"score": "1e9"}
    else:
        ident, far = "image", {"conversations": [{"value": "?"}, {"value": 1e9}]}
    name = first[ident]

    def named(start: str) -> Any:
        return [start + name[0]] if isinstance(name, list) else start + name

    rows += [{"no": "name"}, first, {**first, ident: named("new-"), **far}, {**first, ident: named(FOREIGN)}]
    made = (
        "\n".join(json.dumps(r, ensure_ascii=False) for r in rows) if by_line else json.dumps(held, ensure_ascii=False)
    )
    path.write_bytes(made.encode("latin-1"))
