"""Form `sessions`: Waterloo SQoE-I, -III and -IV. `data.csv` has a line per session, its streaming log a line per chunk
with the seconds of rebuffering before it; rebuffering before the first chunk is initial buffering."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

from data_prep._rows import Bad, Row, column, delimited, played, row_of
from vqa2.core.config import register
from vqa2.core.errors import DataError
from vqa2.core.records import Stall

Chunk = tuple[float, float, float]


@register("reader", "sessions")
class Sessions:
    """Files: data.csv, then the logs: a folder of them, or one file of all whose first column names the session."""

    def read(self, files: Sequence[Path]) -> Iterator[Row | Bad]:
        sessions, logs = files
        chunks, failures = self._chunks(logs)
        for item in delimited(sessions, ",", True, ()):
            if isinstance(item, Bad):
                yield item
                continue
            where, cells = item
            name = column(cells, "streaming_log", where)
            if name in failures or name not in chunks:
                yield Bad(where=where, reason=failures.get(name, f"missing file: no streaming log {name}"), id=name)
                continue
            stalls, frames, fps = timeline(chunks[name])
            yield played(row_of(name, [column(cells, "mos", where)], where, cells), stalls, frames, fps)

    def _chunks(self, logs: Path) -> tuple[dict[str, list[Chunk]], dict[str, str]]:
        """Chunks (rebuffering s, duration s, frames a second) per session, and sessions whose log cannot be used."""
        chunks: dict[str, list[Chunk]] = {}
        failures: dict[str, str] = {}
        parts = sorted(logs.glob("*.csv")) if logs.is_dir() else [logs]
        for path in parts:
            rows = delimited(path, ",", True, ())
            alone = path.name if logs.is_dir() else None
            for name, group in groupby(rows, partial(_session, alone=alone)):
                try:
                    chunks.setdefault(name, []).extend([_chunk(r) for r in group])
                except ValueError as err:
                    failures[name] = f"broken row: {path.name}: {err}"
        return chunks, failures


def _session(row, alone: str | None) -> str:
    """The session of a line: that of its file, or what its first column names."""
    if alone is not None:
        return alone
    if isinstance(row, Bad):
        raise DataError(f"{row.where}: {row.reason}; its session is unknown")
    return column(row[1], "streaming_log", row[0])


def _chunk(row) -> Chunk:
    if isinstance(row, Bad):
        raise ValueError(row.reason)
    where, cells = row
    values = [float(column(cells, key, where)) for key in ("rebuffering_duration", "chunk_duration", "framerate")]
    if min(values) < 0 or values[1] == 0 or values[2] == 0:
        raise ValueError(f"a chunk of {values[1]} s at {values[2]} frames a second after {values[0]} s")
    return values[0], values[1], values[2]


def timeline(chunks: Sequence[Chunk]) -> tuple[tuple[Stall, ...], int, float]:
    """Stalls on the played timeline, frames and frame rate of the whole session. The player keeps the highest rate."""
    stalls, now = [], 0.0
    for waited, duration, _ in chunks:
        if waited:
            stalls.append(Stall(start_s=now, length_s=waited))
        now += waited + duration
    fps = max(rate for _, _, rate in chunks)
    return tuple(stalls), round(now * fps), fps
