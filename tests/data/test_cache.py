"""Decoded clips are kept within a limit, and asked for with other sizes they are decoded anew."""

import numpy as np
import pytest
from media import numbered, write_clip

from vqa2.core.errors import MediaError
from vqa2.data import dataset
from vqa2.data.dataset import ClipCache
from vqa2.data.video import VideoSpec, read_media

VIDEO = VideoSpec(backend="pyav", deadline_s=20.0, frame_multiple=4, max_motion_frames=2000)


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The names of the files that were decoded, in order."""
    names: list[str] = []

    def reading(path, *rest):
        names.append(path.name)
        return read_media(path, *rest)

    monkeypatch.setattr(dataset, "read_media", reading)
    return names


def test_a_clip_is_decoded_once_and_other_sizes_anew(tmp_path, decoded):
    path = tmp_path / "a.mkv"
    write_clip(path, numbered(8), 8)
    clips = ClipCache(64)
    first = clips.read(path, "video", (32, 32), (16, 16), VIDEO)
    assert clips.read(path, "video", (32, 32), (16, 16), VIDEO) is first
    smaller = clips.read(path, "video", (32, 32), (8, 8), VIDEO)
    assert smaller.motion.shape[1:] == (8, 8, 3)
    assert decoded == ["a.mkv", "a.mkv"]
    assert np.array_equal(first.motion, read_media(path, "video", (32, 32), (16, 16), VIDEO).motion)


def test_beyond_the_limit_clips_are_read_each_time(tmp_path, decoded):
    for name in ("a.mkv", "b.mkv"):
        write_clip(tmp_path / name, numbered(8), 8)
    # One clip of 8 motion frames of 192 x 192 and a key frame of 256 x 256 takes 1.03 MiB of the 2.
    clips = ClipCache(2)
    for name in ("a.mkv", "b.mkv", "a.mkv", "b.mkv"):
        clips.read(tmp_path / name, "video", (256, 256), (192, 192), VIDEO)
    assert decoded == ["a.mkv", "b.mkv", "b.mkv"]


def test_a_broken_clip_is_not_remembered(tmp_path):
    path = tmp_path / "a.mkv"
    path.write_bytes(b"no film")
    clips = ClipCache(64)
    with pytest.raises(MediaError):
        clips.read(path, "video", (32, 32), (16, 16), VIDEO)
    write_clip(path, numbered(8), 8)
    assert len(clips.read(path, "video", (32, 32), (16, 16), VIDEO).motion) == 8
