"""Which clips two collections share: by name, by file hash, by what they show. And the refusal to train on test clips.

Lists are compared by name; where media are there, files too. The overlap counts what is certain: names that agree in
more than the bare file name, equal files, equal pictures. Bare names are listed apart. What could not be compared is
counted.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from rich.console import Console

from data_prep._files import write_whole
from data_prep._names import NameRules, read_names, same_names
from data_prep._videohash import Signature, VideoRules, same_clips, signatures
from vqa2.core.config import spec
from vqa2.core.progress import bars
from vqa2.core.records import inside
from vqa2.core.run import sha256_of


@spec
class LeaksRun:
    """`a` against `b`; see conf/leaks.yaml."""

    a: str
    b: str
    a_root: str | None
    b_root: str | None
    a_dataset: str | None
    b_dataset: str | None
    out: str | None
    workers: Annotated[int, Ge(1)]
    names: NameRules
    video: VideoRules


@dataclass(frozen=True)
class Found:
    """A clip of A and one of B that agree, `how`: name, bare name, sha256 or video."""

    a: str
    b: str
    how: str
    detail: str = ""


@dataclass(frozen=True)
class _Side:
    """One collection: its names, and the files behind them where there is a root."""

    names: list[str]
    files: dict[str, Path]
    missing: list[str]


def leaks(run: LeaksRun, console: Console) -> dict[str, Any]:
    """Compares; prints the outcome, writes it under `out` where one is given, and returns it."""
    sides = _side(run.a, run.a_root, run.names), _side(run.b, run.b_root, run.names)
    parts = [{n: run.names.parts(n, d) for n in s.names} for s, d in zip(sides, (run.a_dataset, run.b_dataset))]
    found = [Found(m.a, m.b, "name" if m.certain else "bare name") for m in same_names(*parts)]
    failed: list[tuple[str, str]] = []
    with_files = bool(sides[0].files and sides[1].files)
    if with_files:
        found += _same_files(*sides)
        if run.video.enabled:
            seen, failed = _same_pictures(run, *sides)
            found += seen
    certain = [f for f in found if f.how != "bare name"]
    hit = {f.b for f in certain}
    kept = [n for n in sides[1].names if n not in hit]
    report = {
        "a": {"list": run.a, "clips": len(sides[0].names), "media": len(sides[0].files)},
        "b": {"list": run.b, "clips": len(sides[1].names), "media": len(sides[1].files)},
        "compared": ["name"] + (["sha256"] if with_files else []) + ["video"] * (with_files and run.video.enabled),
        "clips of a in b": len({f.a for f in certain}),
        "clips of b in a": len(hit),
        "clips of b not in a": len(kept),
        "by": {how: len({f.b for f in found if f.how == how}) for how in ("name", "sha256", "video", "bare name")},
        "found": [asdict(f) for f in found],
        "not compared": [list(f) for f in [*failed, *((n, "no such file") for s in sides for n in s.missing)]],
    }
    _tell(report, console)
    if run.out is not None:
        _write(Path(run.out), report, kept)
    return report


def _side(path: str, root: str | None, rules: NameRules) -> _Side:
    names = read_names(Path(path), rules)
    if root is None and not Path(path).is_dir():
        return _Side(names, {}, [])
    base = Path(path if root is None else root)
    files = {name: inside(base, name) for name in names}
    missing = [name for name, file in files.items() if not file.is_file()]
    return _Side(names, {n: f for n, f in files.items() if n not in set(missing)}, missing)


def _same_files(a: _Side, b: _Side) -> list[Found]:
    """Equal contents; only files whose size occurs on both sides are read."""
    sizes = [defaultdict(list), defaultdict(list)]
    for side, by_size in zip((a, b), sizes):
        for name, file in side.files.items():
            by_size[file.stat().st_size].append(name)
    found = []
    for size in sorted(sizes[0].keys() & sizes[1].keys()):
        hashes = defaultdict(list)
        for name in sizes[1][size]:
            hashes[sha256_of(b.files[name])].append(name)
        for name in sizes[0][size]:
            digest = sha256_of(a.files[name])
            found += [Found(name, other, "sha256", digest) for other in hashes[digest]]
    return found


def _same_pictures(run: LeaksRun, a: _Side, b: _Side) -> tuple[list[Found], list[tuple[str, str]]]:
    """Clips that show the same, and (name, reason) of those without a signature."""
    names = [*a.files, *b.files]
    files = [*a.files.values(), *b.files.values()]
    with bars() as shown:
        made = signatures(files, run.video, run.workers, partial(shown.add, "signatures", 1, len(set(files))))
    failed = [(name, s.reason) for name, s in zip(names, made) if not isinstance(s, Signature)]
    usable = [(name, s) for name, s in zip(names[: len(a.files)], made) if isinstance(s, Signature)]
    others = [(name, s) for name, s in zip(names[len(a.files) :], made[len(a.files) :]) if isinstance(s, Signature)]
    if not usable or not others:
        return [], failed
    found = []
    for same in same_clips([s for _, s in usable], [s for _, s in others], run.video):
        detail = f"{same.frames} of {same.of} frames, {same.offset_s:+.2f} s"
        found.append(Found(usable[same.a][0], others[same.b][0], "video", detail))
    return found, failed


def _tell(report: dict[str, Any], console: Console) -> None:
    by = ", ".join(f"{how} {count}" for how, count in report["by"].items() if how != "bare name")
    console.print(
        f"{report['clips of b in a']} of {report['b']['clips']} clips of {report['b']['list']} are in "
        f"{report['a']['list']} ({by}); {report['clips of b not in a']} are not; "
        f"compared by {', '.join(report['compared'])}",
        markup=False,
    )
    if report["by"]["bare name"]:
        console.print(
            f"{report['by']['bare name']} share the bare file name alone, which proves nothing (a_dataset, b_dataset "
            "tell datasets apart)",
            markup=False,
        )
    first: dict[str, str] = {}
    for name, reason in report["not compared"]:
        first.setdefault(reason, name)
    for reason, count in Counter(reason for _, reason in report["not compared"]).items():
        console.print(f"{count} not compared by content, {first[reason]} the first: {reason}", markup=False)


def _write(out: Path, report: dict[str, Any], kept: Sequence[str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "leaks.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    write_whole(out / "b_kept.txt", "".join(f"{name}\n" for name in kept))
