"""Video reading: the released sampling, exact pixels, rotation, three backends, and every way a file can be broken."""

import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from media import numbered, write_clip
from PIL import Image

from vqa2.core.errors import MediaError
from vqa2.data import video as module
from vqa2.data.video import Quarantine, Stream, VideoSpec, probe, read_image, read_media, read_video

CLIPS = Path(__file__).parents[3] / "shared" / "data" / "clips"
REFERENCE = Path(__file__).parents[3] / "shared" / "data" / "reference"
SIZE = (24, 32)


def spec(**changes) -> VideoSpec:
    return VideoSpec(
        **{"backend": "pyav", "deadline_s": 20.0, "frame_multiple": 4, "max_motion_frames": 2000, **changes}
    )


def fake(monkeypatch, fps: float, count: int, pause: float = 0.0) -> None:
    """A backend that plays numbered frames."""

    def frames() -> Iterator[np.ndarray]:
        for t in range(count):
            time.sleep(pause)
            yield np.full((4, 4, 3), t % 251, np.uint8)

    monkeypatch.setitem(module._BACKENDS, "pyav", lambda path: Stream(fps, count, frames()))


# Frames, rate -> key frames and motion frames of the official loader (../shared/data/reference/golden_sampling.json).
GOLDEN = [
    (22, 8.0, [0, 8, 16], 20),
    (240, 29.97, list(range(0, 240, 30)), 240),
    (250, 25.0, list(range(0, 250, 25)), 248),
    (301, 30.0, list(range(0, 301, 30)), 300),
    (30, 12.5, [0, 12, 24], 28),
]


@pytest.mark.parametrize(("count", "fps", "keys", "motion"), GOLDEN)
def test_sampling_is_the_official_one(monkeypatch, tmp_path, count, fps, keys, motion):
    fake(monkeypatch, fps, count)
    (tmp_path / "a").write_bytes(b"x")
    got = read_video(tmp_path / "a", (4, 4), (4, 4), spec())
    assert got.key[:, 0, 0, 0].tolist() == [k % 251 for k in keys]
    assert len(got.motion) == motion
    assert got.motion_second.tolist() == [t // round(fps) for t in range(motion)]
    assert got.key_times == pytest.approx([k / fps for k in keys])


def test_pixels_are_pil_bicubic_of_the_decoded_frames(tmp_path):
    frames = numbered(10)
    write_clip(tmp_path / "a.mkv", frames, 5)
    got = read_video(tmp_path / "a.mkv", SIZE, (8, 16), spec())
    assert np.array_equal(got.key, frames[[0, 5]])
    resized = np.stack([np.asarray(Image.fromarray(f).resize((16, 8), Image.Resampling.BICUBIC)) for f in frames[:8]])
    assert np.array_equal(got.motion, resized)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="../shared/data/reference is not here")
def test_resizing_equals_the_official_first_frame():
    truth = np.load(REFERENCE / "video.npz")
    got = module._resize(Image.fromarray(truth["frames"][0]), (384, 384))
    assert np.array_equal(got.transpose(2, 0, 1), truth["frame0_resized_u8"])


def test_decord_gives_the_same_pixels(tmp_path):
    write_clip(tmp_path / "a.mp4", numbered(24), 8, "libx264", "yuv420p", crf="12")
    one = read_video(tmp_path / "a.mp4", SIZE, SIZE, spec())
    other = read_video(tmp_path / "a.mp4", SIZE, SIZE, spec(backend="decord"))
    assert np.array_equal(one.key, other.key)
    assert np.array_equal(one.motion, other.motion)


def test_a_still_is_four_equal_frames_upright(tmp_path):
    picture = numbered(1)[0]
    image = Image.fromarray(picture)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    got = read_media(tmp_path / "a.png", "image", (32, 24), (32, 24), spec())
    assert got.key.shape == (1, 32, 24, 3)
    assert got.motion.shape == (4, 32, 24, 3)
    assert np.array_equal(got.key[0], np.rot90(picture, -1))
    assert all(np.array_equal(f, got.motion[0]) for f in got.motion)


def test_a_still_of_16_bits_is_scaled_and_one_of_32_bits_refused(tmp_path):
    """Pillow's own conversion to RGB cuts 16 bits off at 255."""
    Image.fromarray(np.full((8, 8), 30000, np.uint16)).save(tmp_path / "deep.png")
    assert (read_image(tmp_path / "deep.png", SIZE, SIZE).key == round(30000 / 257)).all()
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(MediaError, match="float.tiff: pixels of 32 bits"):
        read_image(tmp_path / "float.tiff", SIZE, SIZE)


def test_a_broken_or_huge_still_is_one_line(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(MediaError, match="cut.png: not a readable image"):
        read_image(tmp_path / "cut.png", SIZE, SIZE)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(MediaError, match="a.png: not a readable image .DecompressionBombError"):
        read_image(tmp_path / "a.png", SIZE, SIZE)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("zero.mp4", b"", "empty file"),
        ("text.mp4", b"I am a text file\n" * 50, "not a readable video"),
        ("noise.mp4", bytes(range(256)) * 40, "not a readable video"),
    ],
)
@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_what_is_no_video_is_said(tmp_path, name, content, reason, backend):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError, match=reason) as caught:
        read_video(tmp_path / name, SIZE, SIZE, spec(backend=backend))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", ["pyav", "decord"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_truncated_file_is_an_error_not_a_short_clip(tmp_path, share, backend):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (60, 48, 64, 3), dtype=np.uint8)
    write_clip(tmp_path / "whole.mp4", frames, 10, "libx264", "yuv420p", movflags="faststart")
    whole = tmp_path / "front.mp4"
    with (
        av.open(str(tmp_path / "whole.mp4")) as source,
        av.open(str(whole), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    content = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(MediaError, match="truncated|corrupt|not a readable"):
        read_video(tmp_path / "cut.mp4", SIZE, SIZE, spec(backend=backend))


def test_a_missing_file_a_still_clip_and_a_slow_rate(tmp_path, monkeypatch):
    with pytest.raises(MediaError, match="no such file"):
        read_video(tmp_path / "none.mp4", SIZE, SIZE, spec())
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(MediaError, match="not a readable image"):
        read_image(tmp_path / "a.png", SIZE, SIZE)
    (tmp_path / "a").write_bytes(b"x")
    for fps, count, reason in ((0.4, 9, "below 0.5"), (8.0, 3, "only 3 frames"), (30.0, 2001, "more than 2000 frames")):
        fake(monkeypatch, fps, count)
        with pytest.raises(MediaError, match=reason):
            read_video(tmp_path / "a", (4, 4), (4, 4), spec())


def test_a_deadline_ends_every_read(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"x")
    fake(monkeypatch, 8.0, 1000, pause=0.02)
    started = time.monotonic()
    with pytest.raises(MediaError, match="deadline of 0.2 s"):
        read_video(tmp_path / "a", (4, 4), (4, 4), spec(deadline_s=0.2))
    monkeypatch.setitem(module._BACKENDS, "decord", lambda path: time.sleep(5))
    with pytest.raises(MediaError, match="deadline of 0.2 s"):
        read_video(tmp_path / "a", (4, 4), (4, 4), spec(deadline_s=0.2, backend="decord"))
    assert time.monotonic() - started < 3


def test_a_media_error_crosses_processes_whole():
    err = pickle.loads(pickle.dumps(MediaError("a.mp4", "empty file (0 bytes)")))
    assert (str(err), err.path, err.reason) == ("a.mp4: empty file (0 bytes)", "a.mp4", "empty file (0 bytes)")


def test_the_quarantine_list_keeps_each_file_once(tmp_path):
    path = tmp_path / "quarantine.jsonl"
    assert Quarantine.read(path) == {}
    for _ in range(2):
        Quarantine.add(path, MediaError("a.mp4", "empty file (0 bytes)"))
    assert Quarantine.read(path) == {"a.mp4": "empty file (0 bytes)"}
    assert len(path.read_text().splitlines()) == 1


@pytest.mark.skipif(not CLIPS.is_dir(), reason="../shared/data/clips is not here")
@pytest.mark.parametrize("name", ["asl_walk.mkv", "campus_hlg10.mov", "bikes_cuts.mp4"])
def test_real_clips(name):
    got = read_video(CLIPS / name, (64, 64), (32, 32), spec())
    other = read_video(CLIPS / name, (64, 64), (32, 32), spec(backend="decord"))
    assert len(got.key) == len(other.key)
    assert np.abs(got.motion.astype(int) - other.motion).mean() < 2


@pytest.mark.skipif(not CLIPS.is_dir(), reason="../shared/data/clips is not here")
def test_a_portrait_recording_stands_upright():
    path = CLIPS / "wall_portrait_4k60.mp4"
    native = module._open_pyav(path)
    first = next(native.frames)
    assert first.shape[0] > first.shape[1]
    other = next(module._open_decord(path).frames)
    assert first.shape == other.shape
    assert np.abs(first[::40, ::40].astype(int) - other[::40, ::40]).mean() < 2


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_a_header_tells_what_reading_gives_also_where_it_counts_no_frames(tmp_path, name):
    path = tmp_path / name
    codec = ("ffv1", "bgr0") if name == "a.mkv" else ("libx264", "yuv420p")
    write_clip(path, numbered(22), 8, *codec)
    made = read_video(path, SIZE, SIZE, spec())
    assert probe(path, "video", 4) == (len(made.key), len(made.motion)) == (3, 20)
