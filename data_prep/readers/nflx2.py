"""Form `nflx2`: LIVE-NFLX-II. One .mat per clip, as the dataset ships them, or one CSV of the same fields."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from data_prep._rows import Bad, Row, delimited, played, row_of
from vqa2.core.config import register
from vqa2.core.records import Stall

FIELDS = ("distorted_mp4_video", "retrospective_zscored_mos", "frame_rate", "N_total_frames")


@register("reader", "nflx2")
class Nflx2:
    """The retrospective z-scored MOS; stalls from `is_rebuffered_bool` of the .mat files, or from the CSV's
    `rebuffer_events_frames` ([first frame, frames] each)."""

    def read(self, files: Sequence[Path]) -> Iterator[Row | Bad]:
        (path,) = files
        if path.is_dir():
            yield from map(_from_mat, sorted(path.glob("*.mat")))
            return
        for item in delimited(path, ",", True, ()):
            yield item if isinstance(item, Bad) else _from_cells(*item)


def _from_mat(path: Path) -> Row | Bad:
    try:
        held = loadmat(path, squeeze_me=True, variable_names=[*FIELDS, "is_rebuffered_bool"])
        cells = {name: str(held[name]) for name in FIELDS}
        stalled = np.atleast_1d(held["is_rebuffered_bool"]).astype(bool)
    except (MatReadError, OSError, ValueError, KeyError, TypeError) as err:
        return Bad(where=path.name, reason=f"broken row: not a clip's .mat ({type(err).__name__}: {err})", id=path.stem)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], stalled, [False]])))
    return _row(path.name, cells, [(int(a), int(b - a)) for a, b in edges.reshape(-1, 2)])


def _from_cells(where: str, cells: dict[str, str]) -> Row | Bad:
    try:
        events = [(int(first), int(count)) for first, count in json.loads(cells["rebuffer_events_frames"])]
    except (KeyError, ValueError, TypeError):
        return Bad(where=where, reason="broken row: rebuffer_events_frames is no list of [first frame, frames]")
    return _row(where, cells, events)


def _row(where: str, cells: dict[str, str], events: Sequence[tuple[int, int]]) -> Row | Bad:
    name = cells.get(FIELDS[0], "")
    try:
        fps, frames = float(cells["frame_rate"]), round(float(cells["N_total_frames"]))
        stalls = tuple(Stall(start_s=first / fps, length_s=count / fps) for first, count in events)
    except (KeyError, ValueError, ZeroDivisionError):
        return Bad(where=where, reason="broken row: frame_rate or N_total_frames is no number", id=name)
    return played(row_of(name, [cells.get(FIELDS[1], "")], where, cells), stalls, frames, fps)
