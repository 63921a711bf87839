"""Prompts on their way to the GRPO trainer: rows -> collated clean batch and perturbed copies of its videos.

A clip is decoded once for both. Of a perturbed copy only what differs is kept: its key frames are the clean ones in
another order, so `key_source` says which (and `key_frames` holds a black one where the perturbation put one), and the
vision tower has nothing to do again. Motion features depend on the order of frames and are computed anew.

A row asks for a rating (its MOS is the target) or, with the tag `answer`, for the letter of an option. A clip that
cannot be read costs its row, which is listed as broken.

Shapes: P prompts, L prompt tokens (padded on the left), K key frames and T motion frames of a clip.
"""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from vqa2.core.errors import DataError, MediaError
from vqa2.core.prompts import LETTERS
from vqa2.core.records import Instruction
from vqa2.data.video import Video
from vqa2.rewards.temporal import Temporal
from vqa2.train._perturb import BLACK, perturb

PER_FRAME = {"key_frames": 0, "key_features": 0, "motion_frames": 1, "motion_features": 1}
"""Media tensors with a row per frame, and the column of `clip_sizes` that counts a clip's."""


class Collate(Protocol):
    """Reads clips, and lays out prompts with clips that were read (and perhaps changed), padded on the left."""

    def read(self, row: Instruction) -> Video | None: ...

    def collate(self, rows: Sequence[Instruction], videos: Sequence[Video | None] | None = None) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Broken:
    """A prompt whose clip cannot be read: its row's id, the file, why."""

    prompt_id: str
    path: str
    reason: str


@dataclass(frozen=True)
class Pairs:
    """Rows -> the collated clean batch (None without a readable clip) and, where the temporal reward asks for it, the
    perturbed copies of its rated videos; `modes` of these by row id; `names` that tell the clips of the clean batch
    apart; `broken` rows, and `thumbnails` by row id.

    A clip's perturbation depends on the seed and its row id: workers and resumed runs draw the same.
    """

    collate: Collate
    temporal: Temporal | None
    seed: int

    def __call__(self, rows: list[Instruction]) -> dict[str, Any]:
        kept, videos, broken = [], [], []
        for row in rows:
            try:
                videos.append(self.collate.read(row))
                kept.append(row)
            except MediaError as err:
                broken.append(Broken(row.id, err.path, err.reason))
        moving = [k for k, row in enumerate(kept) if choice_of(row) is None and _moves(row, videos[k])]
        disturbed, modes = self._disturbed(kept, videos, moving) if self.temporal and moving else (None, {})
        return {
            "clean": self.collate.collate(kept, videos) if kept else None,
            "disturbed": disturbed,
            "modes": modes,
            # Prompts of different lengths may leave room for different numbers of key frames.
            "names": [(r.media, 0 if v is None else len(v.key)) for r, v in zip(kept, videos)],
            "broken": broken,
            "thumbnails": {r.id: thumbnail(v) for r, v in zip(kept, videos) if v is not None},
        }

    def _disturbed(
        self, rows: list[Instruction], videos: list[Video | None], moving: list[int]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        assert self.temporal is not None
        # Clean key frames lie one clip after the other; a black frame comes after the last.
        starts = np.cumsum([0] + [0 if v is None else len(v.key) for v in videos])
        changed, sources, modes = [], [], {}
        for k in moving:
            rng = np.random.default_rng([self.seed, *rows[k].id.encode()])
            video, source, modes[rows[k].id] = perturb(videos[k], self.temporal.perturbation, rng)
            changed.append(video)
            sources.append(np.where(source == BLACK, starts[-1], source + starts[k]))
        made = self.collate.collate([rows[k] for k in moving], changed)
        if "key_frames" in made:
            source = torch.from_numpy(np.concatenate(sources))
            made["key_frames"] = made["key_frames"][(source == starts[-1]).nonzero().flatten()[:1]]
            made["key_source"] = source
        return made, modes


def _moves(row: Instruction, video: Video | None) -> bool:
    """Whether there is an order of frames to disturb."""
    return row.kind == "video" and video is not None and len(video.motion) > 1


def thumbnail(video: Video) -> bytes:
    """The middle key frame as a JPEG of at most 128 px."""
    image, out = Image.fromarray(video.key[len(video.key) // 2]), io.BytesIO()
    image.thumbnail((128, 128))
    image.save(out, "JPEG", quality=75)
    return out.getvalue()


def choice_of(row: Instruction) -> str | None:
    """The letter of the right option of a multiple-choice row; None for rows that ask for a rating."""
    return row.tags.get("answer")


def prompt_batch(collated: dict[str, Any]) -> dict[str, Any]:
    """A collator's batch as `input_ids`, `attention_mask`, `media` (what `embed` takes beside the ids), `rows`
    and `dropped_key_frames`."""
    kept = ("input_ids", "attention_mask", "rows", "dropped_key_frames")
    media = {key: value for key, value in collated.items() if key not in (*kept, "labels")}
    return {key: collated[key] for key in kept} | {"media": media}


def take_clips(media: dict[str, Any], clips: Sequence[int]) -> dict[str, Any]:
    """The media of some of a batch's clips, one clip per prompt: tensors of frames are cut by K or T, all others have a
    row per clip."""
    made = {}
    for name, value in media.items():
        if name in PER_FRAME:
            parts = value.split(media["clip_sizes"][:, PER_FRAME[name]].tolist())
            made[name] = torch.cat([parts[k] for k in clips])
        else:
            made[name] = value[list(clips)]
    return made


def distinct(rows: Sequence[Instruction]) -> list[Instruction]:
    """The rows under ids of their own: a set of weight 2 holds every row twice, and groups are told apart by id."""
    seen: Counter[str] = Counter()
    made = []
    for row in rows:
        seen[row.id] += 1
        made.append(row if seen[row.id] == 1 else replace(row, id=f"{row.id}#{seen[row.id]}"))
    return made


def check_rows(rows: Sequence[Instruction]) -> None:
    """DataError naming the first row that GRPO cannot use: neither MOS nor letter to compare with, or an
    answer already written."""
    if not rows:
        raise DataError("grpo: no rows to train on")
    for row in rows:
        if row.media is None:
            raise DataError(f"{row.id}: a GRPO row needs a clip; keep image and video rows only")
        choice = choice_of(row)
        if choice is None and row.mos is None:
            raise DataError(
                f"{row.id}: a GRPO row needs a MOS (or the tag `answer` with a letter); keep rated clips only"
            )
        if choice is not None and choice not in tuple(LETTERS):
            raise DataError(f"{row.id}: the tag `answer` is {choice!r}; it must be one letter of {LETTERS}")
        if row.turns[-1].assistant:
            raise DataError(f"{row.id}: a GRPO row ends with a question; its last turn has an answer")
