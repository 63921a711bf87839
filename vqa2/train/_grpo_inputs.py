"""Prompts on their way to the GRPO trainer: rows -> collated clean batch and perturbed copies of its videos.

A clip is decoded once for both. Of a perturbed copy only what differs is kept: its key frames are the clean ones in
another order, so `key_source` says which (and `key_frames` holds a black one where the perturbation put one), and the
vision tower has nothing to do again. Motion features depend on the order of frames and are computed anew.

Shapes: P prompts, L prompt tokens (padded on the left), K key frames and T motion frames of a clip.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from vqa2.core.errors import DataError
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
class Pairs:
    """Rows -> the collated clean batch and, where the temporal reward asks for it, the perturbed copies of its videos.

    A clip's perturbation depends on the seed and its row id: workers and resumed runs draw the same.
    """

    collate: Collate
    temporal: Temporal | None
    seed: int

    def __call__(self, rows: list[Instruction]) -> dict[str, Any]:
        videos = [self.collate.read(row) for row in rows]
        moving = [k for k, row in enumerate(rows) if row.kind == "video"]
        disturbed = self._disturbed(rows, videos, moving) if self.temporal and moving else None
        return {"clean": self.collate.collate(rows, videos), "disturbed": disturbed}

    def _disturbed(self, rows: list[Instruction], videos: list[Video | None], moving: list[int]) -> dict[str, Any]:
        assert self.temporal is not None
        # Clean key frames lie one clip after the other; a black frame comes after the last.
        starts = np.cumsum([0] + [0 if v is None else len(v.key) for v in videos])
        changed, sources = [], []
        for k in moving:
            rng = np.random.default_rng([self.seed, *rows[k].id.encode()])
            video, source = perturb(videos[k], self.temporal.perturbation, rng)
            changed.append(video)
            sources.append(np.where(source == BLACK, starts[-1], source + starts[k]))
        made = self.collate.collate([rows[k] for k in moving], changed)
        if "key_frames" in made:
            source = torch.from_numpy(np.concatenate(sources))
            made["key_frames"] = made["key_frames"][(source == starts[-1]).nonzero().flatten()[:1]]
            made["key_source"] = source
        return made


def prompt_batch(collated: dict[str, Any]) -> dict[str, Any]:
    """A collator's batch as `input_ids`, `attention_mask`, `media` (what `embed` takes beside the ids) and `rows`."""
    known = ("input_ids", "attention_mask", "labels", "rows")
    media = {key: value for key, value in collated.items() if key not in known}
    return {key: collated[key] for key in ("input_ids", "attention_mask", "rows")} | {"media": media}


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


def check_rows(rows: Sequence[Instruction]) -> None:
    """DataError naming the first row that GRPO cannot use: no MOS to compare with, or an answer already written."""
    if not rows:
        raise DataError("grpo: no rows to train on")
    for row in rows:
        if row.media is None:
            raise DataError(f"{row.id}: a GRPO row needs a clip; keep image and video rows only")
        if row.mos is None:
            raise DataError(f"{row.id}: a GRPO row needs a MOS; keep rated clips only")
        if row.turns[-1].assistant:
            raise DataError(f"{row.id}: a GRPO row ends with a question; its last turn has an answer")
