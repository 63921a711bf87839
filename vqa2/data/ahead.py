"""Clips for inference: one or two files behind a question, decoded in worker processes ahead of the model.

Shapes: K key frames, T motion frames (see vqa2/data/video.py).
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vqa2.core.errors import MediaError
from vqa2.core.records import Query
from vqa2.data.video import Size, Video, VideoSpec, probe, read_media

_EMPTY = np.zeros(0)
_Sent = tuple[str, torch.Tensor, torch.Tensor, Video] | tuple[str, MediaError]


@dataclass(frozen=True)
class Reader:
    """Reads what a question is about; sizes are (height, width)."""

    key_size: Size
    motion_size: Size
    video: VideoSpec

    def __call__(self, query: Query) -> Video:
        """The clip, or both clips one after the other. MediaError for a file that cannot be read."""
        first = read_media(query.path, query.kind, self.key_size, self.motion_size, self.video)
        if query.second is None:
            return first
        second = read_media(query.second, query.kind, self.key_size, self.motion_size, self.video)
        return joined(first, second, self.video.max_motion_frames)

    def frames(self, query: Query) -> tuple[int, int]:
        """(key frames, motion frames) by the files' headers; (0, 0) where they cannot be read."""
        try:
            paths = [p for p in (query.path, query.second) if p is not None]
            counts = [probe(path, query.kind, self.video.frame_multiple) for path in paths]
        except MediaError:
            return 0, 0
        return sum(k for k, _ in counts), sum(t for _, t in counts)


def joined(first: Video, second: Video, max_motion_frames: int) -> Video:
    """Two clips as one, the second after the first. MediaError where they have too many motion frames together."""
    count = len(first.motion) + len(second.motion)
    if count > max_motion_frames:
        raise MediaError(second.path, f"{count} frames with {first.path}, {max_motion_frames} are the most")
    # The second clip starts after all frames of the first, the last of which may be cut off its motion frames.
    end = max(first.key_times[-1], first.motion_times[-1]) + 1 / first.fps
    return replace(
        first,
        key=np.concatenate([first.key, second.key]),
        motion=np.concatenate([first.motion, second.motion]),
        key_times=np.concatenate([first.key_times, second.key_times + end]),
        motion_times=np.concatenate([first.motion_times, second.motion_times + end]),
        motion_second=np.concatenate([first.motion_second, second.motion_second + len(first.key)]),
        second_from=float(end),
    )


class Ahead:
    """Clips in the order that `plan` announced, decoded by `workers` processes, two clips each ahead of the caller;
    those that are passed over are dropped. Without workers, or beside the plan, the caller's process decodes."""

    def __init__(self, reader: Reader, workers: int) -> None:
        self.reader, self.workers = reader, workers
        self._order: deque[str] = deque()
        self._sent: Iterator[_Sent] = iter(())

    def plan(self, queries: Sequence[Query]) -> None:
        """What `read` will be asked for, in order; an earlier plan is dropped."""
        if not self.workers:
            return
        # A generator of its own: a loader draws from the process's, which training may be using.
        loader = DataLoader(_Clips(self.reader, queries), batch_size=None, num_workers=self.workers,
                            collate_fn=_same, generator=torch.Generator())  # fmt: skip
        self._order, self._sent = deque(q.id for q in queries), iter(loader)

    def read(self, query: Query) -> Video:
        """The clip; MediaError for a file that cannot be read, wherever it was read."""
        if query.id not in self._order:
            return self.reader(query)
        sent = next(self._sent)
        while self._order.popleft() != query.id:
            sent = next(self._sent)
        if not self._order:
            self._sent = iter(())  # ends the workers
        assert sent[0] == query.id
        if isinstance(sent[1], MediaError):
            raise sent[1]
        _, key, motion, rest = sent
        return replace(rest, key=key.numpy(), motion=motion.numpy())


class _Clips(Dataset):
    """Frames travel as tensors, which worker processes hand over in shared memory."""

    def __init__(self, reader: Reader, queries: Sequence[Query]) -> None:
        self.reader, self.queries = reader, queries

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, index: int) -> _Sent:
        query = self.queries[index]
        try:
            video = self.reader(query)
        except MediaError as err:
            return query.id, err
        frames = (torch.from_numpy(np.ascontiguousarray(f)) for f in (video.key, video.motion))
        return (query.id, *frames, replace(video, key=_EMPTY, motion=_EMPTY))


def _same(sample: _Sent) -> _Sent:
    return sample
