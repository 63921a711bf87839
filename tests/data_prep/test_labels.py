"""Sources that are label files: five rows of every published form become the expected clips."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from label_runs import clips, link_published, run, source, with_labels
from labels_form import CHUNKS, FIRST, FORMS, LOG, MOS, RAW, fast, records, write_form, write_mat

from data_prep._scan import scan
from vqa2.core.config import build
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.records import Instruction, Stall, read_jsonl
from vqa2.core.scale import level_of
from vqa2.launch import composed, options

TABLE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8").splitlines()
REAL = [name for name in FORMS if any(line.startswith(f"| `{name}` |") and line.endswith("| real |") for line in TABLE)]


def test_every_dataset_has_a_fixture():
    embedded = {"synthetic", "folder", "vqa2", "vqa2_leakfree", "vqa2_released"}
    assert set(FORMS) == set(FIRST) == set(options("source")) - embedded


@pytest.mark.parametrize("name", FORMS)
def test_five_rows_become_the_expected_clips(name, tmp_path):
    found, left_out = clips(name, write_form(tmp_path, name))
    assert left_out == []
    assert len(found) == 5
    ident, path, content = FIRST[name]
    assert (found[0].id, found[0].path, found[0].content) == (f"{name}/{ident}", path, content)
    raw = np.array(RAW.get(name, MOS))
    assert [float(c.tags["mos_raw"]) for c in found] == pytest.approx(raw)
    made = source(name)
    least, most = made.scale.span or (raw.min(), raw.max())
    assert [c.mos for c in found] == pytest.approx(100 * (raw - least) / (most - least))
    assert {c.split for c in found} == set(made.files) == set(made.expected)
    assert {c.kind for c in found} == {made.kind}
    assert made.license
    assert made.obtain
    items = " + ".join(f"{count:,} {split}" for split, count in made.expected.items())
    scale, size = f"{made.scale.lo:g} to {made.scale.hi:g}", "unknown" if made.disk_gb is None else made.disk_gb
    row = f"| `{name}` | {made.dataset} | {items} | {scale} | {made.reader['name']} | {size} |"
    assert sum(line.startswith(row) for line in TABLE) == 1, f"docs/data.md lacks {row}"


def test_what_names_tell_of_distortions(tmp_path):
    found, _ = clips("kadid_10k", write_form(tmp_path, "kadid_10k"))
    told = [[(d.name, d.strength) for d in c.distortions] for c in found]
    assert told == [[("spatial blur", 0.2)], [], [("compression artifact", 0.6)], [("block effect", 0.8)], []]
    found, _ = clips("live_qualcomm", write_form(tmp_path, "live_qualcomm"))
    assert [[d.name for d in c.distortions] for c in found] == [[], ["flicker"], [], ["flicker"], []]


def test_stalls_of_sessions_are_on_the_played_timeline(tmp_path):
    found, _ = clips("waterloo_sqoe_3", write_form(tmp_path, "waterloo_sqoe_3"))
    # Session 1 waits 2 s before its first chunk, session 4 1 s before its second, session 5 both.
    assert found[0].stalls == (Stall(start_s=0.0, length_s=2.0),)
    assert found[3].stalls == (Stall(start_s=4.0, length_s=1.0),)
    assert found[4].stalls == (Stall(start_s=0.0, length_s=2.0), Stall(start_s=6.0, length_s=1.0))
    assert found[4].tags["frames"] == str(11 * 30)
    assert found[0].tags["fps"] == "30"


def test_logs_as_separate_files_say_the_same(tmp_path):
    joined, _ = clips("waterloo_sqoe_1", write_form(tmp_path / "a", "waterloo_sqoe_1"))
    folder = write_form(tmp_path / "b", "waterloo_sqoe_1") / "WaterlooSQoE-I"
    (folder / "streaming_logs_all.csv").unlink()
    (folder / "streaming_logs").mkdir()
    for k in range(1, 6):
        rows = [line.partition(",")[2] for line in CHUNKS.splitlines() if line.startswith(f"{k}.csv")]
        text = "\n".join([LOG.strip().partition(",")[2], *rows])
        (folder / "streaming_logs" / f"{k}.csv").write_text(text + "\n")
    assert clips("waterloo_sqoe_1", tmp_path / "b")[0] == joined


def test_the_split_of_t2vqa_db_is_what_its_authors_code_draws(tmp_path):
    """`random.seed(1)`, shuffle the lines, the first 80 % are for training; test.py of QMME/T2VQA at 374b01e."""
    names = [f"{k}.mp4" for k in range(37)]
    (tmp_path / "T2VQA-DB").mkdir()
    (tmp_path / "T2VQA-DB" / "info.txt").write_text("".join(f"{n}|a|{k + 1}\n" for k, n in enumerate(names)))
    shuffled = list(names)
    random.seed(1)
    random.shuffle(shuffled)
    found, _ = clips("t2vqa_db", tmp_path)
    for split, drawn in (("train", shuffled[:29]), ("test", shuffled[29:])):
        assert {c.content.removeprefix("T2VQA-DB/") + ".mp4" for c in found if c.split == split} == set(drawn)


def test_nflx_mat_files_and_table_say_the_same(tmp_path):
    told, _ = clips("live_nflx_2", write_form(tmp_path / "csv", "live_nflx_2"))
    for k, mos in enumerate(MOS):
        stalled = [30 <= i < 90 and k % 2 for i in range(300)]
        write_mat(tmp_path / "mat" / "LIVE-NFLX-II" / "matFiles" / f"{k}.mat", f"Air{k}_Buffer_Trace_{k}", mos / 50 - 1,
                  [int(s) for s in stalled])  # fmt: skip
    (tmp_path / "mat" / "LIVE-NFLX-II" / "matFiles" / "9.mat").write_bytes(b"cut")
    found, left_out = clips("live_nflx_2", tmp_path / "mat")
    assert found == told
    assert found[1].stalls == (Stall(start_s=1.0, length_s=2.0),)
    assert [(x["where"], x["reason"].partition(":")[0]) for x in left_out] == [("9.mat", "broken row")]


def test_a_lower_is_better_scale_is_turned_round(tmp_path):
    write_form(tmp_path, "lsvq_train")
    values = composed("data_prep", ["source=lsvq_train", "source.scale.better=lower", "source.scale.span=null"])[
        "source"
    ]
    held = scan(build("source", values, "source"), tmp_path, tmp_path / "r", None, lambda count: None)
    assert [c.mos for c in held.clips(tmp_path, np.ones(5, bool))] == pytest.approx([100, 80.625, 62.5, 24.6875, 0])


def test_a_released_file_larger_than_the_read_piece(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep._rows.CHUNK", 64)
    names = [f"folder/{k}é.mp4" for k in range(200)]
    path = tmp_path / "LSVQ" / "LSVQ(test_1080p).json"
    path.parent.mkdir()
    path.write_text(records(*({"img_path": n, "mos": 10 + k / 3} for k, n in enumerate(names))), encoding="utf-8")
    found, left_out = clips("lsvq_1080p_2575", tmp_path)
    assert [c.id for c in found] == [f"lsvq_1080p_2575/{n}" for n in names]
    assert not left_out


def test_sets_of_a_single_dataset(tmp_path):
    summary = run(write_form(tmp_path, "maxwell"), tmp_path / "out", "source=maxwell", "set=scoring_ugc")
    assert summary["sets"] == {"scoring_ugc": {"train": 4, "test": 1}}
    rows = read_jsonl(tmp_path / "out" / "scoring_ugc.train.jsonl", Instruction)
    assert [r.turns[0].assistant for r in rows] == [f"The quality of this video is {level_of(r.mos)}." for r in rows]
    assert [r.turns[0].assistant.split()[-1] for r in rows] == ["low.", "poor.", "fair.", "good."]
    manifest = json.loads((tmp_path / "out" / "scoring_ugc.manifest.json").read_text())
    held = manifest["sources"]["maxwell"]
    assert held["expected"] == {"train": 3634, "test": 909}
    assert held["found"] == {"train": 4, "test": 1}
    assert (held["usable"], held["taken"], held["rows"]) == (5, 5, 5)
    assert set(manifest["labels"]) == {f"MaxWell/{n}" for n in (
        "train_labels.txt", "test_labels.txt", "MaxWell_train.csv", "MaxWell_val.csv")}  # fmt: skip
    again = run(tmp_path, tmp_path / "out", "source=maxwell", "set=grpo")
    assert set(again["sets"]) == {"scoring_ugc", "grpo"}


def test_a_set_that_has_nothing_to_say_or_needs_embedded_clips_is_refused(tmp_path):
    write_form(tmp_path, "koniq_10k")
    with pytest.raises(DataError, match="sets.distortion_spatial: no rows of its 5 clips"):
        run(tmp_path, tmp_path / "out", "source=koniq_10k", "set=distortion_spatial")
    with pytest.raises(ConfigError, match="sets.understanding: understanding is written from embedded clips only"):
        run(tmp_path, tmp_path / "out", "source=koniq_10k", "set=understanding")

    with pytest.raises(ConfigError, match="sets.depict: clips is written from published datasets only"):
        run(tmp_path, tmp_path / "out", "source=synthetic", "set=depict")


def test_a_content_in_two_splits_is_refused(tmp_path):
    write_form(tmp_path, "koniq_10k")
    (tmp_path / "KonIQ-10k/test_labels.txt").write_text(fast(("1.png", 60.0)))
    with pytest.raises(DataError, match="content 'KonIQ-10k/1' lies in both splits, train and test"):
        run(tmp_path, tmp_path / "out", "source=koniq_10k", "set=scoring_ugc", "source.kind=video")


@pytest.mark.parametrize("name", [name for name in FORMS if "lsvq" in name and name != "lsvq"])
def test_a_clip_of_lsvq_has_one_level_in_every_list(name, tmp_path):
    """A list that holds a part of the dataset does not stretch its own opinions over 0-100."""
    (tmp_path / "a").mkdir()
    whole, _ = clips("lsvq", write_form(tmp_path / "a", "lsvq"))
    part, _ = clips(name, write_form(tmp_path / "b", name))
    assert [(c.content, c.mos) for c in part] == [(c.content, pytest.approx(c.mos)) for c in whole]
    assert [level_of(c.mos) for c in part] == ["low", "poor", "fair", "good", "high"]


def test_opinions_beyond_the_span_are_rounding_or_errors(tmp_path):
    (tmp_path / "LSVQ").mkdir()
    rows = fast(("a.mp4", 2.448), ("b.mp4", 91.42), ("c.mp4", 95.0), ("d.mp4", 50.0))
    (tmp_path / "LSVQ" / "labels_test.txt").write_text(rows)
    found, left_out = clips("lsvq_test", tmp_path)
    assert [c.mos for c in found] == [0.0, 100.0, pytest.approx(53.447, abs=1e-3)]
    (reason,) = (item["reason"] for item in left_out)
    assert (
        reason == "MOS out of range: 95.0 is not in 2.44828 .. 91.4194, where the dataset's opinions lie (scale.span)"
    )
    values = composed("data_prep", ["source=lsvq_test", "source.scale.span=[5,105]"])["source"]
    with pytest.raises(ConfigError, match=r"scale.span: \[5.0, 105.0\] is no interval inside 0 .. 100"):
        build("source", values, "source")


@with_labels
@pytest.mark.parametrize("name", REAL)
def test_the_published_files_hold_what_is_declared(name, tmp_path):
    """Of every dataset whose label file the documentation calls real."""
    made = source(name)
    held = scan(made, link_published(tmp_path), tmp_path / "report", None, lambda count: None)
    assert {split: held.found[split] for split in made.expected} == made.expected
    assert not held.excluded
    if name in ("lsvq", "live_vqc", "youtube_ugc_1380"):
        assert made.scale.span == (held.mos.min(), held.mos.max()), "these lists are whole"


@with_labels
def test_the_span_of_live_vqc_is_the_one_that_the_released_list_is_scaled_by(tmp_path):
    """Two items of VQA²'s live_VQC.json, whose opinions lie in 0-1."""
    found, _ = clips("live_vqc", link_published(tmp_path))
    mos = {c.path.removeprefix("LIVE-VQC/Video/"): c.mos for c in found}
    assert mos["A010.mp4"] == pytest.approx(28.45107617493966)
    assert mos["P009.mp4"] == pytest.approx(56.48538168548315)


@with_labels
@pytest.mark.parametrize(
    ("part", "whole", "count"),
    [
        pytest.param("lsvq_1080p_3561", "lsvq", 3561, marks=pytest.mark.slow),
        ("lsvq_test_7220", "lsvq", 7174),
        ("youtube_ugc_1147", "youtube_ugc_1380", 1147),
    ],
)
def test_a_published_clip_has_one_level_in_every_list(part, whole, count, tmp_path):
    root = link_published(tmp_path)
    first, second = ({c.content: c.mos for c in clips(name, root)[0]} for name in (part, whole))
    both = first.keys() & second.keys()
    assert len(both) == count
    assert all(level_of(first[c]) == level_of(second[c]) for c in both)


def test_a_clip_that_has_two_names_is_found_under_either(tmp_path):
    write_form(tmp_path, "live_vqc")
    (tmp_path / "LIVE-VQC" / "Video").mkdir()
    (tmp_path / "LIVE-VQC" / "Video" / "A002NEW.mp4").touch()
    found, _ = clips("live_vqc", tmp_path)
    assert [c.path for c in found[:2]] == ["LIVE-VQC/Video/A001.mp4", "LIVE-VQC/Video/A002NEW.mp4"]
    assert found[1].content == "LIVE-VQC/A002"
