"""Sources that are label files: five rows of every published form become the expected clips; what cannot be used is
listed and counted."""

import json
from pathlib import Path

import numpy as np
import pytest
from faults import FAULTS, add_faults
from labels_form import CHUNKS, FIRST, FORMS, LOG, MOS, RAW, fast, records, write_form, write_mat
from media import numbered, write_clip
from PIL import Image

from data_prep._media import MediaIndex, Workers
from data_prep._scan import scan
from data_prep.run import DataPrepRun, prepare
from data_prep.sources.labelled import Labelled
from vqa2.core.config import build, decode
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.records import Clip, Instruction, Stall, read_jsonl
from vqa2.core.scale import level_of
from vqa2.launch import composed, options

LABELS = Path(__file__).parents[2].parent / "shared" / "data" / "labels"
TABLE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8").splitlines()
REAL = [name for name in FORMS if any(line.startswith(f"| `{name}` |") and line.endswith("| real |") for line in TABLE)]


def source(name: str) -> Labelled:
    return build("source", composed("data_prep", [f"source={name}"])["source"], "source")


def clips(name: str, root: Path) -> tuple[list[Clip], list[dict]]:
    """All usable clips, and the listed exclusions."""
    report = root / "report.jsonl"
    held = scan(source(name), root, report, None, lambda count: None)
    found = list(held.clips(root, np.ones(len(held.keys), bool)))
    return found, [json.loads(line) for line in report.read_text().splitlines()]


def run(root: Path, out: Path, *overrides: str) -> dict:
    values = composed("data_prep", [f"root={root}", f"out={out}", "media=skip", "workers=1", *overrides])
    return prepare(decode(DataPrepRun, values, "data_prep"), progress=False)


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
    assert [c.mos for c in found] == pytest.approx(100 * (raw - raw.min()) / np.ptp(raw))
    made = source(name)
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


BROKEN = [
    (
        "lsvq_train",
        "LSVQ/LSVQ_train_labels.txt",
        fast(("a/1.mp4", 10.0), ("a/2.mp4", 20.0))
        + "a/3.mp4, 1.0\n"
        + fast(("a/1.mp4", 30.0), ("a/4.mp4", 170.0))
        + "a/5.mp4, -1, -1, good\na/\xff.mp4, -1, -1, 5.0\n",
        [
            "broken row: 2 cells, 4 expected",
            "duplicated id: an earlier row has it",
            "MOS out of range: 170.0 is not in 0 .. 100",
            "broken row: MOS 'good' is no number",
            "mixed encoding: bytes that are not UTF-8",
        ],
    ),
    (
        "live_yt_gaming",
        "LIVE-YT-Gaming/LIVE-YT-Gaming_metadata.csv",
        "File,MOS,width\na.mp4,10,1\nb.mp4,20,1\nc.mp4,nan,1\n,30,1\n\xe9.mp4,30,1\n",
        ["MOS out of range: nan is not in 0 .. 100", "broken row: no name", "mixed encoding: bytes that are not UTF-8"],
    ),
    (
        "kadid_10k",
        "KADID-10k/kadid10k_all.txt",
        "images/I01_01_01.png\t1.5\t0\nimages/I01_01_02.png\t2\t0\nimages/x.png\t2\t0\n",
        ["broken row: the name does not fit the dataset's patterns (list index out of range)"],
    ),
    (
        "vqathinker_vdpve",
        "VDPVE/VDPVE_train_score.json",
        '{"annotations": [{"image_id": "a.mp4", "score": "10"}, {"image_id": "b.mp4", "score": 20}, '
        '{"image_id": "c.mp4"}, {"image_id": "a.mp4", "score": "10"}, {"image_id": "d.mp4", "score": "x"}, '
        '{"image_id": "\xff", "score": "1"}, 7]}',
        [
            "broken row: neither image_id and score nor image and conversations",
            "duplicated id: an earlier row has it",
            "broken row: MOS 'x' is no number",
            "mixed encoding: bytes that are not UTF-8",
            "broken row: neither image_id and score nor image and conversations",
        ],
    ),
    (
        "vqathinker_lsvq_train",
        "LSVQ/LSVQ_labels_train.jsonl",
        '{"image": ["a.mp4"], "conversations": [{"value": "?"}, {"value": 1.0}]}\n{"image": ["b.mp4"\n'
        '{"image": ["c.mp4"], "conversations": [{"value": "?"}, {"value": 2.0}]}\n\n'
        '{"image": [], "conversations": []}\n',
        [
            "broken row: no JSON (Expecting ',' delimiter)",
            "broken row: neither image_id and score nor image and conversations",
        ],
    ),
    (
        "live_vqc_88",
        "LIVE-VQC/live_VQC.json",
        records(
            {"img_path": "a.mp4", "mos": 0.1},
            {"img_path": "b.mp4", "mos": 0.2},
            {"img_path": "c.mp4"},
            {"mos": 0.2},
            {"img_path": "d.mp4", "mos": 1.1},
        ),
        ["broken row: no mos", "broken row: no img_path", "MOS out of range: 1.1 is not in 0 .. 1"],
    ),
    (
        "waterloo_sqoe_3",
        "WaterlooSQoE-III/data.csv",
        "streaming_log,mos,content\n1.csv,10,a\n2.csv,20,a\n9.csv,30,a\n6.csv,30,a\n7.csv,40,a\n",
        [
            "missing file: no streaming log 9.csv",
            "broken row: streaming_logs_all.csv: could not convert string to float: 'x'",
            "broken row: streaming_logs_all.csv: a chunk of 0.0 s at 25.0 frames a second after 0.0 s",
        ],
    ),
    (
        "live_nflx_2",
        "LIVE-NFLX-II/live_nflx_ii_derived.csv",
        "distorted_mp4_video,retrospective_zscored_mos,frame_rate,N_total_frames,rebuffer_events_frames\n"
        "A_0.mp4,0.5,30,300,[]\nA_1.mp4,0.7,30,300,[]\nA_2.mp4,0.5,30,300,[3]\nA_3.mp4,0.5,zero,300,[]\n"
        'A_4.mp4,0.5,0,300,"[[1, 2]]"\n',
        [
            "broken row: rebuffer_events_frames is no list of [first frame, frames]",
            "broken row: frame_rate or N_total_frames is no number",
            "broken row: frame_rate or N_total_frames is no number",
        ],
    ),
    (
        "maxwell",
        "MaxWell/MaxWell_train.csv",
        "O,A-1,T-1\n1.5,0,0\n2.5,0,0\nbad,0,0\n3.5,0\n",
        ["broken row: MOS 'bad' is no number", "broken row: 2 cells, 3 expected"],
    ),
]


@pytest.mark.parametrize(("name", "file", "text", "reasons"), BROKEN, ids=[b[0] for b in BROKEN])
def test_rows_that_cannot_be_used_are_listed_with_their_reasons(name, file, text, reasons, tmp_path):
    write_form(tmp_path, name)
    (tmp_path / file).write_bytes(text.encode("latin-1"))
    if name == "waterloo_sqoe_3":
        with (tmp_path / "WaterlooSQoE-III" / "streaming_logs_all.csv").open("a") as log:
            log.write("6.csv,x,4.0,25\n7.csv,0,0.0,25\n")
    found, left_out = clips(name, tmp_path)
    assert [x["reason"] for x in left_out] == reasons
    assert all(x["where"] and x["source"] == name for x in left_out)
    made = source(name)
    usable = [c for c in found if c.split == next(iter(made.files))]
    assert len(usable) == 2


@pytest.mark.parametrize("name", FORMS)
def test_every_source_lists_and_counts_each_kind_of_bad_row(name, tmp_path):
    made = source(name)
    good, _ = clips(name, write_form(tmp_path, name))
    add_faults(tmp_path, made)
    held = scan(made, tmp_path, tmp_path / "report", None, lambda count: None)
    assert dict(held.excluded) == dict.fromkeys(FAULTS, 1)
    listed = [json.loads(line) for line in (tmp_path / "report").read_text().splitlines()]
    assert [item["reason"].partition(":")[0] for item in listed] == list(FAULTS)
    assert all(item["where"] and item["source"] == name for item in listed)
    assert list(held.clips(tmp_path, np.ones(5, bool))) == good, "and the good ones are as before"


@pytest.mark.parametrize("name", FORMS)
def test_every_source_lists_the_clips_that_are_not_there(name, tmp_path):
    made = source(name)
    there = write_form(tmp_path, name) / FIRST[name][1]
    there.parent.mkdir(parents=True, exist_ok=True)
    if made.kind == "image":
        Image.new("RGB", (16, 16)).save(there)
    else:
        write_clip(tmp_path / "clip.mp4", numbered(4, 32, 32), 25, "libx264", "yuv420p")
        (tmp_path / "clip.mp4").rename(there)
    workers = Workers(1)
    index = MediaIndex(tmp_path / "out", tmp_path, workers)
    held = scan(made, tmp_path, tmp_path / "report", index, lambda count: None)
    index.close()
    assert dict(held.excluded) == {"missing file": 4}
    assert [c.path for c in held.clips(tmp_path, np.ones(1, bool))] == [FIRST[name][1]]


def test_a_lower_is_better_scale_is_turned_round(tmp_path):
    write_form(tmp_path, "lsvq_train")
    values = composed("data_prep", ["source=lsvq_train", "source.scale.better=lower"])["source"]
    held = scan(build("source", values, "source"), tmp_path, tmp_path / "r", None, lambda count: None)
    assert [c.mos for c in held.clips(tmp_path, np.ones(5, bool))] == pytest.approx([100, 80.625, 62.5, 24.6875, 0])


def test_known_broken_items_and_constant_opinions(tmp_path):
    write_form(tmp_path, "lsvq_train")
    values = composed("data_prep", ["source=lsvq_train"])["source"]
    made = build("source", {**values, "broken": {"backup/7.mp4": "black from 2 s on"}}, "source")
    held = scan(made, tmp_path, tmp_path / "r", None, lambda count: None)
    assert len(held.keys) == 4
    assert dict(held.excluded) == {"known broken": 1}
    (tmp_path / "LSVQ/LSVQ_train_labels.txt").write_text(fast(("a.mp4", 3.0), ("b.mp4", 3.0)))
    with pytest.raises(DataError, match="lsvq_train: all 2 opinions are 3; nothing to scale"):
        clips("lsvq_train", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such label file"),
        (b"", "is empty"),
        ("a.mp4, 1, 1, 2".encode("utf-16"), "is UTF-16"),
        (b"\n\n", "no rows of its 0 clips"),
    ],
)
def test_a_label_file_that_is_none_stops_the_run(content, message, tmp_path):
    write_form(tmp_path, "lsvq_train")
    path = tmp_path / "LSVQ/LSVQ_train_labels.txt"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        run(tmp_path, tmp_path / "out", "source=lsvq_train", "set=scoring_ugc")


def test_a_cut_off_json_and_an_uneven_pair_stop_the_run(tmp_path):
    write_form(tmp_path, "vqathinker_vdpve")
    path = tmp_path / "VDPVE/VDPVE_train_score.json"
    path.write_text(path.read_text()[:-120])
    with pytest.raises(DataError, match=r"not valid JSON after record 4; the download may be incomplete"):
        clips("vqathinker_vdpve", tmp_path)
    write_form(tmp_path, "maxwell")
    with (tmp_path / "MaxWell/MaxWell_train.csv").open("a") as file:
        file.write("1.0,0,0\n")
    with pytest.raises(DataError, match="another number of rows than train_labels.txt"):
        clips("maxwell", tmp_path)
    write_form(tmp_path, "cgvds")
    path = tmp_path / "CGVDS/CGVDS_metadata.csv"
    path.write_text(path.read_text().replace("File,MOS", "File,Score"))
    with pytest.raises(DataError, match=r"no column 'MOS'; the file has File, Score, width"):
        clips("cgvds", tmp_path)


def test_a_released_file_larger_than_the_read_piece(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep._rows.CHUNK", 64)
    names = [f"folder/{k}é.mp4" for k in range(200)]
    path = tmp_path / "LSVQ" / "LSVQ(test_1080p).json"
    path.parent.mkdir()
    path.write_text(records(*({"img_path": n, "mos": k / 3} for k, n in enumerate(names))), encoding="utf-8")
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


def test_a_file_that_is_no_table_is_one_line(tmp_path):
    write_form(tmp_path, "cgvds")
    (tmp_path / "CGVDS/CGVDS_metadata.csv").write_text('File,MOS\n"' + "x" * (1 << 21) + '",1\n')
    with pytest.raises(DataError, match="no table: field larger than field limit"):
        clips("cgvds", tmp_path)


def test_a_content_in_two_splits_is_refused(tmp_path):
    write_form(tmp_path, "koniq_10k")
    (tmp_path / "KonIQ-10k/test_labels.txt").write_text(fast(("1.png", 60.0)))
    with pytest.raises(DataError, match="content 'KonIQ-10k/1' lies in both splits, train and test"):
        run(tmp_path, tmp_path / "out", "source=koniq_10k", "set=scoring_ugc", "source.kind=video")


@pytest.mark.skipif(not LABELS.is_dir(), reason="the published label files are not here")
@pytest.mark.parametrize("name", REAL)
def test_the_published_files_hold_what_is_declared(name, tmp_path):
    """Of every dataset whose label file the documentation calls real."""
    for folder in LABELS.iterdir():
        (tmp_path / folder.name).symlink_to(folder)
    (tmp_path / "CGVDS").symlink_to(LABELS / "Gaming-other")
    made = source(name)
    held = scan(made, tmp_path, tmp_path / "report", None, lambda count: None)
    assert {split: held.found[split] for split in made.expected} == made.expected
    assert not held.excluded
