"""Label files that cannot be used, whole or in part: rows are listed and counted, a file stops the run."""

from dataclasses import replace

import numpy as np
import pytest
from faults import FAULTS, add_faults
from label_runs import clips, lines, run, source
from labels_form import FIRST, FORMS, fast, records, write_form
from media import numbered, write_clip
from PIL import Image

from data_prep._media import MediaIndex, Workers
from data_prep._scan import scan
from vqa2.core.config import build
from vqa2.core.errors import DataError
from vqa2.launch import composed

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
    listed = lines(tmp_path / "report")
    assert [item["reason"].partition(":")[0] for item in listed] == list(FAULTS)
    assert all(item["where"] and item["source"] == name for item in listed)
    found = held.clips(tmp_path, np.ones(5, bool))
    # More lines are drawn otherwise.
    again = [replace(c, split=g.split) if name == "t2vqa_db" else c for c, g in zip(found, good, strict=True)]
    assert again == good, "and the good ones are as before"


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


def test_known_broken_items_and_constant_opinions(tmp_path):
    write_form(tmp_path, "lsvq_train")
    values = composed("data_prep", ["source=lsvq_train"])["source"]
    made = build("source", {**values, "broken": {"backup/7.mp4": "black from 2 s on"}}, "source")
    held = scan(made, tmp_path, tmp_path / "r", None, lambda count: None)
    assert len(held.keys) == 4
    assert dict(held.excluded) == {"known broken": 1}
    write_form(tmp_path, "konvid_1k")
    (tmp_path / "KoNViD-1k/labels.txt").write_text(fast(("a.mp4", 3.0), ("b.mp4", 3.0)))
    with pytest.raises(DataError, match="konvid_1k: all 2 opinions are 3; nothing to scale"):
        clips("konvid_1k", tmp_path)


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


def test_a_file_that_is_no_table_is_one_line(tmp_path):
    write_form(tmp_path, "cgvds")
    (tmp_path / "CGVDS/CGVDS_metadata.csv").write_text('File,MOS\n"' + "x" * (1 << 21) + '",1\n')
    with pytest.raises(DataError, match="no table: field larger than field limit"):
        clips("cgvds", tmp_path)
