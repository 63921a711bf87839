"""Clips for inference: one or two files behind a question, decoded in worker processes ahead of the model.

Shapes: K key frames, T motion frames (see vqa2/data/video.py).
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import chain
from multiprocessing import connection

import numpy as np
import torch
import torch.multiprocessing  # noqa: F401 - teaches processes to hand tensors over in shared memory

from vqa2.core.errors import MediaError
from vqa2.core.records import Query
from vqa2.data.video import Size, Video, VideoSpec, probe, read_media

_EMPTY = np.zeros(0)
_Sent = tuple[torch.Tensor, torch.Tensor, Video] | MediaError


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
    """Clips in the order that `plan` announced, decoded by `workers` processes ahead of the caller: two clips a worker
    and one of the caller's batches, so that they go on while the model works. Those that are passed over are dropped.
    Without workers, or beside the plan, the caller's process decodes.

    A clip that ends its process (a decoder that crashes, a process killed for memory) is read once more, alone in a
    process of its own; where that ends too, the clip is a MediaError and the others go on.
    """

    def __init__(self, reader: Reader, workers: int) -> None:
        self.reader, self.workers = reader, workers
        self._todo: deque[Query] = deque()
        self._sent: deque[tuple[Query, Future[_Sent]]] = deque()
        self._pool: ProcessPoolExecutor | None = None

    def plan(self, queries: Sequence[Query]) -> None:
        """What `read` will be asked for, in order; an earlier plan is dropped, and with it what is on its way."""
        self._end()
        self._sent.clear()
        self._todo = deque(queries if self.workers else ())
        self._send(2 * self.workers)

    def read(self, queries: Sequence[Query]) -> list[Video | MediaError]:
        """The clips of a batch; in place of one that cannot be read, wherever it was read, the reason."""
        depth = 2 * self.workers + len(queries)
        return [_received(self._one(query, depth)) for query in queries]

    def _one(self, query: Query, depth: int) -> _Sent:
        if all(query.id != q.id for q in chain((q for q, _ in self._sent), self._todo)):
            return _read(self.reader, query)
        found = None
        while found is None:
            self._send(depth)
            announced, future = self._sent.popleft()
            if announced.id == query.id:
                found = self._result(query, future)
            else:
                future.cancel()
        self._send(depth)
        if not self._sent:
            self._end()
        return found

    def _send(self, depth: int) -> None:
        """Hands out clips until `depth` of them are on their way."""
        while self._todo and len(self._sent) < depth:
            query = self._todo.popleft()
            self._sent.append((query, self._submit(query)))

    def _submit(self, query: Query) -> "Future[_Sent]":
        self._pool = self._pool or _pool(self.workers)
        try:
            return self._pool.submit(_read, self.reader, query)
        except BrokenProcessPool as err:
            broken: Future[_Sent] = Future()
            broken.set_exception(err)
            return broken

    def _result(self, query: Query, future: "Future[_Sent]") -> _Sent:
        try:
            return future.result()
        except BrokenProcessPool:
            # Some clip on its way did it: this one shows itself alone, the others that are not read are sent again.
            self._end()
            self._sent = deque((q, f if _is_read(f) else self._submit(q)) for q, f in self._sent)
        with _pool(1) as alone:
            try:
                return alone.submit(_read, self.reader, query).result()
            except BrokenProcessPool:
                return MediaError(query.path, "the process that decoded it died, twice")

    def _end(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


def _is_read(future: "Future[_Sent]") -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, initializer=_watch)


def _watch() -> None:
    """In a worker: Ctrl-C is the parent's to handle, and where the parent was killed there is nobody to work for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)  # the parent's threads are not there after a fork, and waiting for them is for ever
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _read(reader: Reader, query: Query) -> _Sent:
    """Frames travel as tensors, which processes hand over in shared memory."""
    try:
        video = reader(query)
    except MediaError as err:
        return err
    frames = (torch.from_numpy(np.require(f, requirements="CW")) for f in (video.key, video.motion))
    return (*frames, replace(video, key=_EMPTY, motion=_EMPTY))


def _received(sent: _Sent) -> Video | MediaError:
    if isinstance(sent, MediaError):
        return sent
    key, motion, rest = sent
    return replace(rest, key=key.numpy(), motion=motion.numpy())
