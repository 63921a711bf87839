"""Source `labelled`: a published dataset, from its own label files. What differs between datasets is their YAML.

Opinions are scaled to 0-100 by the least and greatest one of the dataset (VQA², section 3.1), turned round where the
dataset counts damage. Rows that cannot be used are listed; none is repaired.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, MinLen

from data_prep._rows import Bad, Row
from vqa2.core.config import build, register, spec
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.records import Clip, Distortion, Kind

ROUNDING = 1e-3
"""Share of the span by which a copy's rounded opinion may pass the span's ends; it then counts as the end."""


@spec
class Scale:
    """The scale that people rated on: an opinion outside `lo` .. `hi` is an error of the file. `better` is the end that
    good clips have. `span`: the least and greatest opinion of the whole dataset, where a list holds a part of it, so
    that a clip has one level in every list; null: the label files hold the whole, and tell."""

    lo: float
    hi: float
    better: Literal["higher", "lower"]
    span: tuple[float, float] | None

    def __post_init__(self) -> None:
        if self.span is not None and not self.lo <= self.span[0] < self.span[1] <= self.hi:
            raise ConfigError(f"scale.span: {list(self.span)} is no interval inside {self.lo:g} .. {self.hi:g}")

    def wrong(self, mos: float) -> str:
        """Why an opinion cannot be one of this dataset, or nothing."""
        if not self.lo <= mos <= self.hi:
            return f"MOS out of range: {mos} is not in {self.lo:g} .. {self.hi:g}"
        if self.span is None:
            return ""
        least, most = self.span
        near = ROUNDING * (most - least)
        said = f"MOS out of range: {mos} is not in {least:g} .. {most:g}, where the dataset's opinions lie (scale.span)"
        return "" if least - near <= mos <= most + near else said

    def on_100(self, mos: float, lo: float, hi: float) -> float:
        """An opinion on 0-100, larger is better, by the dataset's least and greatest one."""
        share = min(1.0, max(0.0, (mos - lo) / (hi - lo)))
        return 100 * (share if self.better == "higher" else 1 - share)


@spec
class OwnDistortions:
    """Distortions that an item's name tells: `of` is a pattern (as `path`), `names` maps its value to one of the 13
    names of stage 1; other values have none. `strength` is a pattern of a number, divided by `strongest`."""

    of: str
    names: dict[str, str]
    strength: str | None
    strongest: float


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """A row that is not used; the part of `reason` before the colon is its class."""

    source: str
    where: str
    id: str
    reason: str


@register("source", "labelled")
class Labelled:
    """`dataset` is the published name, `variant` this file's (the same name means different sets elsewhere).
    `files`: label files per split, relative to the root (of a list in the list, the first that is there; none
    where the files of another split hold its rows, too); `expected` rows per split. `path` of a clip, relative
    to the root (of several, the first that is there, else the first), and `content` (what must not lie in two
    splits) are patterns over id, stem, folder, head (of the stem, up to the first `_`), part[i] (the stem
    between `_`) and the file's own columns. `broken` items are left out with their reasons. `disk_gb`: all clips
    of the dataset as published; null: unknown."""

    dataset: str
    variant: Annotated[str, MinLen(1)]
    kind: Kind
    files: dict[str, tuple[str | tuple[str, ...], ...]]
    expected: dict[str, Annotated[int, Ge(0)]]
    scale: Scale
    path: str | Annotated[tuple[str, ...], MinLen(1)]
    content: str
    distortions: OwnDistortions | None
    broken: dict[str, str]
    license: str
    obtain: str
    disk_gb: Annotated[float, Gt(0)] | None
    reader: dict[str, Any]

    def inputs(self, root: Path) -> list[Path]:
        """The label files; of a folder, its files."""
        named = [path for split in self.files for path in self._label_files(root, split)]
        return sorted(p for path in named for p in (path.iterdir() if path.is_dir() else [path]))

    def _label_files(self, root: Path, split: str) -> list[Path]:
        choices = [(item,) if isinstance(item, str) else item for item in self.files[split]]
        return [root / next((name for name in names if (root / name).exists()), names[0]) for names in choices]

    def named_files(self, split: str) -> str:
        """The label files of a split in words."""
        names = [name if isinstance(name, str) else " or ".join(name) for name in self.files[split]]
        return ", ".join(names) or f"split {split} of {self.dataset}"

    def rows(self, root: Path) -> Iterator[tuple[str, Row] | Excluded]:
        """(split, row) of all items in the order of the files; broken, repeated and out-of-range ones are
        `Excluded`."""
        seen: set[int] = set()
        for split, row in self.raw(root):
            reason = row.reason if isinstance(row, Bad) else self._wrong(row, seen)
            if reason:
                yield Excluded(source=self.variant, where=row.where, id=row.id, reason=reason)
            else:
                assert isinstance(row, Row)
                yield split, row

    def raw(self, root: Path) -> Iterator[tuple[str, Row | Bad]]:
        """(split, row) of everything that the label files hold, unchecked."""
        reader = build("reader", self.reader, f"source.{self.variant}.reader")
        for split in self.files:
            paths = self._label_files(root, split)
            for path in paths:
                if not path.exists():
                    raise DataError(f"{path}: no such label file; where to get it: {self.obtain}")
            for row in reader.read(paths):
                yield (isinstance(row, Row) and row.split) or split, row

    def _wrong(self, row: Row, seen: set[int]) -> str:
        key = key_of(row.id)
        if key in seen:
            return "duplicated id: an earlier row has it"
        seen.add(key)
        if row.id in self.broken:
            return f"known broken: {self.broken[row.id]}"
        if wrong := self.scale.wrong(row.mos):
            return wrong
        try:
            self.media(row, None), self.shown(row), self.distortion(row)
        except DataError:
            raise
        except (IndexError, ValueError) as err:
            return f"broken row: the name does not fit the dataset's patterns ({err})"
        return ""

    def clip(self, split: str, row: Row, lo: float, hi: float, root: Path) -> Clip:
        """The clip of a row; `lo` and `hi` are the dataset's least and greatest opinions."""
        names = _names(row.id)
        tags = {"mos_raw": f"{row.mos:.10g}", "variant_of": self.dataset}
        if row.frames:
            tags |= {"set": "streaming", "fps": f"{row.fps:.6g}", "frames": str(row.frames)}
        # The text that a generated clip was made from.
        if "prompt" in row.cells:
            tags["prompt"] = row.cells["prompt"]
        return Clip(
            id=f"{self.variant}/{row.id}", path=self.media(row, root), dataset=self.variant, split=split,
            content=self.shown(row), kind=self.kind,
            mos=self.scale.on_100(row.mos, lo, hi), mos_rule="mos",
            distortions=self._told(names, row), stalls=row.stalls, tags=tags,
        )  # fmt: skip

    def media(self, row: Row, root: Path | None) -> str:
        """The row's media file, relative to the root. Without a root, the first of several names is taken."""
        paths = (self.path,) if isinstance(self.path, str) else self.path
        made = [self._filled(path, _names(row.id), row) for path in paths]
        if root is None or len(made) == 1:
            return made[0]
        return next((name for name in made if (root / name).exists()), made[0])

    def shown(self, row: Row) -> str:
        """The content that the row's clip shows, the same in every variant of the dataset."""
        return f"{self.dataset}/{self._filled(self.content, _names(row.id), row)}"

    def distortion(self, row: Row) -> str:
        """The distortion that the item's own name tells, or nothing."""
        return next((d.name for d in self._told(_names(row.id), row)), "")

    def _told(self, names: dict[str, Any], row: Row) -> tuple[Distortion, ...]:
        own = self.distortions
        name = own.names.get(self._filled(own.of, names, row)) if own else None
        if own is None or name is None:
            return ()
        strength = 1.0
        if own.strength is not None:
            strength = float(self._filled(own.strength, names, row)) / own.strongest
        return (Distortion(name=name, strength=strength),)

    def _filled(self, pattern: str, names: dict[str, Any], row: Row) -> str:
        known = {**row.cells, **names}
        try:
            return pattern.format_map(known)
        except KeyError as err:
            raise DataError(
                f"{row.where}: source {self.variant} needs {err} in {pattern!r}; the file has {', '.join(known)}"
            ) from None


@lru_cache(maxsize=4)
def _names(ident: str) -> dict[str, Any]:
    """What patterns may use of an id; asked several times in a row for each."""
    path = PurePosixPath(ident)
    parts = path.stem.split("_")
    return {"id": ident, "stem": path.stem, "folder": path.parts[0], "head": parts[0], "part": parts}


def key_of(name: str) -> int:
    """64 bits of an id: what the pipeline keeps of a row in memory."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")


def reason_class(reason: str) -> str:
    """What exclusions are counted by."""
    return re.split(r"[:(]", reason, maxsplit=1)[0].strip()
