"""The first pass over a labelled dataset: what is usable, its scale, and why the rest is not.

Holds 26 bytes a row, and while it reads the keys of all rows, to know a repeated one.
"""

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from data_prep._media import MediaIndex
from data_prep._rows import Row
from data_prep.sources.labelled import Excluded, Labelled, key_of, reason_class
from vqa2.core.errors import DataError
from vqa2.core.records import Clip

WINDOW = 1024


@dataclass(frozen=True)
class Scan:
    """One dataset after the first pass. Of its n usable rows: `keys` and `contents` uint64 `[n]` of id and content,
    `mos` `[n]` on the file's scale, `own` `[n]`: index into `names` of the distortion that the item's name tells, -1
    for none; `split` `[n]`: index into `splits`. `lo`, `hi`: what 0-100 spans (Scale.span, else the least and greatest
    opinion of the label files); `found`: well-formed rows per
    split, `excluded` per class of reason; `report` is the list of exclusions, a JSON-lines file."""

    part: Labelled
    keys: np.ndarray
    contents: np.ndarray
    mos: np.ndarray
    own: np.ndarray
    names: tuple[str, ...]
    split: np.ndarray
    splits: tuple[str, ...]
    lo: float
    hi: float
    found: Counter[str]
    excluded: Counter[str]
    report: Path

    def clips(self, root: Path, wanted: np.ndarray) -> Iterator[Clip]:
        """The clips of the masked rows, in the order of the label files, which are read again."""
        number = 0
        for split, row in self.part.raw(root):
            # The next usable row is known by its key; whatever is between was excluded.
            if number < len(self.keys) and isinstance(row, Row) and key_of(row.id) == self.keys[number]:
                number += 1
                if wanted[number - 1]:
                    yield self.part.clip(split, row, self.lo, self.hi, root)
        if number < len(self.keys):
            raise DataError(f"{self.part.variant}: the label files changed while they were read; run again")


def scan(part: Labelled, root: Path, report: Path, index: MediaIndex | None, advance: Callable[[int], None]) -> Scan:
    """Reads the label files once; with an `index`, opens every clip and leaves out those that cannot be used.

    The scale comes from the labels alone, so that it does not depend on which clips are there.
    """
    keys, contents, mos, own, split = array("Q"), array("Q"), array("d"), array("b"), array("b")
    splits = tuple(part.files)
    names = tuple(dict.fromkeys(part.distortions.names.values())) if part.distortions else ()
    found: Counter[str] = Counter()
    excluded: Counter[str] = Counter()
    lo, hi = float("inf"), float("-inf")
    report.parent.mkdir(parents=True, exist_ok=True)
    with report.open("w", encoding="utf-8") as out:

        def leave_out(item: Excluded) -> None:
            excluded[reason_class(item.reason)] += 1
            # Bytes that are no text stand as \udcXX, which JSON escapes.
            out.write(json.dumps(asdict(item), sort_keys=True) + "\n")

        for window in batches(part.rows(root), WINDOW):
            rows = [item for item in window if not isinstance(item, Excluded)]
            lo, hi = min([lo, *(r.mos for _, r in rows)]), max([hi, *(r.mos for _, r in rows)])
            problems = _problems(part, root, rows, index)
            for item in window:
                if isinstance(item, Excluded):
                    leave_out(item)
                    continue
                name, row = item
                found[name] += 1
                if row.id in problems:
                    leave_out(Excluded(source=part.variant, where=row.where, id=row.id, reason=problems[row.id]))
                    continue
                keys.append(key_of(row.id))
                mos.append(row.mos)
                contents.append(key_of(part.shown(row)))
                distortion = part.distortion(row)
                own.append(names.index(distortion) if distortion else -1)
                split.append(splits.index(name))
            advance(len(window))
    if part.scale.span is not None:
        lo, hi = part.scale.span
    elif found and not lo < hi:
        raise DataError(f"{part.variant}: all {found.total()} opinions are {lo:g}; nothing to scale")
    return Scan(
        part, np.array(keys, np.uint64), np.array(contents, np.uint64), np.array(mos), np.array(own, np.int8), names,
        np.array(split, np.int8), splits, lo, hi, found, excluded, report,
    )  # fmt: skip


def _problems(part: Labelled, root: Path, rows: list[tuple[str, Row]], index: MediaIndex | None) -> dict[str, str]:
    """id -> why its clip cannot be used."""
    if index is None:
        return {}
    names = {row.id: part.media(row, root) for _, row in rows}
    errors = index.probe(list(names.values()), part.kind)
    return {ident: errors[path] for ident, path in names.items() if path in errors}


def batches(items: Iterable, size: int) -> Iterator[list]:
    """Lists of up to `size` items."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
