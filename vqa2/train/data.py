"""Makes the data a run needs where it may (`data.prepare`), and says what to type where it may not."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from data_prep.run import MARKER, DataPrepRun, prepare
from vqa2.core.config import decode, spec
from vqa2.core.errors import DataError
from vqa2.core.run import rank


@spec
class DataSpec:
    """`root`: folder that data_prep writes. `prepare`: make it where it is missing (else an error names the command).
    `command`: the data_prep command that makes it. `decode_cache_mb`: decoded clips kept in memory."""

    root: str
    prepare: bool
    command: str
    decode_cache_mb: Annotated[int, Ge(0)]


def ensure_data(data: DataSpec, compose: Callable[[str, list[str]], dict[str, Any]]) -> None:
    """Nothing where the data root is complete; else runs data_prep in this process (rank 0) or raises DataError."""
    root = Path(data.root)
    if (root / MARKER).is_file():
        return
    if not data.prepare:
        raise DataError(f"{root}: no prepared data; run `{data.command}` first")
    if rank() != 0:
        raise DataError(f"{root}: no prepared data; run `{data.command}` before starting several processes")
    overrides = [*data.command.split()[3:], f"out={root}"]
    prepare(decode(DataPrepRun, compose("data_prep", overrides), "data_prep"), progress=True)
