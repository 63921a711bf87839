"""The embedded data: degradations are real and ordered, labels fit the clips, no content crosses the split."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from small import SMALL_DATA

from data_prep._contents import catalog, picture
from data_prep._degrade import NAMES, SPATIAL, TEMPORAL_VARIANTS, degrade
from data_prep._encode import read_frames, write_video
from data_prep._media import probe
from data_prep._output import set_files
from data_prep._pseudo_mos import vmaf, with_stalls
from data_prep._scene import draw_scene, render
from data_prep.manifest import check_split
from data_prep.run import DataPrepRun, prepare
from data_prep.sets.scoring_streaming import stall_mask
from vqa2.core.config import decode
from vqa2.core.errors import DataError
from vqa2.core.records import Clip, Instruction, Stall, read_jsonl
from vqa2.core.scale import level_of
from vqa2.launch import composed

CLIPS = Path(__file__).parents[3] / "shared" / "data" / "clips"


@pytest.fixture(scope="module")
def pristine() -> np.ndarray:
    scene = draw_scene(np.random.default_rng(3), (2.0, 3.0), 0.2, 0.0, moving=True)
    return render(picture("astronaut"), picture("coffee"), scene, 16, (128, 96))


def made(*overrides: str) -> dict:
    return prepare(decode(DataPrepRun, composed("data_prep", [*SMALL_DATA, *overrides]), "data_prep"), progress=False)


@pytest.mark.parametrize("variant", [n for n in SPATIAL if n != "compression artifact"] + ["flicker"])
def test_a_stronger_degradation_is_farther_from_the_pristine_clip(pristine, variant):
    def distance(strength: float) -> float:
        got = degrade(pristine, variant, strength, np.random.default_rng(0))
        assert got.shape == pristine.shape
        return float(np.abs(got.astype(float) - pristine).mean())

    weak, middle, strong = distance(0.1), distance(0.5), distance(1.0)
    assert 0 < weak < middle < strong


def test_a_stronger_stutter_holds_its_frames_longer(pristine):
    def shown(strength: float) -> int:
        return len(np.unique(degrade(pristine, "stutter", strength, np.random.default_rng(0)), axis=0))

    assert len(pristine) > shown(0.1) > shown(0.5) > shown(1.0) >= 2


def test_every_one_of_the_13_distortions_has_a_clip_in_both_splits(data_root):
    clips = read_jsonl(data_root / "clips.jsonl", Clip)
    assert len(NAMES) == 13
    for split in ("train", "test"):
        mine = [c for c in clips if c.split == split]
        assert {d.name for c in mine for d in c.distortions} == set(NAMES)
        assert {d.variant for c in mine for d in c.distortions} - {""} == set(TEMPORAL_VARIANTS)
        assert any(c.stalls for c in mine)


def test_real_codecs_cost_more_quality_at_a_higher_quantizer(pristine, tmp_path):
    for codec in ("x264", "x265"):
        scores = []
        for qp in (20, 34, 46):
            write_video(tmp_path / "a.mp4", pristine, 8, codec, qp)
            scores.append(vmaf(read_frames(tmp_path / "a.mp4"), pristine, 2))
        assert scores[0] > scores[1] > scores[2], (codec, scores)
    assert vmaf(pristine, pristine, 2) > 90


def test_stalls_cost_quality_and_never_less_than_zero():
    one = (Stall(start_s=0, length_s=1),)
    assert with_stalls(80, (), 10, 5, 1) == 80
    assert with_stalls(80, one, 10, 5, 1) == 80 - 5 - 10
    assert with_stalls(5, one * 3, 4, 5, 1) == 0


def test_no_content_lies_in_both_splits(data_root):
    clips = read_jsonl(data_root / "clips.jsonl", Clip)
    train, test = ({c.content.partition("#")[0] for c in clips if c.split == s} for s in ("train", "test"))
    assert not train & test
    assert train | test <= set(catalog())
    leaking = [c for c in clips if c.split == "train"][:1] + [c for c in clips if c.split == "test"][:1]
    twin = Clip(id="x", path="x", dataset="d", split="test", content=leaking[0].content, kind="video")
    with pytest.raises(DataError, match="lies in both splits"):
        check_split([leaking[0], twin])


def test_labels_fit_the_clips(data_root):
    clips = {c.id: c for c in read_jsonl(data_root / "clips.jsonl", Clip)}
    for kind in ("spatial", "temporal"):
        for row in read_jsonl(data_root / f"distortion_{kind}.train.jsonl", Instruction):
            assert row.turns[0].assistant == f"It is {clips[row.clip_id].distortions[0].name}."
            assert (row.kind == "image") == (kind == "spatial")
    for row in read_jsonl(data_root / "scoring_ugc.test.jsonl", Instruction):
        assert row.turns[0].assistant == f"The quality of this video is {level_of(clips[row.clip_id].mos)}."
        assert clips[row.clip_id].split == "test"
    rows = read_jsonl(data_root / "scoring_streaming.train.jsonl", Instruction)
    assert {r.tags["format"] for r in rows} == {"digits", "summary"}
    for clip in clips.values():
        if clip.tags.get("set") == "streaming":
            mask = stall_mask(clip)
            assert len(read_frames(data_root / clip.path)) == len(mask)
            assert mask.count("1") == round(sum(s.length_s for s in clip.stalls) * int(clip.tags["fps"]))


def test_the_language_base_says_nothing_about_clips(data_root):
    rows = read_jsonl(data_root / "base.train.jsonl", Instruction)
    assert {r.kind for r in rows} == {"text"}
    assert all("<video>" not in r.turns[0].user and r.media is None and r.clip_id == "" for r in rows)


def test_the_benchmark_has_the_form_of_q_bench_video(data_root):
    records = json.loads((data_root / "benchmark" / "qbench_video.json").read_text())
    assert {r["question_type"] for r in records} == {"yes-or-no", "what/how", "open_ended"}
    for record in records:
        assert (data_root / "media" / "test" / record["video_name"]).is_file()
        if record["question_type"] == "open_ended":
            assert record["correct_ans"]
        else:
            assert record["correct_choice"] in "ABCD"[: len(record["answers"])]
            assert len(set(record["answers"])) == len(record["answers"])


def test_same_seed_same_bytes_and_a_second_run_reuses_the_files(data_root, tmp_path):
    again = tmp_path / "again"
    made(f"out={again}")
    for path in sorted(data_root.rglob("*")):
        if path.is_file() and "manifest" not in path.name:
            assert path.read_bytes() == (again / path.relative_to(data_root)).read_bytes(), path.name
    times = {p: p.stat().st_mtime_ns for p in again.rglob("*.mp4")}
    lost = next(iter(times))
    lost.unlink()
    made(f"out={again}")
    fresh = {p for p, t in times.items() if p.stat().st_mtime_ns != t}
    assert fresh == {lost}


def test_the_manifest_tells_counts_hashes_seed_and_exclusions(data_root):
    manifest = json.loads((data_root / "scoring_ugc.manifest.json").read_text())
    rows = read_jsonl(data_root / "scoring_ugc.train.jsonl", Instruction)
    assert manifest["rows"]["train"] == len(rows)
    assert manifest["seed"] == 0
    assert manifest["excluded"] == []
    files = {name for split in ("train", "test") for name in set_files("scoring_ugc", split)}
    assert set(manifest["sha256"]) == files == {f for f in files if (data_root / f).is_file()}


def test_the_media_index_tells_of_every_file_what_opening_it_would(data_root):
    entries = json.loads((data_root / "media" / "index.json").read_text()).values()
    assert {entry["codec"] for entry in entries} == {"h264", "hevc", "png"}
    for entry in entries:
        found = probe(data_root / entry["clip"]["path"], entry["clip"]["kind"])
        assert {name: entry[name] for name in asdict(found)} == asdict(found)


FEW = ["source.recipe.stills=[0,0]", "source.recipe.spatial_videos=[1,1]", "source.recipe.temporal_videos=[1,1]"]


def test_a_folder_of_clips_and_its_bad_files(data_root, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("clean-000", "noise-000", "shake-000"):
        shutil.copy(data_root / "media" / "train" / f"train-{name}.mp4", folder)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "notes.mp4").write_text("this is no video")
    summary = made("source=folder", f"root={folder}", f"out={tmp_path / 'out'}", *FEW)
    excluded = {Path(name).name: reason for name, reason in summary["excluded"] if name.endswith(".mp4")}
    assert set(excluded) == {"empty.mp4", "notes.mp4"}
    assert all(excluded.values())
    clips = read_jsonl(tmp_path / "out" / "clips.jsonl", Clip)
    assert len({c.content for c in clips if c.split == "test"}) == 1


def test_folders_that_cannot_serve_are_one_line(tmp_path):
    with pytest.raises(DataError, match="the folder is empty"):
        made("source=folder", f"root={tmp_path}", f"out={tmp_path / 'out'}")
    with pytest.raises(DataError, match="no such folder"):
        made("source=folder", f"root={tmp_path / 'absent'}", f"out={tmp_path / 'out'}")


@pytest.mark.skipif(not CLIPS.is_dir(), reason="../shared/data/clips is not here")
def test_real_clips_as_a_source(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("asl_walk.mkv", "bikes_cuts.mp4", "campus_hlg10.mov"):
        (folder / name).symlink_to(CLIPS / name)
    summary = made("source=folder", f"root={folder}", f"out={tmp_path / 'out'}", *FEW)
    assert Path(summary["excluded"][0][0]).name == "campus_hlg10.mov"
    assert {c.dataset for c in read_jsonl(tmp_path / "out" / "clips.jsonl", Clip)} == {"folder"}
