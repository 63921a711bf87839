"""Clips decoded ahead: as on the spot, in the caller's order; a clip that ends its process fails alone."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from vqa2.core.errors import MediaError
from vqa2.core.records import Query
from vqa2.data.ahead import Ahead, Reader
from vqa2.data.video import Video, VideoSpec

SPEC = VideoSpec(backend="pyav", deadline_s=30.0, frame_multiple=4, max_motion_frames=400)
ENDS = {"exit": lambda: os._exit(3), "kill": lambda: os.kill(os.getpid(), signal.SIGKILL)}


@dataclass(frozen=True)
class Fatal(Reader):
    """A reader whose process ends at clips named so: always, or (`once`) the first time."""

    folder: Path

    def __call__(self, query: Query) -> Video:
        how, _, when = query.id.partition("-")
        seen = self.folder / query.id
        if how in ENDS and not (when == "once" and seen.exists()):
            seen.touch()
            ENDS[how]()
        (self.folder / f"read {query.id}").touch()
        return super().__call__(query)


@pytest.fixture(scope="module")
def clip(data_root):
    return min((data_root / "media" / "test").glob("*.mp4"))


def clips(path, *ids):
    return [Query(id=i, path=path, kind="video") for i in ids]


@pytest.fixture
def reader(tmp_path):
    return Fatal((32, 32), (32, 32), SPEC, tmp_path)


def test_decoded_ahead_is_what_is_decoded_on_the_spot(data_root, reader, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    paths = sorted((data_root / "media" / "test").glob("*.mp4"))[:5]
    queries = [Query(id=p.name, path=p, kind="video") for p in (*paths[:2], broken, *paths[2:])]
    ahead, direct = Ahead(reader, 2), Ahead(reader, 0)
    ahead.plan(queries)
    found = [*ahead.read(queries[:4]), *ahead.read(queries[4:])]
    for query, one, other in zip(queries, found, direct.read(queries), strict=True):
        if query.path == broken:
            assert one.reason == other.reason
            assert one.reason.startswith("not a readable video")
            continue
        np.testing.assert_array_equal(one.key, other.key)
        np.testing.assert_array_equal(one.motion, other.motion)
        assert (one.fps, one.path) == (other.fps, other.path)
    # What is passed over is dropped; a question before it, beyond the plan or after it is read on the spot.
    ahead.plan(queries[:2])
    for query in (queries[1], queries[0], queries[3]):
        np.testing.assert_array_equal(ahead.read([query])[0].key, direct.read([query])[0].key)
    ahead.plan(queries[:1])
    assert len(ahead.read(queries[:1])[0].key)


def test_a_batch_is_decoded_while_the_caller_works_on_the_last_one(clip, reader, tmp_path):
    queries = clips(clip, *"abcdefgh")
    ahead = Ahead(reader, 1)
    ahead.plan(queries)
    ahead.read(queries[:3])
    end = time.monotonic() + 30
    while not (tmp_path / "read f").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    ahead.plan(())


@pytest.mark.parametrize(("how", "workers"), [("exit", 1), ("kill", 2)])
def test_a_clip_that_ends_its_process_fails_alone(clip, reader, how, workers):
    ids = ["a", "b", "c", how, "d", "e", f"{how}-too", "f"]
    ahead = Ahead(reader, workers)
    ahead.plan(clips(clip, *ids))
    found = [*ahead.read(clips(clip, *ids[:4])), *ahead.read(clips(clip, *ids[4:]))]
    failed = {i: v.reason for i, v in zip(ids, found, strict=True) if isinstance(v, MediaError)}
    assert failed == dict.fromkeys([how, f"{how}-too"], "the process that decoded it died, twice")
    whole = reader(clips(clip, "x")[0])
    assert all(np.array_equal(v.key, whole.key) for v in found if isinstance(v, Video))


def test_a_process_that_was_killed_once_costs_no_clip(clip, reader):
    ids = ["a", "kill-once", "b"]
    ahead = Ahead(reader, 2)
    ahead.plan(clips(clip, *ids))
    assert all(isinstance(v, Video) for v in ahead.read(clips(clip, *ids)))


def test_decoding_processes_end_with_their_parent():
    script = r"""
import time
from vqa2.data.ahead import *
class Slow(Reader):
    def __call__(self, query):
        os.write(1, b"%d\n" % os.getpid())
        time.sleep(600)
ahead = Ahead(Slow((8, 8), (8, 8), None), 2)
ahead.plan([Query(id=i, path=i, kind="video") for i in "abcdef"])
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True,
                              cwd=Path(__file__).parents[2])  # fmt: skip
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 20
    while any(_runs(pid) for pid in workers):
        assert time.monotonic() < end, "a decoding process outlived its parent"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
