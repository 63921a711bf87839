"""Rows to disk as they come: JSON lines and a Parquet file of the same rows, each under its name only when complete."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from vqa2.core.records import Instruction

BATCH = 1024
_FORM = TypeAdapter(Instruction)
TURN = pa.struct([("user", pa.string()), ("assistant", pa.string())])
SCHEMA = pa.schema(
    [
        ("id", pa.string()), ("clip_id", pa.string()), ("kind", pa.string()), ("media", pa.string()),
        ("task", pa.string()), ("turns", pa.list_(TURN)), ("mos", pa.float64()), ("tags", pa.string()),
    ]
)  # fmt: skip
"""`tags` is a JSON object, because its keys differ from set to set."""


def set_files(name: str, split: str) -> tuple[str, str]:
    """The files of a set's split, relative to the data root: JSON lines, Parquet."""
    return f"{name}.{split}.jsonl", f"parquet/{name}/{split}.parquet"


def write_rows(root: Path, name: str, split: str, rows: Iterable[Instruction]) -> Counter[str]:
    """Both files of a set's split; returns rows by task and by source (the part of clip_id before the slash), under
    `task:` and `source:`."""
    lines, table = (root / file for file in set_files(name, split))
    for path in (lines, table):
        path.parent.mkdir(parents=True, exist_ok=True)
    parts = [path.with_name(f"{path.name}.part") for path in (lines, table)]
    counts: Counter[str] = Counter()
    with parts[0].open("w", encoding="utf-8") as out, pq.ParquetWriter(parts[1], SCHEMA, compression="zstd") as packed:
        batch: list[dict[str, Any]] = []
        for row in rows:
            values = _FORM.dump_python(row)
            out.write(json.dumps(values, ensure_ascii=False, sort_keys=True) + "\n")
            values["tags"] = json.dumps(values["tags"], ensure_ascii=False, sort_keys=True)
            batch.append(values)
            counts["rows"] += 1
            counts[f"task:{row.task}"] += 1
            counts[f"source:{row.clip_id.partition('/')[0]}"] += 1
            if len(batch) == BATCH:
                packed.write_table(pa.Table.from_pylist(batch, SCHEMA))
                batch.clear()
        packed.write_table(pa.Table.from_pylist(batch, SCHEMA))
    for part, path in zip(parts, (lines, table)):
        part.replace(path)
    return counts
