"""Makes the data a run needs where it may (`data.prepare`), and says what to type where it may not."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from data_prep.overlap import NameRules, refuse_overlap
from data_prep.run import MARKER, DataPrepRun, prepare, standing
from vqa2.core.config import decode, spec
from vqa2.core.errors import DataError
from vqa2.core.run import rank, say


@spec
class DataSpec:
    """`root`: folder that data_prep writes. `prepare`: make it where it is missing (else an error names the command).
    `command`: the data_prep command that makes it. `decode_cache_mb`: decoded clips kept in memory,
    for all stages of one invocation. `streaming`: supervised stages read their rows from the root's Parquet files while
    they train, `shuffle_buffer` of them shuffled at a time, instead of holding them all. `overlap`: whether training on
    clips of the root's test sets, or of the lists `held_out`, is an error (data_prep/overlap.py)."""

    root: str
    prepare: bool
    command: str
    decode_cache_mb: Annotated[int, Ge(0)]
    streaming: bool
    shuffle_buffer: Annotated[int, Ge(1)]
    overlap: Literal["refuse", "allow"]
    held_out: tuple[str, ...]


def ensure_data(data: DataSpec, compose: Callable[[str, list[str]], dict[str, Any]]) -> None:
    """Makes the data root where it is missing and may be made, and refuses one that trains on test clips.

    `compose(config, overrides)` is vqa2.launch's `composed`.
    """
    _ensure_root(data, compose)
    if data.overlap == "refuse":
        rules = decode(NameRules, compose("leaks", ["a=.", "b=."])["names"], "leaks.names")
        refuse_overlap(Path(data.root), data.held_out, rules)


def _ensure_root(data: DataSpec, compose: Callable[[str, list[str]], dict[str, Any]]) -> None:
    """Nothing where the data root is complete; else runs data_prep in this process (rank 0) or raises DataError.

    A root that other settings or older code made is used as it is, and said so: it may well be meant.
    """
    root = Path(data.root)
    if not data.prepare:
        if not (root / MARKER).is_file():
            raise DataError(f"{root}: no prepared data; run `{data.command}` first")
        return
    run = decode(DataPrepRun, compose("data_prep", [*shlex.split(data.command)[3:], f"out={root}"]), "data_prep")
    found = standing(run)
    if found == "other":
        say(f"data: {root} was made by other settings or code than `{data.command}` has now; used as it is")
    if found in ("complete", "other"):
        return
    if rank() != 0:
        raise DataError(f"{root}: no prepared data; run `{data.command}` before starting several processes")
    prepare(run, progress=True)
