"""Localization: each part on made cases with a known answer, then the whole on clips with a known artifact."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media import write_clip
from PIL import Image
from scipy import ndimage
from typer.testing import CliRunner

from data_prep._encode import read_frames
from data_prep.localized import LocalizedSpec, damaged, make
from vqa2.cli import app
from vqa2.core.config import decode
from vqa2.core.errors import ConfigError, MediaError
from vqa2.core.records import Artifact, Clip, read_jsonl, write_jsonl
from vqa2.experts.base import Media
from vqa2.experts.localization.detector import diverse, hysteresis, load
from vqa2.experts.localization.features import reduced
from vqa2.experts.localization.localize import Finding, Localization, look
from vqa2.experts.localization.maps import boxes, difference, difference_map
from vqa2.experts.localization.motion import alignments, between, visible, warped
from vqa2.experts.localization.render import FINDINGS, drawn, overlay, strip
from vqa2.experts.localization.score import OF_KIND, pointing, spatial_iou, temporal_iou, tuned
from vqa2.experts.localization.train import LocalizationRun, evaluate, seen, train
from vqa2.launch import composed

BOX = (40, 20, 100, 70)


def texture(seed: int, size: tuple[int, int] = (140, 200)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    fine, coarse = (ndimage.gaussian_filter(rng.random((*size, 3)), (s, s, 0)) for s in (1.2, 6))
    made = fine / fine.std() + 2 * coarse / coarse.std()
    return (made - made.min()) / np.ptp(made) * 200 + 25


def panning(seed: int, count: int = 16, step: float = 1.3) -> np.ndarray:
    """RGB uint8 `[T,96,128,3]` that moves sideways."""
    wide = texture(seed)
    moved = [ndimage.shift(wide, (0.4 * t, -step * t, 0), order=1)[22:118, 24:152] for t in range(count)]
    return np.stack(moved).round().astype(np.uint8)


@pytest.mark.parametrize(
    ("p", "spans"),
    [
        ([0, 0, 0.5, 0.9, 0.5, 0, 0], [(2, 5)]),  # opens with the neighbors above low
        ([0, 0.5, 0.5, 0.5, 0], []),  # never reaches high
        ([0.9, 0, 0, 0, 0.9], []),  # shorter than min_frames
        ([0.9, 0.9, 0.5, 0.1, 0.9, 0.8], [(0, 3), (4, 6)]),
        ([0.9] * 4, [(0, 4)]),
    ],
)
def test_hysteresis(p, spans):
    assert hysteresis(p, high=0.8, low=0.4, min_frames=2, pad=0) == spans


def test_padded_stretches_join_and_stay_inside():
    assert hysteresis([0.9, 0.9, 0, 0.9, 0.9, 0, 0, 0], 0.8, 0.4, 2, 1) == [(0, 6)]


def test_diverse_frames_start_with_the_most_suspicious_and_spread():
    features = np.array([[0.0], [0.1], [0.2], [5.0], [0.1], [9.0]])
    assert diverse(features, [0.1, 0.9, 0.1, 0.1, 0.1, 0.1], (0, 6), 3) == [1, 3, 5]
    assert diverse(features, [0.1] * 6, (2, 4), 5) == [2, 3]


def test_overlaps_and_pointing():
    assert temporal_iou([(0, 4), (6, 8)], (2, 8)) == pytest.approx(4 / 8)
    assert spatial_iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(50 / 150)
    assert spatial_iou(None, (0, 0, 1, 1)) == spatial_iou((0, 0, 1, 1), (5, 5, 6, 6)) == 0
    heat = np.zeros((10, 10))
    heat[4, 7] = 1
    assert pointing(heat, (14, 8, 16, 10), 2) == 1
    assert pointing(heat, (0, 0, 4, 4), 2) == pointing(None, (0, 0, 4, 4), 2) == 0


def test_thresholds_are_tuned_on_the_clips_given():
    truth = Artifact(id="a", path="", split="", content="", variant="noise", strength=1.0, start=3, end=6, box=BOX)
    clean = Artifact(id="b", path="", split="", content="", variant="none", strength=0.0, start=0, end=0, box=BOX)
    p = np.array([0.1, 0.2, 0.1, 0.6, 0.7, 0.6, 0.1])
    high, low = tuned([p, np.full(7, 0.3)], [truth, clean], 2, 0)
    assert hysteresis(p.tolist(), high, low, 2, 0) == [(3, 6)]
    assert hysteresis([0.3] * 7, high, low, 2, 0) == []


def test_camera_motion_is_found_in_spite_of_a_damaged_box():
    y = texture(3)[..., 0]
    angle, shift = np.deg2rad(2.0), np.array([1.5, -2.2])
    turn = np.eye(3)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:2, 2] = shift
    moved = warped(y, np.linalg.inv(turn))
    moved[40:90, 60:130] = ndimage.gaussian_filter(moved[40:90, 60:130], 4)
    found = between(y - ndimage.gaussian_filter(y, 6), moved - ndimage.gaussian_filter(moved, 6))
    inside = visible(y.shape, found)
    np.testing.assert_allclose(found[:2, :2], turn[:2, :2], atol=3e-3)
    np.testing.assert_allclose(found[:2, 2], shift, atol=0.15)
    assert inside.mean() > 0.9
    frames = panning(4, 6).astype(float)
    drift = alignments(frames)[-1][:2, 2]
    np.testing.assert_allclose(drift, [0.4 * 5, -1.3 * 5], atol=0.4)


def test_maps_are_on_one_scale_and_hot_inside_the_damage():
    clean = panning(5, 2).astype(float)
    still = clean[0]
    assert difference(still, still).max() == 0
    for strength in (0.3, 1.0):
        bad = damaged(clean.astype(np.uint8), "spatial blur", strength, (0, 1), BOX, np.random.default_rng(0))[0]
        heat = difference_map(bad.astype(float), [(still, np.eye(3))])
        inside = heat[BOX[1] + 6 : BOX[3] - 6, BOX[0] + 6 : BOX[2] - 6].mean()
        outside = np.delete(heat, np.s_[BOX[0] - 8 : BOX[2] + 8], axis=1).mean()
        assert inside > 10 * outside + 0.02
        if strength == 0.3:
            mild = inside
    assert mild < inside <= 1  # not stretched to the same range
    ((box, mean),) = boxes(heat, 0.08, 0.01)
    assert spatial_iou(box, BOX) > 0.8
    assert 0.08 < mean <= 1
    assert boxes(heat, 0.08, 0.9) == []
    assert difference_map(still, []).max() == 0


def test_damage_stays_inside_its_box_and_time():
    frames = panning(6, 8)
    for variant in ("noise", "freeze"):
        bad = damaged(frames, variant, 0.8, (2, 5), BOX, np.random.default_rng(0))
        changed = (bad != frames).any(-1)
        assert changed[2:5, BOX[1] : BOX[3], BOX[0] : BOX[2]].any()
        changed[2:5, BOX[1] : BOX[3], BOX[0] : BOX[2]] = False
        assert not changed.any()
    assert damaged(frames, "none", 0.0, (0, 0), BOX, np.random.default_rng(0)) is frames


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A detector trained on 14 clips and what was seen of 8 others, three variants and clean ones."""
    root = tmp_path_factory.mktemp("localization")
    variants = ("spatial blur", "noise", "underexposure", "none")
    for split, count in (("train", 14), ("test", 8)):
        rows = []
        for i in range(count):
            variant, rng = variants[i % 4], np.random.default_rng(i)
            start = 0 if variant == "none" else 3 + i % 5
            span, box = (start, start and start + 5), BOX if i % 3 else (10, 30, 70, 90)
            path = f"{split}{i}.mkv"
            write_clip(root / path, damaged(panning(10 * count + i), variant, 0.8, span, box, rng), fps=8)
            rows.append(Artifact(id=path, path=path, split=split, content=path, variant=variant, strength=0.8,
                                 start=span[0], end=span[1], box=box))  # fmt: skip
        write_jsonl(root / f"localization_{split}.jsonl", rows)
    values = composed("localization", [f"root={root}", f"localize.detector={root}/detector.json", "bootstrap=50"])
    made = decode(LocalizationRun, values, "localization")
    clips = {split: seen(root, split, lambda *_: None) for split in ("train", "test")}
    return made, train(made, clips["train"]), clips


def test_localization_is_above_both_baselines(trained):
    made, detector, clips = trained
    scores = evaluate(made, detector, clips["train"], clips["test"])
    value = {method: {m.name: m.value for m in row} for method, row in scores.items()}
    for name in ("temporal IoU", "spatial IoU", "spatial IoU, local"):
        assert value["ours"][name] > max(value["uniform"][name], value["frame difference"][name]), (name, value)
    # Six damaged clips: a baseline's guess may hit as many of them.
    name = "pointing game, local"
    assert value["ours"][name] >= max(value["uniform"][name], value["frame difference"][name]), (name, value)
    assert value["ours"]["temporal IoU"] > 0.6
    assert value["uniform"]["temporal IoU"] == pytest.approx(5 / 16)
    of_kind = [m for m in scores["ours"] if m.name.startswith(OF_KIND)]
    assert {m.name.removeprefix(OF_KIND) for m in of_kind} == {c.truth.variant for c in clips["test"]} - {"none"}
    mean = sum(m.n * m.value for m in of_kind) / sum(m.n for m in of_kind)
    assert mean == pytest.approx(value["ours"]["temporal IoU"])


def test_a_clip_is_localized_drawn_and_written(trained, tmp_path):
    made, _, clips = trained
    truth = next(c.truth for c in clips["test"] if c.truth.variant == "underexposure")
    media = Media(path=Path(made.root) / truth.path, kind="video", id="clip")
    found = made.localize.open()(media)
    (finding,) = found.findings
    assert temporal_iou([(finding.start, finding.end)], (truth.start, truth.end)) > 0.5
    assert spatial_iou(finding.boxes[0], truth.box) > 0.4
    assert finding.kind == "underexposure"
    assert finding.start_s == finding.start / 8
    written = json.loads(found.to_json())
    assert written["findings"][0]["boxes"][0] == list(finding.boxes[0])
    assert len(written["probability"]) == 16
    overlay(media, found, tmp_path / "o.mp4")
    strip(media, found, tmp_path / "o.png")
    drawn, plain = read_frames(tmp_path / "o.mp4").astype(int), read_frames(media.path).astype(int)
    assert drawn.shape == plain.shape
    apart = np.abs(drawn - plain).mean((1, 2, 3))
    assert apart[finding.start : finding.end].min() > 2 * apart[: finding.start].max()
    with Image.open(tmp_path / "o.png") as picture:
        assert picture.width > 128 * len(finding.frames)
        assert picture.height > 2 * 96
    assert len(finding.frames) <= made.localize.frames


def test_localize_on_the_command_line(trained, tmp_path):
    made, _, clips = trained
    name = next(c.truth.path for c in clips["test"] if c.truth.variant == "underexposure")
    detector = ["--set", f"detector={made.localize.detector}"]
    ran = CliRunner().invoke(app, ["localize", str(Path(made.root) / name), "--out", str(tmp_path), *detector])
    assert ran.exit_code == 0, ran.output
    (line,) = ran.stdout.splitlines()
    assert ": underexposure (" in line
    assert len(json.loads((tmp_path / f"{name}.json").read_text())["findings"]) == 1
    assert read_frames(tmp_path / f"{name}.mp4").shape == (16, 96, 128, 3)
    assert (tmp_path / f"{name}.png").is_file()


def test_heat_means_the_same_in_every_frame_and_cold_places_stay(trained):
    frame = np.full((40, 60, 3), 100, np.uint8)
    mild, hot = np.zeros((40, 60)), np.zeros((40, 60))
    mild[10:20, 10:20] = 0.2
    hot[10:20, 10:20] = 0.2
    hot[25:35, 40:50] = 0.9
    a, b = drawn(frame, mild, []), drawn(frame, hot, [])
    assert (a[12:18, 12:18] == b[12:18, 12:18]).all()  # not stretched to the frame's own largest value
    assert (a[0:5] == 100).all()
    assert np.abs(b[30, 45].astype(int) - 100).max() > np.abs(a[15, 15].astype(int) - 100).max()


def long(count: int, boxes=((4, 4, 30, 20),)) -> Localization:
    """Many findings on a clip of an odd size at 29.97 frames a second, reduced by 3 with a rest."""
    findings = tuple(
        Finding(start=2 * i, end=2 * i + 1, start_s=0.0, end_s=0.1, p=1.0, frames=(2 * i,), boxes=boxes,
                severity=0.1 * i, kind="noise", kind_p=0.5, note="") for i in range(count)
    )  # fmt: skip
    heat = {2 * i: np.full((10, 15), 0.5) for i in range(count)}
    return Localization(media="a", fps=30000 / 1001, size_px=(47, 33), probability=(1.0,) * 2 * count,
                        findings=findings, heat=heat)  # fmt: skip


def test_odd_sizes_rates_and_many_findings_are_drawn(tmp_path):
    write_clip(tmp_path / "a.mkv", np.stack([texture(i, (33, 47)) for i in range(20)]).astype(np.uint8), fps=30)
    media = Media(path=tmp_path / "a.mkv", kind="video")
    overlay(media, long(10), tmp_path / "o.mp4")
    with av.open(str(tmp_path / "o.mp4")) as made:
        stream = made.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (46, 32, Fraction(30000, 1001))
        assert sum(1 for _ in made.decode(stream)) == 20
    strip(media, long(10), tmp_path / "ten.png")
    strip(media, long(FINDINGS), tmp_path / "six.png")
    strip(media, long(0), tmp_path / "none.png")
    heights = [Image.open(tmp_path / f"{name}.png").height for name in ("ten", "six", "none")]
    assert heights[0] == heights[1] > heights[2]


def test_sides_that_the_reduction_does_not_divide_are_cut_and_the_size_is_the_clips_own(tmp_path):
    """200 lines by 2, 301 columns by 2: no dark column of a padded block at the edge."""
    frames = np.full((4, 200, 301, 3), 180, np.uint8)
    write_clip(tmp_path / "a.mkv", frames, fps=8)
    found, factor, size = reduced(Media(path=tmp_path / "a.mkv", kind="video"))
    assert (found.shape, factor, size) == ((4, 100, 150, 3), 2, (301, 200))
    assert found.min() > 170


def test_what_cannot_be_localized_is_refused(trained, tmp_path):
    made = trained[0]
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    with pytest.raises(MediaError, match="needs a video"):
        look(Media(path=tmp_path / "a.png", kind="image"))
    with pytest.raises(ConfigError, match="no detector; train one"):
        load(tmp_path / "detector.json")
    values = json.loads(Path(made.localize.detector).read_text())
    values["frame"]["names"] = ["other"]
    (tmp_path / "detector.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="other frame features"):
        load(tmp_path / "detector.json")


def test_made_clips_agree_with_their_rows_and_are_reused(data_root, tmp_path):
    """On the small data root: contents keep their split, another setting writes other files."""
    (tmp_path / "media").mkdir()
    for name in ("clips.jsonl", "media/train", "media/test"):
        (tmp_path / name).symlink_to(data_root / name)
    values = {**composed("localization", [])["clips"], "variants": ["noise", "none"], "per_clip": [1, 2]}
    rows = make(tmp_path, decode(LocalizedSpec, values, "clips"))
    clean = [c for c in read_jsonl(data_root / "clips.jsonl", Clip) if c.kind == "video" and not c.distortions]
    assert len(rows["train"]) == sum(c.split == "train" for c in clean)
    assert len(rows["test"]) == 2 * sum(c.split == "test" for c in clean)
    assert {r.variant for split in rows.values() for r in split} == {"noise", "none"}
    assert not {r.content for r in rows["train"]} & {r.content for r in rows["test"]}
    assert list(tmp_path.glob("*.*.jsonl")) == [], "training would take them for instruction rows"
    row = next(r for split in rows.values() for r in split if r.variant == "noise")
    made = tmp_path / row.path
    stamp = made.stat().st_mtime_ns
    assert make(tmp_path, decode(LocalizedSpec, values, "clips")) == rows
    assert made.stat().st_mtime_ns == stamp
    other = make(tmp_path, decode(LocalizedSpec, {**values, "seed": 1}, "clips"))
    assert not {r.path for r in other["test"]} & {r.path for r in rows["test"]}
