"""What set writers share: seeded generators per clip, selection of clips, rows."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from vqa2.core.records import Clip, Instruction, Turn


def rng_of(seed: int, *names: str) -> np.random.Generator:
    """A generator that depends on the seed and the names alone, not on the order of work."""
    return np.random.default_rng(int(hashlib.sha256("/".join([str(seed), *names]).encode()).hexdigest()[:12], 16))


def rated(clips: Iterable[Clip], *, streaming: bool = False) -> Iterator[Clip]:
    """The rated video clips with (or without) a streaming timeline, as they come."""
    return (
        c for c in clips if c.kind == "video" and c.mos is not None and (c.tags.get("set") == "streaming") == streaming
    )


def videos(clips: Iterable[Clip]) -> list[Clip]:
    """The rated video clips without a streaming timeline."""
    return list(rated(clips))


def row(clip: Clip, task: str, suffix: str, user: str, assistant: str, **tags: str) -> Instruction:
    """One instruction about a clip; carries the clip's distortion, rule and prompt (of a generated one) as tags."""
    first = clip.distortions[0] if clip.distortions else None
    known = {
        "distortion": first.name if first else "none",
        "variant": (first.variant or first.name) if first else "none",
        "mos_rule": clip.mos_rule,
        "split": clip.split,
        **({"prompt": clip.tags["prompt"]} if "prompt" in clip.tags else {}),
    }
    return Instruction(
        id=f"{clip.id}{suffix}",
        clip_id=clip.id,
        kind=clip.kind,
        media=clip.path,
        task=task,
        turns=(Turn(user=user, assistant=assistant),),
        mos=clip.mos,
        tags={**known, **tags},
    )


def asked(questions: Sequence[str], seed: int, name: str, clip: Clip) -> str:
    """A set's wording for a clip: drawn by seed for training; else the first, which inference asks."""
    if clip.split != "train" or len(questions) == 1:
        return questions[0]
    return questions[int(rng_of(seed, name, "wording", clip.id).integers(len(questions)))]


def by_split(rows: list[Instruction]) -> dict[str, list[Instruction]]:
    """Rows grouped by their clip's split."""
    return {split: [r for r in rows if r.tags["split"] == split] for split in ("train", "test")}
