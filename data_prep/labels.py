"""From label files to instruction sets: scan the datasets, take their clips, make stage 1's files, write, and account.

Every file appears under its name only when it is complete, and the same inputs give the same bytes, so that a run which
was killed is simply started again; what it has learnt of media files it keeps.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from data_prep._media import MediaIndex, Workers
from data_prep._output import write_rows
from data_prep._render import render
from data_prep._sample import chosen
from data_prep._scan import WINDOW, Scan, batches, scan
from data_prep._stage1 import stage1
from data_prep.manifest import Splits
from data_prep.sources.labelled import Excluded, reason_class
from data_prep.sources.mixture import Plan, Take
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.records import Clip, Instruction
from vqa2.core.run import fingerprint


@runtime_checkable
class Streams(Protocol):
    """A set writer that can follow a stream of clips, as label files give them."""

    def stream(self, clips: Iterable[Clip], seed: int) -> Iterator[Instruction | Excluded]:
        """Rows as the clips come, and what is left out."""


@runtime_checkable
class Reads(Protocol):
    """A set writer that reads files besides the source's label files."""

    def inputs(self) -> list[Path]:
        """These files."""


@dataclass
class Account:
    """What became of one set: counts per split (rows, task:*, source:*), clips taken per part, exclusions by class,
    streaming timelines by how well they fit their files."""

    rows: dict[str, Counter[str]] = field(default_factory=dict)
    taken: Counter[str] = field(default_factory=Counter)
    excluded: Counter[str] = field(default_factory=Counter)
    timelines: Counter[str] = field(default_factory=Counter)
    media_files: int = 0


class LabelRun:
    """One run: `out` is written, `root` holds label files and clips; with `media="skip"` no clip is looked at."""

    def __init__(self, plan: Plan, root: Path, out: Path, *, seed: int, media: str, workers: int) -> None:
        if media != "skip" and root.resolve() != out.resolve():
            raise ConfigError(f"root: {root} must be out ({out}), because rows name clips below it; or media=skip")
        self.plan, self.root, self.out, self.seed, self.media = plan, root, out, seed, media
        self.workers = Workers(workers)
        self.index = None if media == "skip" else MediaIndex(out, root, self.workers)
        self.work = out / ".work"
        self.scans: dict[str, Scan] = {}
        self.splits = Splits()
        # Only where there are two splits can a content lie in both.
        self.divided = len({split for splits in plan.sets.values() for split in splits}) > 1

    def close(self) -> None:
        self.workers.close()
        if self.index is not None:
            self.index.close()
        shutil.rmtree(self.work, ignore_errors=True)

    def parts_of(self, key: str) -> list[str]:
        """The datasets that a set takes clips of, or leaves out."""
        takes = [(name, take) for split in self._takes(key).values() for name, take in split.items()]
        return list(dict.fromkeys(part for name, take in takes for part in (name, *take.without)))

    def scan_parts(self, sets: Iterable[str], advance: Callable[[int], None]) -> None:
        """The first pass over every dataset that the sets use."""
        for name in dict.fromkeys(name for key in sets for name in self.parts_of(key)):
            part = self.plan.parts[name]
            self.scans[name] = scan(part, self.root, self.work / f"{name}.jsonl", self.index, advance)

    def write_set(self, key: str, writer: Streams) -> Account:
        """Rows, exclusions and media list of one set; DataError where it has clips but nothing to say about them."""
        account, takes = Account(), self._takes(key)
        listed = self.out / f"{key}.excluded.jsonl"
        part = listed.with_name(listed.name + ".part")
        with part.open("w", encoding="utf-8") as out:
            for name in self.parts_of(key):
                with self.scans[name].report.open(encoding="utf-8") as report:
                    shutil.copyfileobj(report, out)
                account.excluded.update({f"{name}: {k}": n for k, n in self.scans[name].excluded.items()})

            def leave_out(item: Excluded) -> None:
                account.excluded[f"{item.source}: {reason_class(item.reason)}"] += 1
                out.write(json.dumps(asdict(item), sort_keys=True) + "\n")

            for split, parts in takes.items():
                clips = self._clips(key, split, parts, account, leave_out)
                rows = self._usable(writer.stream(clips, self.seed), leave_out)
                account.rows[split] = write_rows(self.out, key, split, rows)
        part.replace(listed)
        total = sum(counts["rows"] for counts in account.rows.values())
        if not total:
            raise DataError(f"sets.{key}: no rows of its {account.taken.total()} clips; see {listed}")
        if self.index is not None:
            account.media_files = self.index.write(self.out / f"{key}.media.jsonl")
        return account

    def _takes(self, key: str) -> Mapping[str, Mapping[str, Take]]:
        if key not in self.plan.sets:
            raise ConfigError(f"sets.{key}: the source plans no such set; it plans {', '.join(self.plan.sets)}")
        return self.plan.sets[key]

    def _usable(
        self, rows: Iterable[Instruction | Excluded], leave_out: Callable[[Excluded], None]
    ) -> Iterator[Instruction]:
        """The rows whose media file is usable; the others are listed."""
        for window in batches(rows, WINDOW):
            found = [item for item in window if isinstance(item, Instruction)]
            errors: dict[str, str] = {}
            if self.index is not None:
                for kind in ("video", "image"):
                    media = [row.media for row in found if row.kind == kind and row.media is not None]
                    errors |= self.index.probe(media, kind)
                    self.index.use(path for path in media if path not in errors)
            for item in window:
                if isinstance(item, Excluded):
                    leave_out(item)
                elif item.media in errors:
                    source = item.clip_id.partition("/")[0]
                    leave_out(Excluded(source=source, where=item.media, id=item.id, reason=errors[item.media]))
                else:
                    yield item

    def _clips(
        self, key: str, split: str, takes: Mapping[str, Take], account: Account, leave_out: Callable[[Excluded], None]
    ) -> Iterator[Clip]:
        """The clips of a set, part by part, stage 1's made and every one in its split."""
        for name, take in takes.items():
            mask = self._mask(f"source.sets.{key}.{split}.{name}", split, name, take)
            total = int(mask.sum())
            account.taken[name] += total
            clips = self._in_split(self.scans[name].clips(self.root, mask), split)
            made = stage1(clips, total, take, self.plan.extract, self.seed)
            yield from made if self.index is None else self._timed(self._rendered(made, leave_out), account, leave_out)

    def _mask(self, where: str, split: str, name: str, take: Take) -> np.ndarray:
        """Which usable rows of a dataset a set takes."""
        held = self.scans[name]
        pool = np.ones(len(held.keys), bool)
        if take.distortion == "own":
            numbers = [held.names.index(n) for n in take.names if n in held.names] or range(len(held.names))
            pool = np.isin(held.own, np.array(numbers, np.int8))
        if self.plan.own_splits:
            pool = pool & (held.split == held.splits.index(split))
        for other in take.without:
            pool = pool & ~np.isin(held.contents, self.scans[other].contents)
        if take.count is None:
            return pool
        if take.count > pool.sum():
            raise DataError(
                f"{name}: {take.count} clips wanted, {pool.sum()} of {sum(held.part.expected.values())} usable; "
                f"complete the dataset ({held.part.obtain}) or set {where}.count={pool.sum()}"
            )
        mask = np.zeros(len(pool), bool)
        members = np.flatnonzero(pool)
        mask[members[chosen(held.keys[members], held.mos[members], take.count, self.seed)]] = True
        return mask

    def _in_split(self, clips: Iterable[Clip], split: str) -> Iterator[Clip]:
        """Clips under the split that they are used in; no content lies in two."""
        for clip in clips:
            if self.divided:
                self.splits.put(clip.id, clip.content, split)
            yield replace(clip, split=split)

    def _timed(self, clips: Iterable[Clip], account: Account, leave_out: Callable[[Excluded], None]) -> Iterator[Clip]:
        """Clips whose file is as long as the streaming timeline that their label file tells, to a second; how many are
        so to the frame is counted. Stalls of another file would be told at the wrong frames."""
        assert self.index is not None
        for clip in clips:
            if clip.tags.get("set") == "streaming":
                told, found = int(clip.tags["frames"]), self.index.found(clip.path)["frames"]
                if abs(told - found) > float(clip.tags["fps"]):
                    reason = f"other length: {found} frames, {told} in its label file"
                    leave_out(Excluded(source=clip.dataset, where=clip.path, id=clip.id, reason=reason))
                    continue
                account.timelines["exact" if told == found else "off by up to a second"] += 1
            yield clip

    def _rendered(self, clips: Iterable[Clip], leave_out: Callable[[Excluded], None]) -> Iterator[Clip]:
        """Clips whose file is there: those of stage 1 are made where they are not what their recipe says."""
        extract, index = self.plan.extract, self.index
        assert index is not None
        for window in batches(clips, WINDOW // 8):
            recipes = {}
            if extract is not None:
                recipes = {
                    c.id: fingerprint([c.tags, extract.max_height, extract.qp]) for c in window if "of" in c.tags
                }
            todo = [c for c in window if c.id in recipes and not index.fresh(c.path, recipes[c.id])]
            tasks = [(self.root, c, extract.max_height, extract.qp) for c in todo if extract is not None]
            results = self.workers.map(render, tasks, (None, "unreadable file: the decoder crashed"))
            errors = {}
            for clip, (found, error) in zip(todo, results):
                index.add(clip.path, recipes[clip.id], found, error)
                if error:
                    errors[clip.id] = error
            for clip in window:
                if clip.id in errors:
                    leave_out(Excluded(source=clip.dataset, where=clip.path, id=clip.id, reason=errors[clip.id]))
                else:
                    yield clip
