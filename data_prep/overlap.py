"""Training refuses what it will be tested on: rows of the train sets against those of all other splits and lists of
held-out clips.

At the start of a run, by name and by the file hashes that data_prep recorded: seconds, no decoding. What shows the same
under another name is found by `python -m data_prep leaks`.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from data_prep._files import recorded_media
from data_prep._names import NameRules, read_names, same_names
from vqa2.core.errors import DataError

_SHOWN = 3
_NO_SPLIT = {"excluded", "media"}
"""What stands in a file's name where a set's rows have their split."""


def overlap(root: Path, held_out: Iterable[str], rules: NameRules) -> list[tuple[str, str]]:
    """(train clip, what it is in) of every training clip of the data root that is also a test clip.

    `held_out`: further lists, in any form that `leaks` reads; one in a folder of the root names clips of the dataset of
    that folder. `rules`: those of conf/leaks.yaml.
    """
    train, rest = _media(root)
    hashes = recorded_media(root)
    found = []
    for name, others in [("the test sets", rest), *((p, _held_out(Path(p), rules)) for p in held_out)]:
        found += [(clip, name) for clip in sorted(train.intersection(others))]
        known = {hashes[other]: other for other in others if other in hashes}
        found += [(clip, f"{name}, as {known[hashes[clip]]}") for clip in sorted(train.difference(others))
                  if clip in hashes and hashes[clip] in known]  # fmt: skip
        if name != "the test sets":
            folders = Path(name).relative_to(root).parts[:-1] if Path(name).is_relative_to(root) else ()
            dataset = folders[0] if folders else None
            parts = [{n: rules.parts(n, None) for n in sorted(train)}, {n: rules.parts(n, dataset) for n in others}]
            found += [(m.a, f"{name}, as {m.b}") for m in same_names(*parts) if m.certain and m.a != m.b]
    return list(dict.fromkeys(found))


def refuse_overlap(root: Path, held_out: Iterable[str], rules: NameRules) -> None:
    """DataError where a training clip is a test clip."""
    found = overlap(root, held_out, rules)
    if not found:
        return
    clips = len({clip for clip, _ in found})
    shown = "; ".join(f"{clip} is in {where}" for clip, where in found[:_SHOWN])
    more = " …" if len(found) > _SHOWN else ""
    raise DataError(
        f"{root}: {clips} training clips are test clips: {shown}{more}; take them out, or train all the same with "
        "data.overlap=allow"
    )


def _held_out(path: Path, rules: NameRules) -> list[str]:
    if not path.exists():
        raise DataError(f"data.held_out: {path}: no such list; put it there, or take it out of data.held_out")
    return read_names(path, rules)


def _media(root: Path) -> tuple[set[str], set[str]]:
    """Media of all train rows, and of the rows of all other splits; those of sets in a folder (agent/planner) too.
    Text-only rows have none."""
    train: set[str] = set()
    rest: set[str] = set()
    for path in sorted([*root.glob("*.*.jsonl"), *root.glob("*/*.*.jsonl")]):
        split = path.suffixes[-2][1:]
        if split in _NO_SPLIT:
            continue
        found = train if split == "train" else rest
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    found.add(json.loads(line)["media"])
                except (json.JSONDecodeError, KeyError, TypeError):
                    raise DataError(f"{path}:{number}: no instruction row") from None
    return train - {None}, rest - {None}
