"""Leaks between collections: by name over the released forms of lists, by file, by content; training's refusal."""

import io
import json
import shutil
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from labels_form import write_form
from media import write_clip
from PIL import Image
from rich.console import Console

from data_prep._names import read_names
from data_prep._videohash import Signature, same_clips, signature
from data_prep.leaks import LeaksRun, leaks
from data_prep.overlap import refuse_overlap
from vqa2.core.config import decode
from vqa2.core.errors import DataError, MediaError
from vqa2.launch import composed
from vqa2.train.data import DataSpec, ensure_data

SHARED = Path(__file__).parents[3] / "shared" / "data"
LABELS, CLIPS = SHARED / "labels", SHARED / "clips"


def run_of(tmp_path: Path, a, b, *overrides: str) -> LeaksRun:
    cache = f"video.cache={tmp_path / 'signatures.sqlite'}"
    return decode(LeaksRun, composed("leaks", [f"a={a}", f"b={b}", cache, "workers=1", *overrides]), "leaks")


def report_of(tmp_path: Path, a, b, *overrides: str) -> dict:
    return leaks(run_of(tmp_path, a, b, *overrides), Console(file=io.StringIO()))


@pytest.fixture(scope="module")
def rules():
    return decode(LeaksRun, composed("leaks", ["a=x", "b=y"]), "leaks")


@pytest.mark.parametrize(
    ("first", "second", "how"),
    [
        ("LSVQ/yfcc-batch1/722.mp4", "yfcc-batch1/722", "name"),
        ("lsvq/yfcc-batch1/722.mp4", "LSVQ\\yfcc-batch1\\722.MP4", "name"),
        ("LIVE-VQC/Video/A012.mp4", "live-vqc/A012NEW.mp4", "name"),
        ("Sports_2160P-4e9f_crf_10_ss_00_t_20.0.mp4", "Sports_2160P-4e9f", "bare name"),
        ("ugc/x_crf_10_ss_00_t_20.0.mp4", "UGC/original_videos/x.mkv", "name"),
        ("yfcc-batch1/722.mp4", "yfcc-batch2/722.mp4", ""),
        ("LSVQ/0001.mp4", "MaxWell/0001.mp4", ""),
        ("0001.mp4", "MaxWell/0001.mp4", "bare name"),
    ],
)
def test_names_agree_where_one_is_the_end_of_the_other(tmp_path, first, second, how):
    for name, text in (("a.txt", first), ("b.txt", second)):
        (tmp_path / name).write_text(f"{text}, -1, -1, 50.0\n")
    report = report_of(tmp_path, tmp_path / "a.txt", tmp_path / "b.txt")
    assert {k for k, v in report["by"].items() if v} == ({how} if how else set())
    assert report["clips of b in a"] == (how == "name")


def test_a_dataset_name_makes_bare_names_certain(tmp_path):
    (tmp_path / "stage3.json").write_text(json.dumps([{"image": "LIVE-VQC/A012.mp4"}, {"image": "LSVQ/A013.mp4"}]))
    (tmp_path / "test.txt").write_text("Video/A012NEW.mp4, 10, 30.0, 50\nVideo/A013.mp4, 10, 30.0, 60\n")
    both = tmp_path / "stage3.json", tmp_path / "test.txt"
    assert report_of(tmp_path, *both)["clips of b in a"] == 0
    report = report_of(tmp_path, *both, "b_dataset=LIVE-VQC", f"out={tmp_path / 'out'}")
    assert [f["b"] for f in report["found"] if f["how"] == "name"] == ["Video/A012NEW.mp4"]
    assert (tmp_path / "out" / "b_kept.txt").read_text() == "Video/A013.mp4\n"
    assert json.loads((tmp_path / "out" / "leaks.json").read_text()) == report


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.txt", "x/1.mp4, -1, -1, 3.5\nx/2.mp4, -1, -1, 4\n\nx/1.mp4, -1, -1, 3\n", ["x/1.mp4", "x/2.mp4"]),
        ("a.txt", "images/I01.png\t4.5\t0.8\n", ["images/I01.png"]),
        ("a.csv", "mos,File\n3,1.mp4\n", ["1.mp4"]),
        ("a.jsonl", '{"media": "x/1.mp4", "id": "r"}\n{"media": null}\n', ["x/1.mp4"]),
        ("a.json", '[{"img_path": "1.mp4", "mos": 0.5}]', ["1.mp4"]),
        ("a.json", '{"annotations": [{"image_id": "1.mp4"}]}', ["1.mp4"]),
        ("a.json", '[{"video_name": "1.mp4_cat_2.mp4.mp4"}]', ["1.mp4", "2.mp4.mp4"]),
        ("a.json", '[{"image": ["1.mp4", "2.mp4"]}]', ["1.mp4", "2.mp4"]),
    ],
)
def test_every_released_form_of_a_list_is_read(tmp_path, rules, name, text, found):
    (tmp_path / name).write_text(text)
    assert read_names(tmp_path / name, rules.names) == found


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"mos,std\n3,1\n", r"a.csv:1: a header without any of media, path"),
        ("a.csv", b"mos,name\n3,\n", r"a.csv:2: no name in column 2"),
        ("a.json", b'[{"mos": 3}]', r"record 0: names no clip under"),
        ("a.json", b'[{"image": 3}]', r"record 0: image: a name is needed, got 3"),
        ("a.json", b'{"a": 1}', r"a list of records is needed, got dict"),
        ("a.jsonl", b"{\n", r"a.jsonl:1: not JSON"),
        ("a.txt", "ä.mp4, 1\n".encode("latin-1"), r"not UTF-8 .byte 0"),
        ("a.txt", b"", r"names no clips"),
        ("b.txt", None, r"no such file or folder"),
    ],
)
def test_a_list_that_cannot_be_read_says_where(tmp_path, rules, name, data, message):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_names(tmp_path / name, rules.names)


def scene(seed: int, frames: int, height: int = 144, width: int = 256) -> np.ndarray:
    """A camera that moves over a random picture of blobs; `[T,H,W,3]`."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (18, 40, 3), dtype=np.uint8))
    wide = np.asarray(small.resize((2 * width, 2 * height), Image.BICUBIC))
    way = rng.permutation([-1, 1])[0] * np.arange(frames)
    x, y = (way * width // frames) % width, (np.arange(frames) * height // (2 * frames)) % height
    return np.stack([wide[j : j + height, i : i + width] for i, j in zip(x, y)])


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Folders `a` with three clips, and `b` with altered copies of the first two and one clip of its own."""
    root = tmp_path_factory.mktemp("clips")
    (root / "a").mkdir()
    (root / "b").mkdir()
    original = {n: scene(n, 75) for n in range(4)}
    for number in range(3):
        write_clip(root / "a" / f"{number}.mp4", original[number], 25, "libx264", "yuv420p", crf="18")
    # Half the size, cut at both ends, 25 -> 12.5 frames a second, strongly compressed, another codec.
    small = np.stack([np.asarray(Image.fromarray(f).resize((128, 72), Image.BILINEAR)) for f in original[0][13:67:2]])
    write_clip(root / "b" / "other_name.mkv", small, 12, "mpeg4", "yuv420p", b="150000")
    shutil.copy(root / "a" / "1.mp4", root / "b" / "copy.mp4")
    write_clip(root / "b" / "own.mp4", original[3], 25, "libx264", "yuv420p", crf="18")
    return root


def test_contents_are_found_under_other_names_after_transcode_trim_resize_and_another_rate(tmp_path, clips):
    (clips / "b" / "broken.mp4").write_bytes(b"no video at all" * 99)
    report = report_of(tmp_path, clips / "a", clips / "b")
    pairs = {(f["a"], f["b"], f["how"]) for f in report["found"]}
    assert pairs == {
        ("0.mp4", "other_name.mkv", "video"),
        ("1.mp4", "copy.mp4", "sha256"),
        ("1.mp4", "copy.mp4", "video"),
    }
    assert (report["clips of b in a"], report["clips of b not in a"]) == (2, 2)
    assert [name for name, _ in report["not compared"]] == ["broken.mp4"]
    assert report_of(tmp_path, clips / "a", clips / "b") == report, "the cached signatures give the same"


MIDDLE = "trim=start={0}:end={1},setpts=PTS-STARTPTS"
COPIES = {
    "small": ("scale=320:-2", ["libx264", "-crf", "40"]),
    "middle": (f"{MIDDLE},scale=480:-2", ["libx264"]),
    "both": (f"{MIDDLE},scale=320:-2,fps=10", ["libx265", "-crf", "40", "-x265-params", "log-level=none"]),
}


@pytest.mark.slow
@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs ../shared/data/clips")
def test_altered_copies_of_real_clips_are_found_and_nothing_else(tmp_path):
    (tmp_path / "copies").mkdir()
    names = sorted(p.name for p in CLIPS.iterdir() if p.suffix in (".mp4", ".mkv", ".mov"))
    assert len(names) == 17
    for name in names:
        with av.open(str(CLIPS / name)) as container:
            seconds = container.duration / av.time_base
        for how, (graph, codec) in COPIES.items():
            shown = graph.format(0.2 * seconds, 0.8 * seconds)
            subprocess.run([get_ffmpeg_exe(), "-v", "error", "-i", CLIPS / name, "-an", "-vf", shown, "-preset",
                            "ultrafast", "-pix_fmt", "yuv420p", "-c:v", *codec,
                            tmp_path / "copies" / f"{Path(name).stem}-{how}.mp4"], check=True)  # fmt: skip
    report = report_of(tmp_path, CLIPS, tmp_path / "copies")
    pairs = {(Path(f["a"]).stem, f["b"]) for f in report["found"] if f["how"] == "video"}
    assert pairs == {(Path(name).stem, f"{Path(name).stem}-{how}.mp4") for name in names for how in COPIES}


def test_a_list_with_a_root_counts_missing_files_and_off_turns_pictures_off(tmp_path, clips):
    (tmp_path / "a.txt").write_text("0.mp4\nlost.mp4\n")
    both = tmp_path / "a.txt", clips / "b"
    report = report_of(tmp_path, *both, f"a_root={clips / 'a'}")
    assert ["lost.mp4", "no such file"] in report["not compared"]
    assert report["by"]["video"] == 1
    off = report_of(tmp_path, *both, f"a_root={clips / 'a'}", "video.enabled=false")
    assert off["compared"] == ["name", "sha256"]
    assert off["by"]["video"] == 0


def signature_of(bits: np.ndarray, start: int = 0) -> Signature:
    return Signature(bits.astype(np.uint64), np.arange(start, start + len(bits), dtype=np.int32))


def test_a_clip_is_the_same_only_in_order_and_for_its_greater_part(rules):
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 2**63, 20)
    other = rng.integers(0, 2**63, 20)
    still = np.full(20, whole[3])
    candidates = [whole[5:15], np.concatenate([whole[:8], other[8:]]), whole[::-1], still, other]
    found = same_clips([signature_of(whole)], [signature_of(c) for c in candidates], rules.video)
    assert [(s.b, s.frames, s.of, s.offset_s) for s in found] == [(0, 10, 10, -5 / rules.video.fps)]
    assert same_clips([signature_of(whole)], [signature_of(other)], rules.video) == []


def test_what_has_no_structure_or_cannot_be_read_gets_no_signature(tmp_path, rules):
    flat = np.full((8, 48, 64, 3), 90, np.uint8)
    write_clip(tmp_path / "flat.mkv", flat, 8)
    with pytest.raises(MediaError, match="no frame has enough structure"):
        signature(tmp_path / "flat.mkv", rules.video.fps, rules.video.flat)
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(MediaError) as caught:
        signature(tmp_path / "text.mp4", rules.video.fps, rules.video.flat)
    assert caught.value.reason == "unreadable file: Invalid data found when processing input"


@pytest.fixture
def root(tmp_path):
    """A prepared data root of two train clips and one test clip."""

    def row(name: str | None) -> str:
        return json.dumps({"media": name}) + "\n"

    (tmp_path / "media").mkdir()
    (tmp_path / "prepared.json").write_text("{}")
    (tmp_path / "ugc.train.jsonl").write_text(row("LSVQ/b1/1.mp4") + row("LSVQ/b1/2.mp4") + row(None))
    (tmp_path / "ugc.test.jsonl").write_text(row("LSVQ/b1/3.mp4") + row(None))
    return tmp_path


def index(root: Path, **hashes: str) -> None:
    made = {n: {"clip": {"path": f"LSVQ/b1/{n[1:]}.mp4"}, "sha256": h} for n, h in hashes.items()}
    (root / "media" / "index.json").write_text(json.dumps(made))


def test_training_refuses_its_test_clips_by_name_by_hash_and_by_held_out_list(root, rules):
    index(root, c1="aa", c2="bb", c3="cc")
    refuse_overlap(root, (), rules.names)
    index(root, c1="aa", c2="bb", c3="bb")
    with pytest.raises(
        DataError, match=r"1 training clips are test clips: LSVQ/b1/2.mp4 is in the test sets, as LSVQ/b1/3"
    ):
        refuse_overlap(root, (), rules.names)
    index(root)
    (root / "qbench.json").write_text(json.dumps([{"video_name": "b1/2.mp4_cat_b1/9.mp4.mp4"}]))
    with pytest.raises(DataError, match=r"LSVQ/b1/2.mp4 is in .*qbench.json, as b1/2.mp4; take them out"):
        refuse_overlap(root, (str(root / "qbench.json"),), rules.names)
    (root / "more.test.jsonl").write_text((root / "ugc.train.jsonl").read_text())
    with pytest.raises(DataError, match=r"2 training clips are test clips: .* data.overlap=allow"):
        refuse_overlap(root, (), rules.names)


@pytest.mark.parametrize("split", ["val", "test_1080p"])
def test_training_refuses_clips_of_every_split_that_is_not_its_own(root, rules, split):
    (root / f"ugc.{split}.jsonl").write_text((root / "ugc.train.jsonl").read_text())
    (root / "ugc.excluded.jsonl").write_text('{"source": "a", "reason": "broken row"}\n')
    with pytest.raises(DataError, match="2 training clips are test clips: LSVQ/b1/1.mp4 is in the test sets"):
        refuse_overlap(root, (), rules.names)


def test_a_held_out_list_in_a_dataset_s_folder_names_its_clips_bare(root, rules):
    """As the released list of LIVE-VQC does; elsewhere a bare name is no proof."""
    row = {"media": "LIVE-VQC/Video/A010.mp4"}
    (root / "ugc.train.jsonl").write_text(json.dumps(row) + "\n")
    inside, outside = root / "LIVE-VQC" / "live_VQC.json", root.parent / "live_VQC.json"
    inside.parent.mkdir()
    for path in (inside, outside):
        path.write_text(json.dumps([{"img_path": "A010.mp4", "mos": 0.28}]))
    refuse_overlap(root, (str(outside),), rules.names)
    with pytest.raises(DataError, match=r"LIVE-VQC/Video/A010.mp4 is in .*live_VQC.json, as A010.mp4"):
        refuse_overlap(root, (str(inside),), rules.names)
    with pytest.raises(DataError, match=r"data.held_out: .*gone.json: no such list"):
        refuse_overlap(root, (str(root / "gone.json"),), rules.names)


def test_a_run_stops_before_it_trains_on_test_clips_unless_told_otherwise(root):
    (root / "more.test.jsonl").write_text((root / "ugc.train.jsonl").read_text())

    def data(overlap: str) -> DataSpec:
        return DataSpec(
            root=str(root),
            prepare=False,
            command="x",
            decode_cache_mb=0,
            streaming=False,
            shuffle_buffer=1,
            overlap=overlap,
            held_out=(),
        )

    ensure_data(data("allow"), composed)
    with pytest.raises(DataError, match="2 training clips are test clips"):
        ensure_data(data("refuse"), composed)


@pytest.mark.parametrize(
    ("source", "folder", "dataset"), [("lsvq_1080p", "LSVQ", None), ("live_vqc", "LIVE-VQC", "LIVE-VQC")]
)
def test_the_papers_exclusions_are_found_from_the_lists(tmp_path, source, folder, dataset):
    """VQA² trained stage 3 on clips of LSVQ-1080p and LIVE-VQC. Its test lists leave them out, its rows name them; in
    LIVE-VQC's list names are bare."""
    write_form(tmp_path, source)
    (whole,) = (tmp_path / folder).glob("*.txt")
    names = [line.split(",")[0] for line in whole.read_text().splitlines()]
    tested, trained = names[:2], names[2:]
    bare = [name.removeprefix("Video/") for name in tested]
    (tmp_path / "test.json").write_text(json.dumps([{"img_path": name, "mos": 0.5} for name in bare]))
    rows = [{"image": f"{folder}/{name}", "frames per sec": 1, "conversations": []} for name in trained]
    (tmp_path / "state3_only.json").write_text(json.dumps(rows))
    told = () if dataset is None else (f"a_dataset={dataset}", f"b_dataset={dataset}")
    report = report_of(tmp_path, tmp_path / "test.json", whole, f"out={tmp_path / 'out'}", *told)
    assert (report["clips of b in a"], report["clips of b not in a"]) == (2, 3)
    assert (tmp_path / "out" / "b_kept.txt").read_text().splitlines() == trained
    direct = report_of(tmp_path, tmp_path / "state3_only.json", whole, f"out={tmp_path / 'out'}", *told[1:])
    assert (direct["clips of b in a"], direct["by"]["bare name"]) == (3, 0)
    assert (tmp_path / "out" / "b_kept.txt").read_text().splitlines() == tested


@pytest.mark.skipif(not LABELS.is_dir(), reason="needs ../shared/data/labels")
@pytest.mark.parametrize(
    ("a", "b", "shared", "of", "dataset"),
    [
        ("LSVQ/LSVQ_train_labels.txt", "LSVQ/labels_1080p.txt", 0, 3573, None),
        ("LSVQ/LSVQ_train_labels.txt", "LSVQ/labels_test.txt", 0, 7186, None),
        ("LSVQ/labels_test.txt", "LSVQ/LSVQ_whole_test.csv", 7174, 7220, None),
        ("YouTube-UGC/labels.txt", "YouTube-UGC/YOUTUBE_UGC_metadata.csv", 1147, 1380, "ugc"),
        ("LIVE-VQC/labels.txt", "LIVE-VQC/LIVE_VQC_metadata.csv", 585, 585, "live-vqc"),
        ("Q-Align-jsons/test_lsvq_1080p.json", "LSVQ/labels_1080p.txt", 3573, 3573, None),
    ],
)
def test_the_real_lists_share_what_they_share(tmp_path, a, b, shared, of, dataset):
    told = () if dataset is None else (f"a_dataset={dataset}", f"b_dataset={dataset}")
    report = report_of(tmp_path, LABELS / a, LABELS / b, *told)
    assert (report["clips of b in a"], report["b"]["clips"]) == (shared, of)
