"""What makes a set traceable: its manifest, and the checks that no content crosses the split and no row is stale."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from data_prep._files import read_record, write_whole
from data_prep.sources.labelled import key_of
from vqa2.core.errors import DataError
from vqa2.core.records import Clip, Instruction
from vqa2.core.run import git_state, sha256_of


class Splits:
    """The split of every content, of which none lies in two."""

    def __init__(self) -> None:
        self._of: dict[int, str] = {}

    def put(self, clip: str, content: str, split: str) -> None:
        """Notes what a clip shows; DataError where another split shows it already."""
        before = self._of.setdefault(key_of(content), split)
        if before != split:
            raise DataError(f"{clip}: content {content!r} lies in both splits, {before} and {split}")


def check_split(clips: Sequence[Clip]) -> None:
    """No content in both splits, neither as the scene nor in front of it; DataError names the first that is.

    A content is a source picture, a file, or a family of procedural textures (`family#number`).
    """
    splits = Splits()
    for clip in clips:
        shown = [clip.content, clip.tags["foreground_content"]] if "foreground_content" in clip.tags else [clip.content]
        for content in shown:
            splits.put(clip.id, content.partition("#")[0], clip.split)


def check_media(root: Path, sets: Set[str], media: str) -> None:
    """Refuses to put other media under sets that are not written again: their rows would tell of files now gone."""
    stale = []
    for path in sorted(root.glob("*.manifest.json")):
        old = read_record(path)
        if old["set"] not in sets and old.get("media") != media:
            stale.append(old["set"])
    if stale:
        raise DataError(f"{root}: {', '.join(stale)} there tell of other media; use set=all or another out=<folder>")


def counts_of(splits: Mapping[str, Sequence[Instruction]]) -> dict[str, Any]:
    """Rows, kinds and tasks per split."""
    return {
        "rows": {split: len(rows) for split, rows in splits.items()},
        "kinds": {split: dict(Counter(r.kind for r in rows)) for split, rows in splits.items()},
        "tasks": {split: dict(Counter(r.task for r in rows)) for split, rows in splits.items()},
    }


def write_manifest(
    root: Path, key: str, files: Sequence[str], counts: Mapping[str, Any], made: Mapping[str, Any]
) -> None:
    """`<key>.manifest.json`: what `made` says (source, seed, media, exclusions), git, counts, hashes of `files`."""
    manifest = {
        "set": key,
        **made,
        **counts,
        "git": git_state(),
        "sha256": {name: sha256_of(root / name) for name in files},
        "media_sha256": sha256_of(root / "media" / "index.json"),
    }
    write_whole(root / f"{key}.manifest.json", json.dumps(manifest, indent=1, sort_keys=True) + "\n")
