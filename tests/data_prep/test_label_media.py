"""Media of labelled datasets: stage 1's files, extracts, kills, exclusions; the manifest and its check."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from labels_form import write_form
from PIL import Image
from rich.console import Console

from data_prep._encode import read_frames, write_video
from data_prep._render import held, render
from data_prep.check import CheckRun, check
from data_prep.run import DataPrepRun, prepare
from vqa2.core.config import decode
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.records import Clip
from vqa2.launch import composed

TAKE = {"count": None, "distortion": "none", "names": [], "cuts": 0, "without": []}
PLAN = {
    "distortion_spatial": {
        "koniq_10k": {**TAKE, "distortion": "made", "names": ["noise", "compression artifact", "low contrast"]}
    },
    "distortion_temporal": {"lsvq_train": {**TAKE, "count": 2, "distortion": "made", "names": ["flicker", "stutter"],
                                           "cuts": 5}},
    "scoring_ugc": {"lsvq_train": TAKE},
}  # fmt: skip
LISTS = ("training_labels", "validation_labels", "test_labels")


def picture(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(60, 200, (height // 8, width // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)


def moving(seed: int, frames: int = 20) -> np.ndarray:
    return np.stack([np.roll(picture(seed), 2 * t, 1) for t in range(frames)])


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A small KonIQ-10k and LSVQ: label files and media."""
    root = tmp_path_factory.mktemp("published")
    stills, videos = root / "KonIQ-10k" / "1024x768", root / "LSVQ" / "yfcc-batch1"
    stills.mkdir(parents=True)
    videos.mkdir(parents=True)
    for k, name in enumerate(LISTS):
        Image.fromarray(picture(k)).save(stills / f"{k}.jpg", quality=95)
        Image.fromarray(picture(k + 10)).save(stills / f"{k}b.jpg", quality=95)
        (root / "KonIQ-10k" / f"{name}.txt").write_text(f"{k}.jpg, -1, -1, {20 + k}\n{k}b.jpg, -1, -1, {60 + k}\n")
    for k in range(3):
        write_video(videos / f"{k}.mp4", moving(k), 10, "x264", 20)
    rows = "".join(f"yfcc-batch1/{k}.mp4, -1, -1, {20 * k + 10}\n" for k in range(3))
    (root / "LSVQ" / "LSVQ_train_labels.txt").write_text(rows)
    return root


def values(root: Path, sets: list[str], **changes) -> DataPrepRun:
    source = composed("data_prep", ["source=vqa2", "set=vqa2"])["source"]
    source["sets"] = {key: {"train": PLAN[key]} for key in sets}
    chosen = composed("data_prep", ["source=vqa2", "set=vqa2"])["sets"]
    run = {"source": source, "sets": {key: chosen[key] for key in sets}, "root": None, "out": str(root),
           "media": "probe", "seed": 0, "workers": 1, **changes}  # fmt: skip
    return decode(DataPrepRun, run, "data_prep")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def result(root: Path) -> dict[str, bytes]:
    """Everything that a run writes, but what it remembers for the next one."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*"))
            if p.is_file() and not p.name.startswith(".")}  # fmt: skip


@pytest.fixture(scope="module")
def whole(published, tmp_path_factory) -> Path:
    """The root after an undisturbed run."""
    root = tmp_path_factory.mktemp("whole") / "root"
    shutil.copytree(published, root)
    prepare(values(root, list(PLAN)), progress=False)
    return root


def test_rows_name_files_that_are_there_and_show_what_they_say(whole):
    for key, count in (("distortion_spatial", 6), ("distortion_temporal", 5), ("scoring_ugc", 3)):
        rows = lines(whole / f"{key}.train.jsonl")
        assert len(rows) == count
        media = {m["path"]: m for m in lines(whole / f"{key}.media.jsonl")}
        assert {r["media"] for r in rows} == set(media)
        assert json.loads((whole / f"{key}.manifest.json").read_text())["media_files"] == len(media)
    assert media["LSVQ/yfcc-batch1/0.mp4"].items() >= {
        "frames": 20, "fps": 10.0, "width": 64, "height": 48, "rotation": 0, "codec": "h264"}.items()  # fmt: skip
    for row in lines(whole / "distortion_temporal.train.jsonl"):
        shown = read_frames(whole / row["media"]).astype(float)
        still = (np.abs(np.diff(shown, axis=0)).mean((1, 2, 3)) < 1).mean()
        light = np.abs(np.diff(shown.mean((1, 2, 3)))).mean()
        assert (still > 0.15) == (row["tags"]["distortion"] == "stuttering")
        assert (light > 5) == (row["tags"]["distortion"] == "flicker")


def test_a_temporal_distortion_is_streamed_as_the_whole_clip_would_be():
    rng = np.random.default_rng(0)
    shown = held(101, 0.5, rng)
    assert shown[0] == 0
    assert (np.diff(shown) >= 0).all()
    assert (shown <= np.arange(101)).all()
    assert (shown != np.arange(101)).sum() == round(0.55 * 100)


def test_an_extract_is_the_part_that_its_window_says(tmp_path):
    frames = moving(1)
    frames[:, :, 32:] = 255
    write_video(tmp_path / "a.mp4", frames, 10, "x264", 0)
    clip = Clip(id="d/a-000", path="out/a.mp4", dataset="d", split="train", content="a", kind="video",
                tags={"of": "a.mp4", "window": "0.5 0 0.5 0.5 0.5 0.25"})  # fmt: skip
    found, error = render(tmp_path, clip, 540, 0)
    assert not error
    assert (found.width, found.height, found.frames) == (32, 24, 5)
    assert read_frames(tmp_path / "out" / "a.mp4").mean() > 250


KILLS = ("write_rows", "label_manifest", "media_write", "render", "probe", "finish")


def dying(where: str, count: int, monkeypatch) -> None:
    """Ends this process, without clean-up, at the so-manieth call of one step."""
    from data_prep import _media, labels, run

    targets = {
        "write_rows": (labels, "write_rows"), "label_manifest": (run, "write_label_manifest"),
        "media_write": (_media.MediaIndex, "write"), "render": (labels, "render"), "probe": (_media, "probe"),
        "finish": (labels.LabelRun, "close"),
    }  # fmt: skip
    owner, name = targets[where]
    real, calls = getattr(owner, name), []

    def maybe(*args, **kwargs):
        calls.append(0)
        if len(calls) == count:
            os._exit(9)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, maybe)


@pytest.mark.parametrize(("where", "count"), [("probe", 2), ("render", 3), ("render", 8), ("write_rows", 2),
                                              ("media_write", 3), ("label_manifest", 1), ("finish", 1)])  # fmt: skip
def test_killed_and_run_again_it_gives_the_same_bytes(where, count, published, whole, tmp_path, monkeypatch):
    root = tmp_path / "root"
    shutil.copytree(published, root)
    child = os.fork()
    if child == 0:
        dying(where, count, monkeypatch)
        prepare(values(root, list(PLAN)), progress=False)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    before = {p: p.stat().st_mtime_ns for p in root.rglob("media/stage1/**/*.*") if not p.name.startswith(".")}
    assert not (root / "prepared.json").exists()
    prepare(values(root, list(PLAN)), progress=False)
    assert result(root) == result(whole)
    assert not list(root.rglob(".work"))
    if where in ("write_rows", "label_manifest", "finish"):
        assert before
        assert all(p.stat().st_mtime_ns == then for p, then in before.items()), "what was made is not made again"


def test_a_second_run_opens_nothing_and_two_processes_write_the_same(published, whole, tmp_path, monkeypatch):
    root = tmp_path / "root"
    shutil.copytree(published, root)
    prepare(values(root, list(PLAN), workers=2), progress=False)
    assert result(root) == result(whole)
    monkeypatch.setattr("data_prep._media.probe", lambda *a: pytest.fail("opened again"))
    monkeypatch.setattr("data_prep.labels.render", lambda *a: pytest.fail("made again"))
    prepare(values(root, list(PLAN)), progress=False)
    assert result(root) == result(whole)


def test_files_that_cannot_be_used_are_listed_and_the_rest_is_used(published, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(published, root)
    videos = root / "LSVQ" / "yfcc-batch1"
    (videos / "0.mp4").write_bytes(b"")
    (videos / "1.mp4").write_bytes(b"no video at all")
    with (root / "LSVQ" / "LSVQ_train_labels.txt").open("a") as out:
        out.write("yfcc-batch1/9.mp4, -1, -1, 80\n../../../etc/passwd, -1, -1, 80\n")
    prepare(values(root, ["scoring_ugc"]), progress=False)
    assert [r["media"] for r in lines(root / "scoring_ugc.train.jsonl")] == ["LSVQ/yfcc-batch1/2.mp4"]
    left = {x["id"]: x["reason"] for x in lines(root / "scoring_ugc.excluded.jsonl")}
    assert left["yfcc-batch1/0.mp4"] == "unreadable file: empty"
    assert left["yfcc-batch1/1.mp4"] == "unreadable file: Invalid data found when processing input"
    assert left["yfcc-batch1/9.mp4"] == "missing file"
    assert left["../../../etc/passwd"].startswith("missing file: LSVQ/../../../etc/passwd: leaves the data root")
    counted = json.loads((root / "scoring_ugc.manifest.json").read_text())
    assert counted["excluded"] == {"lsvq_train: unreadable file": 2, "lsvq_train: missing file": 2}
    # A file that arrives later is seen; the scale, which is the dataset's, stays.
    shutil.copy(published / "LSVQ/yfcc-batch1/0.mp4", videos / "0.mp4")
    prepare(values(root, ["scoring_ugc"]), progress=False)
    least, most = composed("data_prep", ["source=lsvq_train"])["source"]["scale"]["span"]
    found = [r["mos"] for r in lines(root / "scoring_ugc.train.jsonl")]
    assert found == pytest.approx([100 * (mos - least) / (most - least) for mos in (10, 50)])


def checked(root: Path) -> list[str]:
    console = Console(record=True, width=400, file=open(os.devnull, "w"))  # noqa: SIM115
    with pytest.raises(DataError, match=r"differences from the manifests"):
        check(CheckRun(out=str(root), root=None, workers=1), console)
    return console.export_text().splitlines()


def test_check_finds_every_kind_of_change(whole, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(whole, root)
    count = check(CheckRun(out=str(root), root=None, workers=2), Console(quiet=True))
    assert count == 3 * 4 + 4 + 6 + 5 + 3
    rows = root / "scoring_ugc.train.jsonl"
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[1:]))
    (root / "LSVQ/yfcc-batch1/2.mp4").unlink()
    with (root / "KonIQ-10k/test_labels.txt").open("a") as out:
        out.write("\n")
    still = next((root / "media/stage1/koniq_10k").glob("*.png"))
    Image.fromarray(picture(99)).save(still)
    found = checked(root)
    assert len(found) == 5
    for said in ("scoring_ugc.train.jsonl: 2 rows, 3 recorded", "scoring_ugc.train.jsonl: a file of the set, changed",
                 "2.mp4: a media file, missing", "test_labels.txt: an input file, changed",
                 f"{still.name}: a media file, changed"):  # fmt: skip
        assert any(line.endswith(said) for line in found), said


@pytest.mark.parametrize("source", ["vqa2_released", "lsvq_train"])
def test_check_sees_a_changed_file_that_a_set_was_made_of(source, tmp_path):
    """The released instructions, and the rows that `extend` wrote, here beside a root that is a link."""
    (tmp_path / "real").mkdir()
    root, file = tmp_path / "root", tmp_path / "rows.jsonl"
    root.symlink_to(tmp_path / "real")
    turns = [{"user": "<video>\nIs it sharp?", "assistant": "Yes"}]
    sets = composed("data_prep", ["set=understanding_extended"])["sets"]
    sets["understanding"] |= {"file": str(file), "quotas": []}
    if source == "vqa2_released":
        file = root / "one.json"
        sets = {"understanding": {"name": "released", "files": {"one.json": 1}, "folder": str(root), "task": "x",
                                  "folders": {}, "license": "x", "obtain": "x", "disk_gb": 1.0}}  # fmt: skip
        said = [{"from": "human", "value": "<image> Sharp?"}, {"from": "gpt", "value": "Yes"}]
        file.write_text(json.dumps([{"image": "a/1.mp4", "conversations": said}]))
    else:
        write_form(root, source)
        clip = {"clip_id": "lsvq_train/backup/7.mp4", "media": "LSVQ/backup/7.mp4", "kind": "video"}
        file.write_text(json.dumps({"id": "a", **clip, "task": "binary", "turns": turns}) + "\n")
    chosen = composed("data_prep", [f"source={source}"])["source"]
    run = {"source": chosen, "sets": sets, "root": None, "out": str(root), "media": "skip", "seed": 0, "workers": 1}
    prepare(decode(DataPrepRun, run, "data_prep"), progress=False)
    check(CheckRun(out=str(root), root=None, workers=1), Console(quiet=True))
    file.write_text(file.read_text() + " ")
    (line,) = checked(root)
    assert line.endswith(f"{file.name}: an input file, changed")


def test_a_clip_of_another_length_than_its_streaming_log_is_left_out(tmp_path):
    """LIVE-NFLX-II's made-up rows tell 300 frames at 30 a second."""
    write_form(tmp_path, "live_nflx_2")
    folder = tmp_path / "LIVE-NFLX-II" / "assets_mp4_individual"
    folder.mkdir()
    for k, frames in enumerate((300, 299, 270, 269, 331)):
        write_video(folder / f"Air{k}_Buffer_Trace_{k}.mp4", np.zeros((frames, 16, 16, 3), np.uint8), 30, "x264", 40)
    options = [f"out={tmp_path}", "source=live_nflx_2", "set=scoring_streaming", "workers=1"]
    prepare(decode(DataPrepRun, composed("data_prep", options), "data_prep"), progress=False)
    manifest = json.loads((tmp_path / "scoring_streaming.manifest.json").read_text())
    assert manifest["timelines"] == {"exact": 1, "off by up to a second": 2}
    assert manifest["excluded"] == {"live_nflx_2: other length": 2}
    assert manifest["rows"] == {"train": 2 * 3}
    assert {(x["id"], x["reason"]) for x in lines(tmp_path / "scoring_streaming.excluded.jsonl")} == {
        (f"live_nflx_2/Air{k}_Buffer_Trace_{k}.mp4", f"other length: {n} frames, 300 in its label file")
        for k, n in ((3, 269), (4, 331))
    }


def test_check_knows_embedded_roots_and_refuses_others(data_root, tmp_path):
    assert check(CheckRun(out=str(data_root), root=None, workers=1), Console(quiet=True)) > 50
    with pytest.raises(DataError, match=r"holds no \*.manifest.json"):
        check(CheckRun(out=str(tmp_path), root=None, workers=1), Console(quiet=True))


def test_rows_must_lie_where_their_clips_do(published, tmp_path):
    with pytest.raises(ConfigError, match="because rows name clips below it; or media=skip"):
        prepare(replace(values(tmp_path, ["scoring_ugc"]), root=str(published)), progress=False)


def test_files_of_an_earlier_plan_do_not_stay(whole, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(whole, root)
    (root / "scoring_ugc.test.jsonl").write_text("{}\n")
    (root / "parquet/scoring_ugc/test.parquet").write_bytes(b"old")
    prepare(values(root, ["scoring_ugc"]), progress=False)
    assert not (root / "scoring_ugc.test.jsonl").exists()
    assert not (root / "parquet/scoring_ugc/test.parquet").exists()
    assert set(json.loads((root / "prepared.json").read_text())["sets"]) == {"scoring_ugc"}
