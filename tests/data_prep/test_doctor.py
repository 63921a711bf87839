"""The doctor: what is missing, cut off, changed or unfinished is listed, and the exit code says so."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from labels_form import write_form
from media import numbered, write_clip
from typer.testing import CliRunner

from data_prep import doctor
from data_prep.doctor import Diagnosis, diagnose, verdict
from data_prep.run import DataPrepRun, prepare
from vqa2.cli import app
from vqa2.core.config import build, decode
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.progress import bars
from vqa2.launch import composed

ROOT = Path(__file__).parents[2]
LABELS = ROOT.parent / "shared" / "data" / "labels"


def run_of(tmp_path: Path, source: str) -> DataPrepRun:
    overrides = [f"source={source}", f"root={tmp_path / 'in'}", f"out={tmp_path / 'out'}", "workers=1"]
    return decode(DataPrepRun, composed("data_prep", overrides), "data_prep")


def diagnosis(run: DataPrepRun) -> Diagnosis:
    return diagnose(run, build("source", run.source, "source"))


def test_a_partial_download_is_listed_file_by_file(tmp_path):
    folder = tmp_path / "in" / "KoNViD-1k"
    folder.mkdir(parents=True)
    for name in ("whole.mp4", "cut.mp4"):
        write_clip(folder / name, numbered(60, 96, 128), 25, "libx264", "yuv420p", faststart=True, g="25")
    cut = (folder / "cut.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(cut[: len(cut) * 9 // 10])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "page.mp4").write_text("<html>404</html>" * 30)
    (folder / "raw.yuv").write_bytes(bytes(96 * 128 * 3 // 2))
    names = ["whole.mp4", "cut.mp4", "empty.mp4", "page.mp4", "raw.yuv", "lost.mp4"]
    (folder / "labels.txt").write_text("".join(f"{name}, -1, -1, {2 + i / 10}\n" for i, name in enumerate(names)))
    found = diagnosis(run_of(tmp_path, "konvid_1k"))
    assert found.wanted == 6 + 1
    assert found.missing == ("KoNViD-1k/lost.mp4",)
    reasons = {name.split("/")[1]: reason for name, reason in found.broken}
    assert re.fullmatch(r"cut-off file: \d\d of 60 frames", reasons.pop("cut.mp4"))
    assert reasons == {
        "empty.mp4": "unreadable file: empty",
        "page.mp4": "unreadable file: Invalid data found when processing input",
        "raw.yuv": "unreadable file: raw YUV tells neither size nor frame rate; encode it",
        "labels.txt": "6 usable rows, 1200 expected",
    }
    assert any("where to get it: database.mmsp-kn.de" in note for note in found.notes)
    held = sum(path.stat().st_size for path in folder.glob("*.*[4v]"))
    assert any(f"disk: {held / 1e9:.2f} GB there, about {2.3 / 6:.2f} GB still to come" in n for n in found.notes)
    with pytest.raises(DataError, match=r"x: 1 of 7 files missing, 5 broken"):
        verdict("x", found)


def test_missing_label_files_are_named_for_each_part_of_a_mixture(tmp_path):
    found = diagnosis(run_of(tmp_path, "konvid_1k"))
    assert [name for name, _ in found.broken] == ["labels of konvid_1k"]
    assert any("disk: 0.00 GB there, about 2.30 GB still to come" in note for note in found.notes)
    assert any("nothing prepared" in note for note in found.notes)
    mixed = diagnosis(run_of(tmp_path, "vqa2"))
    assert {"labels of koniq_10k", "labels of lsvq_train", "labels of videofeedback"} <= {n for n, _ in mixed.broken}


def test_the_disk_needed_is_a_share_of_the_published_size_or_the_mean_of_what_is_there(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 3 * 10**9}))
    half = doctor._Room(2.0, [10**8] * 5, 5)
    mean = doctor._Room(None, [10**8] * 2, 10)
    bare = doctor._Room(None, [], 10)
    assert [room.needed() for room in (half, mean, bare, doctor._Room(2.0), doctor._Room(2.0, [1]))] == [
        1e9, 1e9, None, 2e9, 0.0]  # fmt: skip
    said = doctor._disk(tmp_path, {"A": half, "B": mean, "C": bare})
    assert said == "disk: 0.70 GB there, about 2.00 GB still to come, without archives, unknown for C, 3.0 GB free"
    assert doctor._disk(tmp_path, {"C": bare}) == "disk: 0.00 GB there, unknown for C, 3.0 GB free"
    assert doctor._disk(tmp_path, {"A": half, "B": mean, "D": doctor._Room(1.5, [], 1)}).endswith("NOT ENOUGH")


def test_a_file_that_two_parts_name_needs_room_once(tmp_path):
    for name in ("lsvq_1080p", "lsvq_1080p_2575"):
        write_form(tmp_path, name)
    parts = [build("source", composed("data_prep", [f"source={name}"])["source"], "source")
             for name in ("lsvq_1080p", "lsvq_1080p_2575")]  # fmt: skip
    with bars(False) as shown:
        *_, disk = doctor._published(parts, tmp_path, 1, shown)
    assert "about 75.00 GB still to come" in disk.notes[0]


def test_released_instruction_files_are_missing_cut_off_or_of_another_length(tmp_path):
    def look(*more: str) -> doctor.Diagnosis:
        values = composed("data_prep", ["source=vqa2_released", f"out={tmp_path}", "workers=1", *more])
        return diagnose(decode(DataPrepRun, values, "data_prep"), build("source", values["source"], "source"))

    with pytest.raises(ConfigError, match="set: vqa2_released has its files in its sets; add set=vqa2_released"):
        look()
    empty = look("set=vqa2_released")
    assert (empty.wanted, len(empty.missing)) == (7, 7)
    assert any("where to get it: huggingface.co/datasets/q-future/VQA-stage3" in note for note in empty.notes)
    folder = tmp_path / "VQA-stage3"
    folder.mkdir()
    (folder / "state3_only.json").write_text('[{"image": "a.mp4"}, {"image": "b')
    assert "not valid JSON after record 1" in look("set=vqa2_released").broken[0][1]
    (folder / "state3_mix.json").write_text('[{"image": "a.mp4"}, {"image": "b.mp4"}]')
    mixed = look("set=vqa2_released_mix")
    assert mixed.broken == ((str(folder / "state3_mix.json"), "2 records, 143270 expected"),)
    whole = look("set=vqa2_released_mix", "sets.understanding_mix.files={state3_mix.json:2}")
    assert (whole.missing, whole.broken) == ((), ())
    command = ["doctor", "data=vqa2_released", f"out={tmp_path}"]
    assert "missing: " in CliRunner().invoke(app, command).output, "its own sets are looked at unasked"


@pytest.mark.skipif(not LABELS.is_dir(), reason="needs ../shared/data/labels")
def test_on_real_label_files_every_clip_is_missing_and_nothing_else_wrong(tmp_path):
    (tmp_path / "in").symlink_to(LABELS)
    found = diagnosis(run_of(tmp_path, "konvid_1k"))
    assert (found.wanted, len(found.missing), found.broken) == (1201, 1200, ())


def test_a_prepared_root_is_checked_against_its_record(tmp_path):
    out = tmp_path / "root"
    overrides = [
        "source=synthetic", f"out={out}", "workers=1", "set=distortion_spatial", "source.recipe.stills=[1,1]",
        "source.recipe.spatial_videos=[0,0]", "source.recipe.temporal_videos=[0,0]",
        "source.recipe.clean_videos=[0,0]", "source.recipe.streaming=[0,0]",
    ]  # fmt: skip
    run = decode(DataPrepRun, composed("data_prep", overrides), "data_prep")
    prepare(run, progress=False)
    whole = diagnose(run, object())
    verdict("synthetic", whole)
    assert whole.wanted == 26
    media = sorted((out / "media" / "train").iterdir())
    media[0].unlink()
    media[1].write_bytes(media[1].read_bytes() + b"!")
    rows = out / "distortion_spatial.test.jsonl"
    rows.write_text(rows.read_text() + "\n")
    (out / "prepared.json").unlink()
    (out / "lsvq.media.jsonl").write_text(json.dumps({"path": "LSVQ/1.mp4", "sha256": "aa"}) + "\n")
    found = diagnose(run, object())
    assert found.missing == (str(media[0]), str(out / "LSVQ" / "1.mp4"))
    assert dict(found.broken) == {
        str(media[1]): "not the file that data_prep recorded",
        str(rows): "not the file of distortion_spatial.manifest.json",
    }
    assert any("unfinished" in note for note in found.notes)
    assert diagnose(replace(run, out=str(tmp_path / "other")), object()).wanted == 0


def test_the_command_lists_and_exits_with_2(tmp_path, typed):
    code, _, err = typed("doctor", "data=synthetic", f"out={tmp_path / 'none'}")
    assert not code, err
    assert "0 of 0 files are there and whole" in err
    (tmp_path / "a.manifest.json").write_text(json.dumps({"sha256": {"a.train.jsonl": "aa"}}))
    code, out, err = typed("doctor", "data=synthetic", f"out={tmp_path}")
    assert (code, out) == (2, f"missing: {tmp_path / 'a.train.jsonl'}\n")
    assert err.splitlines()[-1] == "error: synthetic: 1 of 1 files missing, 0 broken (listed above)"
    _, _, refused = typed("doctor", "workers=1")
    assert "data: name a source: data=<" in refused
    assert "|folder|" in refused
