"""Preparing a data root: bad values are one line, files are reused only while they are right, nothing goes stale."""

import json
import shlex

import numpy as np
import pytest
from labels_form import write_form

from data_prep import _build
from data_prep.__main__ import main
from data_prep._contents import GRAY_PHOTOS
from data_prep._degrade import COLOR
from data_prep._encode import write_video
from data_prep._media import MediaIndex, Workers
from data_prep.run import MARKER, DataPrepRun, prepare
from vqa2.core.config import decode
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.records import Clip, read_jsonl
from vqa2.launch import composed, guarded
from vqa2.train.data import DataSpec, ensure_data

NONE = [f"source.recipe.{k}=[0,0]" for k in ("stills", "spatial_videos", "clean_videos", "streaming")]
TINY = [*NONE, "source.recipe.temporal_videos=[1,1]", "sets.base.rows=[2,1]", "workers=1",
        "sets.benchmark.questions={yes-or-no: 2, what/how: 2, open_ended: 2}"]  # fmt: skip


def made(*overrides: str) -> dict:
    return prepare(decode(DataPrepRun, composed("data_prep", [*TINY, *overrides]), "data_prep"), progress=False)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("source.recipe.width=129", "source.recipe.width: 129 is odd"),
        ("source.recipe.strength=[0.9,0.2]", "source.recipe.strength: 0.9 to 0.2 is no range"),
        ("~source.recipe.drop.noise", "source.recipe.drop.noise: required and missing"),
        ("+source.recipe.drop.nois=3", "source.recipe.drop.nois: unknown key .did you mean 'noise'"),
        ("source.procedural=1.5", "source.procedural: input should be less than or equal to 1"),
        ("source.test_contents=[]", "the test split has no colored photograph"),
        ("source.test_contents=[cofee]", "no content 'cofee' .did you mean 'coffee'"),
    ],
)
def test_a_bad_value_is_one_line_and_writes_nothing(override, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as caught:
        made(override, f"out={tmp_path / 'out'}")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_changed_file_is_made_again_and_other_media_code_makes_all_anew(tmp_path, monkeypatch):
    made(f"out={tmp_path}")
    files = sorted(tmp_path.rglob("*.mp4"))
    assert len(files) == 6
    right = {p: p.read_bytes() for p in files}
    files[0].write_bytes(right[files[0]][:-40])
    seen = {p: p.stat().st_mtime_ns for p in files}
    made(f"out={tmp_path}")
    assert {p for p in files if p.stat().st_mtime_ns != seen[p]} == {files[0]}
    assert {p: p.read_bytes() for p in files} == right
    monkeypatch.setattr(_build, "making", lambda: "another version")
    made(f"out={tmp_path}")
    assert all(p.stat().st_mtime_ns != seen[p] for p in files)


def test_a_run_that_dies_keeps_what_it_finished_and_is_not_taken_for_complete(tmp_path, monkeypatch):
    made(f"out={tmp_path}")
    real, calls = _build._make, []

    def dies(root, recipe, job):
        calls.append(job.id)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(root, recipe, job)

    monkeypatch.setattr(_build, "_make", dies)
    with pytest.raises(KeyboardInterrupt):
        made(f"out={tmp_path}", "source.recipe.store_qp=9")
    assert not (tmp_path / MARKER).exists()
    made(f"out={tmp_path}", "source.recipe.store_qp=9")
    assert len(calls) == 4 + 3
    assert (tmp_path / MARKER).is_file()


def test_sets_of_other_media_are_not_left_under_new_media(tmp_path):
    made(f"out={tmp_path}")
    with pytest.raises(DataError, match="tell of other media; use set=all or another out="):
        only(tmp_path, "grpo", "seed=1")
    assert (tmp_path / MARKER).is_file()
    only(tmp_path, "grpo")
    made(f"out={tmp_path}", "seed=1")
    assert json.loads((tmp_path / "understanding.manifest.json").read_text())["seed"] == 1


def only(root, name: str, *overrides: str) -> dict:
    """One set alone; the overrides of the others do not apply."""
    values = [*TINY[:5], "workers=1", f"set={name}", f"out={root}", *overrides]
    return prepare(decode(DataPrepRun, composed("data_prep", values), "data_prep"), progress=False)


@pytest.mark.slow
def test_a_label_is_something_one_can_see(tmp_path):
    many = ["source.recipe.temporal_videos=[12,4]", "source.recipe.stills=[6,3]"]
    only(tmp_path, "distortion_temporal", *many, "source.recipe.width=64", "source.recipe.height=48")
    for clip in read_jsonl(tmp_path / "clips.jsonl", Clip):
        variant = clip.distortions[0].variant or clip.distortions[0].name
        if variant == "stutter":
            assert clip.tags["camera"] != "static"
        if variant in COLOR:
            assert clip.content not in GRAY_PHOTOS
            assert clip.tags["color"] == "yes"


def test_a_gray_still_folder_gets_no_color_distortion_and_no_stutter(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    picture = np.random.default_rng(0).integers(0, 256, (1, 48, 64, 1), np.uint8).repeat(16, 0).repeat(3, 3)
    for name in ("a", "b"):
        write_video(folder / f"{name}.mp4", picture, 8, "x264", 10)
    values = ["source=folder", f"root={folder}", "source.recipe.stills=[1,1]"]
    summary = only(tmp_path / "out", "distortion_spatial", *values)
    names = {name for name, _ in summary["excluded"]}
    left_out = ("still-oversaturation-000", "still-desaturation-000", "stutter-000")
    assert names == {f"{split}-{name}" for split in ("train", "test") for name in left_out}
    assert all(reason.startswith("no content of the") for _, reason in summary["excluded"])


def test_training_completes_a_root_that_lacks_sets_and_leaves_another_one_alone(tmp_path, capsys):
    root = tmp_path / "root"
    command = shlex.join(["python", "-m", "data_prep", *TINY])
    data = DataSpec(
        root=str(root),
        prepare=True,
        command=command,
        decode_cache_mb=0,
        streaming=False,
        shuffle_buffer=1,
        overlap="refuse",
        held_out=(),
    )
    ensure_data(data, composed)
    whole = {p.name for p in root.glob("*.jsonl")}
    marker = json.loads((root / MARKER).read_text())
    del marker["sets"]["base"]
    (root / MARKER).write_text(json.dumps(marker))
    (root / "base.train.jsonl").unlink()
    ensure_data(data, composed)
    assert {p.name for p in root.glob("*.jsonl")} == whole
    assert capsys.readouterr().err.count("used as it is") == 0
    marker["media"] = "older"
    (root / MARKER).write_text(json.dumps(marker))
    ensure_data(data, composed)
    assert "was made by other settings or code" in capsys.readouterr().err.replace("\n", " ")
    assert json.loads((root / MARKER).read_text())["media"] == "older"


def test_what_the_disk_refuses_and_what_cannot_be_read_is_one_line(tmp_path, capsys):
    write_form(tmp_path, "lsvq_train")
    (tmp_path / "file").write_text("")
    words = ["source=lsvq_train", "set=scoring_ugc", f"root={tmp_path}", "media=skip"]
    for out, said in (("file", "File exists"), ("file/below", "Not a directory")):
        with pytest.raises(SystemExit) as end:
            guarded(main, "data_prep", [*words, f"out={tmp_path / out}"])
        assert end.value.code == 2
        assert capsys.readouterr().err.splitlines()[-1] == f"error: {tmp_path / out}: {said}"
    (tmp_path / ".media.sqlite").write_text("no database, but longer than its header")
    with pytest.raises(DataError, match=r".media.sqlite: file is not a database; where it is damaged, remove it"):
        MediaIndex(tmp_path, tmp_path, Workers(1))
    (tmp_path / MARKER).write_text('{"sets": ')
    with pytest.raises(DataError, match=r"prepared.json: damaged .*; remove it and run data_prep again"):
        main([*words, f"out={tmp_path}"])
    for written in ("/ö (1)", "'/ö (1)'"):
        assert composed("data_prep", [f"out={written}"])["out"] == "/ö (1)"
