"""Each expert moves in its declared direction when its distortion grows; every shipped expert answers for a clip."""

from pathlib import Path

import numpy as np
import pytest
from media import write_clip
from PIL import Image
from scipy import ndimage

from data_prep._degrade import degrade
from vqa2.core.config import build, decode
from vqa2.core.errors import ConfigError
from vqa2.experts._frames import enlarged, sampled, small
from vqa2.experts.base import Media
from vqa2.experts.pool import Pool, PoolSpec
from vqa2.experts.tools.temporal import displacement, flicker, jerk, stall, stutter
from vqa2.launch import composed

FR = ("psnr", "ssim", "ms_ssim", "gmsd", "vif", "vsi", "vmaf")


def scene(count: int = 16, step: float = 1.5, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """A textured picture that moves at constant speed, RGB uint8 `[T,H,W,3]`."""
    rng = np.random.default_rng(1)
    wide = ndimage.gaussian_filter(rng.random((size[0] + 40, size[1] + 80, 3)), (2, 2, 0))
    wide = ((wide - wide.min()) / np.ptp(wide) * 160 + 40).astype(np.float64)
    moved = [
        ndimage.shift(wide, (0, -step * t, 0), order=1)[20 : 20 + size[0], 40 : 40 + size[1]] for t in range(count)
    ]
    return np.stack(moved).round().astype(np.uint8)


def shipped(tmp_path: Path, *names: str) -> Pool:
    values = composed("experts", [])["experts"]
    tools = {n: values["tools"][n] for n in names} if names else values["tools"]
    changes = {"tools": tools, "isolation": "none", "calibration": str(tmp_path / "none")}
    return decode(PoolSpec, {**values, **changes}, "experts").open()


@pytest.mark.parametrize(
    ("variant", "names"),
    [
        ("spatial blur", ["blur", "spatial_information", "sharpness", *FR]),
        ("noise", ["noise", "psnr", "ssim", "gmsd", "vif", "vmaf"]),
        ("block effect", ["block", "psnr", "gmsd", "vmaf"]),
        ("low contrast", ["entropy", "contrast", "spatial_information"]),
        ("high contrast", ["clipping"]),
        ("overexposure", ["exposure", "clipping"]),
        ("desaturation", ["colorfulness", "vsi"]),
        ("oversaturation", ["saturation"]),
        ("flicker", ["flicker", "temporal_information", "vmaf_motion"]),
        ("stutter", ["stutter"]),
    ],
)
def test_more_of_a_distortion_moves_its_experts_the_declared_way(tmp_path, variant, names):
    frames = scene(8)
    clean = tmp_path / "clean.mkv"
    write_clip(clean, frames, fps=8)
    media = []
    for strength in (0.15, 0.5, 0.8):
        path = tmp_path / f"{strength}.mkv"
        write_clip(path, degrade(frames, variant, strength, np.random.default_rng(0)), fps=8)
        media.append(Media(path=path, kind="video"))
    pool = shipped(tmp_path, *names)
    reference = Media(path=clean, kind="video")
    for name in names:
        raw = [pool.run([name], m, reference, None, None)[0].raw for m in media]
        better = [x if pool.info(name).higher_is_better else -x for x in raw]
        assert better == sorted(better, reverse=True), f"{name}: {raw}"
        assert better[0] > better[-1], name


def test_every_shipped_expert_answers_or_says_why_not(tmp_path):
    write_clip(tmp_path / "a.mkv", scene(), fps=8)
    media = Media(path=tmp_path / "a.mkv", kind="video")
    with shipped(tmp_path) as pool:
        readings = pool.run(list(pool.experts), media, media, None, None)
        left_out = set(pool.left_out)
    assert len(readings) + len(left_out) == 27
    # The extra `experts` brings two, a trained model the third.
    assert left_out <= {"niqe", "brisque", "vqa2"}
    assert [r.expert for r in readings if r.raw is None] == []
    lo_hi = {r.expert: pool.info(r.expert).raw_range for r in readings}
    assert [r.expert for r in readings if not lo_hi[r.expert][0] <= r.raw <= lo_hi[r.expert][1]] == []


def test_a_still_and_a_clip_of_it_get_the_same_score(tmp_path):
    frame = scene(1)
    Image.fromarray(frame[0]).save(tmp_path / "a.png")
    write_clip(tmp_path / "a.mkv", np.repeat(frame, 4, 0), fps=8)
    pool = shipped(tmp_path, "noise", "sharpness", "contrast", "clipping")
    still, clip = Media(path=tmp_path / "a.png", kind="image"), Media(path=tmp_path / "a.mkv", kind="video")
    for name in pool.experts:
        a, b = pool.run([name], still, None, None, None)[0], pool.run([name], clip, None, None, None)[0]
        assert a.raw == pytest.approx(b.raw), name
    assert pool.run(["noise"], still, None, None, None)[0].parts == {"std": 0.0}


def test_displacement_measures_a_shift_to_a_tenth_of_a_pixel():
    frames = scene(2, step=2.3)[..., 1].astype(float)
    rows, columns = displacement(frames[0], frames[1])
    assert rows == pytest.approx(0, abs=0.1)
    assert columns == pytest.approx(-2.3, abs=0.15)


def test_time_measures_tell_shake_stutter_stall_and_flicker_apart():
    steady = scene(24)[..., 1].astype(float)
    rng = np.random.default_rng(0)
    shaken = np.stack([ndimage.shift(f, rng.normal(0, 3, 2), order=1, mode="nearest") for f in steady])
    held = steady[np.minimum.accumulate(np.r_[np.arange(8), [8] * 6, np.arange(14, 24)][::-1])[::-1]]
    assert jerk(steady).value < 0.5 < 3 < jerk(shaken).value
    assert stutter(steady).value == stutter(shaken).value == 0
    assert stutter(held).value > 0.2
    stalled = stall(held, 8.0, 0.25)
    assert stalled.parts["events"] == 1
    assert stalled.parts["longest_s"] == pytest.approx(5 / 8)  # six equal frames: five repeat the one before
    assert jerk(held).value < jerk(shaken).value
    flashing = steady * (1 + 0.2 * (np.arange(24) % 2))[:, None, None]
    assert flicker(flashing).value > 0.1 > 0.001 > flicker(steady).value
    fade = steady * np.linspace(1, 0.2, 24)[:, None, None]
    assert flicker(fade).value < 0.001


def test_a_reference_of_other_length_is_not_compared(tmp_path):
    write_clip(tmp_path / "a.mkv", scene(8), fps=8)
    write_clip(tmp_path / "b.mkv", scene(6), fps=8)
    a, b = (Media(path=tmp_path / n, kind="video") for n in ("a.mkv", "b.mkv"))
    for reading in shipped(tmp_path, "psnr", "vmaf").run(["psnr", "vmaf"], a, b, None, None):
        assert (reading.failure, reading.reason) == ("not applicable", "8 frames against 6 of the reference")


def test_frames_are_read_anew_when_the_file_changed(tmp_path):
    path = tmp_path / "a.mkv"
    media = Media(path=path, kind="video")
    write_clip(path, scene(4), fps=8)
    before = sampled(media, 2)
    assert before.shape == (2, 96, 128, 3)
    assert small(media).shape == (4, 96, 128)
    write_clip(path, 255 - scene(4), fps=8)
    assert not np.array_equal(before, sampled(media, 2))
    assert enlarged(before[0], 192).shape == (192, 256, 3)
    assert enlarged(before[0], 0).shape == (96, 128, 3)


def test_a_predictor_is_an_expert(tmp_path):
    write_clip(tmp_path / "a.mkv", scene(4), fps=8)
    info = composed("experts", [])["experts"]["tools"]["vqa2"]["info"]
    tools = {"p": {"name": "predictor", "predictor": {"name": "constant", "score01": 0.25, "text": "x"}, "info": info}}
    values = {**composed("experts", [])["experts"], "tools": tools, "isolation": "none", "calibration": "none"}
    pool = decode(PoolSpec, values, "experts").open()
    assert pool.run(["p"], Media(path=tmp_path / "a.mkv", kind="video"), None, None, None)[0].raw == 0.25
    (gone,) = pool.run(["p"], Media(path=tmp_path / "b.mkv", kind="video"), None, None, None)
    assert (gone.failure, gone.reason) == ("error", "no such file")
    other = {"name": "predictor", "predictor": {"name": "model", "folder": "checkpoints/mine"}, "info": info}
    with pytest.raises(
        ConfigError, match="info.weights: .* are those of runs/tiny/.*; name all four for checkpoints/mine"
    ):
        build("expert", other, "experts.tools.vqa2")
