"""What a file is found to be: whole, cut off or no clip at all; readers that die; the index of what was found."""

import os
import re
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from media import write_clip
from PIL import Image

from data_prep._encode import write_video
from data_prep._media import MediaIndex, Workers, probe
from data_prep.doctor import problem
from data_prep.sources.labelled import reason_class
from vqa2.core.errors import MediaError

CLIPS = Path(__file__).parents[3] / "shared" / "data" / "clips"


# What is said of a file without its last part; `front` has its index before its frames.
CUT = {
    "front.mp4": r"cut-off file: \d+ of 60 frames",
    "front.mov": r"cut-off file: \d+ of 60 frames",
    "end.mp4": "unreadable file: Invalid data found when processing input",
    "m.mkv": r"cut-off file: ends at \d\.\d\d of 6\.00 s",
    "a.avi": r"cut-off file: ends at \d\.\d\d of 6\.00 s",
}


@pytest.mark.parametrize("name", CUT)
def test_a_download_that_broke_off_is_no_clip(name, tmp_path):
    path = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 256, (60, 48, 64, 3), dtype=np.uint8)
    write_clip(path, noise, 10, "libx264", "yuv420p", faststart=name.startswith("front"), bf="3")
    assert probe(path, "video").frames == 60
    assert problem(path, "video") == ""
    whole = path.read_bytes()
    for share in (0.9, 0.5):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(MediaError) as caught:
            probe(path, "video")
        assert re.fullmatch(CUT[name], caught.value.reason)
        assert reason_class(caught.value.reason) == CUT[name].partition(":")[0]
        assert problem(path, "video") == caught.value.reason


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("gone.mp4", "video", "missing file"),
        ("empty.mp4", "video", "unreadable file: empty"),
        ("page.mp4", "video", "unreadable file: Invalid data found when processing input"),
        ("page.png", "image", "unreadable file: no picture"),
        ("half.png", "image", "unreadable file: image file is truncated"),
        ("sound.wav", "video", "unreadable file: no video stream"),
        ("raw.yuv", "video", "unreadable file: raw YUV tells neither size nor frame rate; encode it"),
    ],
)
def test_what_is_no_clip_says_why_and_not_where_the_root_lies(name, kind, reason, tmp_path):
    path = tmp_path / name
    if name == "half.png":
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:-60])
    elif name == "sound.wav":
        with wave.open(str(path), "wb") as out:
            out.setparams((1, 2, 8000, 0, "NONE", ""))
            out.writeframes(bytes(1600))
    elif name != "gone.mp4":
        path.write_bytes(b"" if name == "empty.mp4" else b"<html>404</html>" * 30)
    with pytest.raises(MediaError) as caught:
        probe(path, kind)
    assert caught.value.reason == reason
    assert problem(path, kind) == reason


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are not here")
def test_real_clips_are_whole_and_their_beginnings_are_not(tmp_path):
    """Of any frame rate, with B-frames, sound, HDR and uneven times; then without the last tenth of the frames."""
    paths = sorted(p for p in CLIPS.iterdir() if p.suffix in (".mp4", ".mkv", ".mov"))
    assert len(paths) == 17
    assert {p.name: problem(p, "video") for p in paths} == dict.fromkeys((p.name for p in paths), "")
    for name in ("bikes_cuts", "konvid_2999049224", "london_roof_360p"):
        cut = tmp_path / f"{name}.mp4"
        with (
            av.open(str(CLIPS / f"{name}.mp4")) as source,
            av.open(str(cut), "w", options={"movflags": "faststart"}) as out,
        ):
            stream = out.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(source.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    out.mux(packet)
        assert problem(cut, "video") == ""
        cut.write_bytes(cut.read_bytes()[: int(0.9 * cut.stat().st_size)])
        assert re.fullmatch(r"cut-off file: \d+ of \d+ frames", problem(cut, "video"))


def _dies(path: str) -> str:
    if path == "bad":
        os._exit(1)
    return path


def test_a_file_that_kills_its_reader_costs_itself_alone():
    workers = Workers(2)
    tasks = [(name,) for name in ("a", "b", "bad", "c")]
    assert list(workers.map(_dies, tasks, "died")) == ["a", "b", "died", "c"]
    assert list(workers.map(_dies, tasks[:2], "died")) == ["a", "b"]
    workers.close()


def test_the_index_sees_a_changed_file(tmp_path):
    path = tmp_path / "v.mp4"
    write_video(path, np.zeros((4, 16, 16, 3), np.uint8), 10, "x264", 20)
    workers = Workers(1)
    index = MediaIndex(tmp_path, tmp_path, workers)
    assert index.probe(["v.mp4", "v.mp4"], "video") == {}
    assert index.probe(["v.mp4"], "video") == {}
    assert index.opened == 1
    path.write_bytes(b"")
    assert index.probe(["v.mp4"], "video") == {"v.mp4": "unreadable file: empty"}
    index.close()
