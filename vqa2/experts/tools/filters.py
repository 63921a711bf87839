"""Expert `filters`: a number that an FFmpeg filter writes into the metadata of every frame, through PyAV's own FFmpeg.

One component, many experts: conf/expert/{blur,block,spatial_information,...}.yaml name the filter graph and the key.
Every graph starts with `format=yuv420p`, so that RGB stills and high bit depths are read on one scale. Pooling: mean,
largest, 90th percentile or standard deviation over the frames that carry the key.
"""

from collections.abc import Iterator
from typing import Literal

import av
import numpy as np

from vqa2.core.config import register
from vqa2.core.errors import MediaError
from vqa2.experts.base import Info, Media, NotApplicable, Raw

Pooling = Literal["mean", "max", "p90", "std"]
_POOL = {"mean": np.mean, "max": np.max, "p90": lambda x: np.percentile(x, 90), "std": np.std}


@register("expert", "filters")
class Filters:
    """`graph`: FFmpeg filters, comma separated, as on its command line; `key`: the metadata read; `pool`: how frames
    become one score; `skip`: first frames left out (difference filters have no value there)."""

    info: Info
    graph: str
    key: str
    pool: Pooling
    skip: int

    def missing(self) -> str:
        absent = [f for f in self._names() if f not in av.filter.filters_available]
        return f"PyAV's FFmpeg has no filter {absent[0]!r}; install av>=18 from PyPI" if absent else ""

    def content(self) -> str:
        return ""

    def open(self) -> "Filtered":
        return Filtered(self)

    def _names(self) -> list[str]:
        return [part.partition("=")[0] for part in self.graph.split(",")]


class Filtered:
    """Holds no state between media."""

    def __init__(self, made: Filters) -> None:
        self._made = made

    def score(self, media: Media, reference: Media | None, prompt: str | None) -> Raw:
        """The pooled value. `parts`: its spread over frames, and how many had no number. An infinite value (blockiness
        of flat blocks) counts as the end of the raw range. NotApplicable where no frame carries the key."""
        found = [float(v) for v in self._values(media)][self._made.skip :]
        values = [min(max(v, self._made.info.raw_range[0]), self._made.info.raw_range[1]) for v in found if v == v]
        if not values:
            raise NotApplicable(f"{self._made.graph} gives no {self._made.key} for this media")
        missing = float(len(found) - len(values))
        parts = {"std": float(np.std(values)), "frames without": missing}
        return Raw(value=float(_POOL[self._made.pool](values)), parts=parts)

    def _values(self, media: Media) -> Iterator[str]:
        try:
            with av.open(str(media.path), metadata_errors="replace") as container:
                if not container.streams.video:
                    raise MediaError(media.path, "has no video stream")
                graph = self._graph(container.streams.video[0])
                for frame in container.decode(video=0):
                    graph.push(frame)
                    yield from self._pulled(graph)
                graph.push(None)
                yield from self._pulled(graph)
        except av.FFmpegError as err:
            raise MediaError(media.path, f"corrupt or not a video ({' '.join(str(err.strerror).split())})") from None

    def _graph(self, stream: av.VideoStream) -> av.filter.Graph:
        graph = av.filter.Graph()
        nodes = [graph.add_buffer(template=stream)]
        for part in self._made.graph.split(","):
            name, _, arguments = part.partition("=")
            nodes.append(graph.add(name, arguments or None))
        nodes.append(graph.add("buffersink"))
        graph.link_nodes(*nodes)
        graph.configure()
        return graph

    def _pulled(self, graph: av.filter.Graph) -> Iterator[str]:
        while True:
            try:
                frame = graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            if self._made.key in frame.metadata:
                yield frame.metadata[self._made.key]
