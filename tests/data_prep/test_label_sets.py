"""From label files to sets: sampling, Table 1, stage 1's recipes, both stall formats, questions, released files,
Parquet."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from labels_form import write_form
from rich.console import Console

from data_prep._sample import BINS, chosen, quotas
from data_prep._stage1 import stage1
from data_prep.extend import ExtendRun, extend
from data_prep.run import DataPrepRun, prepare
from data_prep.sets.scoring_streaming import stall_mask
from data_prep.sources.mixture import Take
from vqa2.core.config import build, decode
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.records import Clip, Instruction, Stall, Turn, read_jsonl, write_jsonl
from vqa2.launch import composed

LABELS = Path(__file__).parents[2].parent / "shared" / "data" / "labels"
TABLE1 = {"distortion_spatial": 7174, "distortion_temporal": 5211, "scoring_ugc": 28056, "scoring_streaming": 2100}


def run(root: Path, out: Path, *overrides: str) -> dict:
    values = composed("data_prep", [f"root={root}", f"out={out}", "media=skip", "workers=1", *overrides])
    return prepare(decode(DataPrepRun, values, "data_prep"), progress=False)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_sample_has_the_distribution_of_the_whole_and_does_not_depend_on_order():
    rng = np.random.default_rng(0)
    mos = np.concatenate([rng.normal(70, 10, 9000), rng.normal(30, 8, 1000)]).clip(0, 100)
    keys = rng.permutation(np.arange(1, len(mos) + 1, dtype=np.uint64))
    mask = chosen(keys, mos, 1000, seed=3)
    assert mask.sum() == 1000
    edges = np.linspace(mos.min(), mos.max(), BINS + 1)
    whole, part = np.histogram(mos, edges)[0] / 10, np.histogram(mos[mask], edges)[0]
    assert np.abs(whole - part).max() <= 1
    order = rng.permutation(len(mos))
    assert set(keys[order][chosen(keys[order], mos[order], 1000, 3)]) == set(keys[mask])
    other = chosen(keys, mos, 1000, seed=4)
    assert 50 < (mask & other).sum() < 250, "a tenth of a tenth: another seed is another draw"


@pytest.mark.parametrize("count", [0, 1, 7, 99, 100])
def test_quotas_are_exact_and_never_above_a_bin(count):
    sizes = np.array([1, 0, 60, 38, 1])
    share = quotas(sizes, count)
    assert share.sum() == count
    assert (share <= sizes).all()


def take(**changes) -> Take:
    return decode(Take, {"count": None, "distortion": "none", "names": [], "cuts": 0, "without": [], **changes}, "take")


def plain(number: int, kind: str = "video") -> Clip:
    return Clip(
        id=f"d/{number}.mp4", path=f"D/{number}.mp4", dataset="d", split="train", content=f"D/{number}", kind=kind
    )


def extract():
    return build("source", composed("data_prep", ["source=vqa2", "set=vqa2"])["source"], "source").extract


def test_134_videos_become_5211_clips_evenly():
    sources = [plain(k) for k in range(134)]
    cut = take(cuts=5211, distortion="made", names=["flicker", "stutter"])
    made = list(stage1(sources, 134, cut, extract(), 0))
    assert len(made) == len({c.id for c in made}) == len({c.path for c in made}) == 5211
    assert set(Counter(c.tags["of"] for c in made).values()) == {38, 39}
    assert Counter(c.distortions[0].name for c in made)["flicker"] == pytest.approx(5211 / 2, rel=0.1)
    for clip in made[:300]:
        left, top, width, height, start, length = map(float, clip.tags["window"].split())
        assert min(left, top, start) >= 0
        assert max(left + width, top + height, start + length) <= 1
    assert made == list(stage1(sources, 134, cut, extract(), 0))


def test_a_mixture_that_names_what_is_not_there_is_refused():
    values = composed("data_prep", ["source=vqa2", "set=vqa2"])["source"]

    def changed(part: str, **changes) -> None:
        key = "distortion_temporal" if part in ("live_qualcomm", "lsvq_train") else "distortion_spatial"
        sets = json.loads(json.dumps(values["sets"]))
        sets[key]["train"][part].update(changes)
        build("source", {**values, "sets": sets}, "source").plan()

    with pytest.raises(
        ConfigError, match=r"distortion_temporal.train.lsvq_train.names: \['shake'\] .* known: flicker, stutter"
    ):
        changed("lsvq_train", names=["shake"])
    with pytest.raises(ConfigError, match=r"live_qualcomm.names: \['noise'\] with distortion=own; known: flicker"):
        changed("live_qualcomm", names=["noise"])
    with pytest.raises(ConfigError, match=r"koniq_10k.names: empty with distortion=own; known: none"):
        changed("koniq_10k", distortion="own", names=[])
    with pytest.raises(ConfigError, match=r"no part 'nowhere'; known: koniq_10k"):
        changed("kadid_10k", without=["nowhere"])


def test_too_few_clips_and_unplanned_sets_say_what_to_do(tmp_path):
    for name in ("koniq_10k", "kadid_10k"):
        write_form(tmp_path, name)
    said = r"koniq_10k: 3693 clips wanted, 5 of 10073 usable; .* source.sets.distortion_spatial.train.koniq_10k.count=5"
    with pytest.raises(DataError, match=said):
        run(tmp_path, tmp_path / "out", "source=vqa2", "set=distortion_spatial")
    with pytest.raises(ConfigError, match=r"sets.base: the source plans no such set; it plans distortion_spatial"):
        run(tmp_path, tmp_path / "out", "source=vqa2", "set=scoring_ugc", "+sets.base={name: scoring_ugc}")


def streaming(stalls: list[tuple[float, float]], fps: float = 25.0, seconds: float = 10.0) -> Clip:
    tags = {"set": "streaming", "fps": str(fps), "frames": str(round(seconds * fps))}
    return Clip(id="w/1.csv", path="W/1.mp4", dataset="w", split="train", content="w", kind="video", mos=41.98,
                mos_rule="mos", stalls=tuple(Stall(start_s=a, length_s=b) for a, b in stalls), tags=tags)  # fmt: skip


def told(clip: Clip) -> tuple[str, str]:
    writer = build("set", composed("data_prep", ["source=vqa2", "set=vqa2"])["sets"]["scoring_streaming"], "set")
    digits, summary = writer.stream([clip], 0)
    assert {r.turns[0].assistant for r in (digits, summary)} == {"The quality of this video is fair."}
    return digits.turns[0].user, summary.turns[0].user


def test_both_stall_formats_tell_the_same_stalls():
    digits, summary = told(streaming([(0.0, 1.0), (4.0, 2.0)]))
    assert "1" * 25 + "0" * 75 + "1" * 50 + "0" * 100 in digits
    assert "total stalling duration of this video is 75 frames, accounting for 30.000000 percent" in summary
    assert "number of stalling events is 2, of 25, 50 frames. Of these, 25 frames are initial buffering. The" in summary
    assert "to the end of the video is 100 frames, accounting for 40.000000 percent" in summary
    assert "10.0 seconds long, and you see 10 images" in digits
    assert "its 248 frames:\n<motion>\n" in digits
    assert digits.count("<video>") == summary.count("<video>") == 1
    _, smooth = told(streaming([]))
    assert "The video plays smoothly, without any stalling." in smooth
    _, once = told(streaming([(8.0, 2.0)]))
    assert "number of stalling events is 1, of 50 frames. The time" in once
    assert "end of the video is 0 frames" in once


def test_a_stall_up_to_the_end_at_an_uneven_rate_stays_inside():
    mask = stall_mask(streaming([(3.337, 6.663)], fps=29.97))
    assert len(mask) == 300
    assert mask[-1] == "1"


QUESTION = [Turn(user="<video>\nIs it sharp?", assistant="A. Yes")]


def rows_about(path: Path, source: str, names: list[str], folder: str, each: int) -> list[Instruction]:
    made = [Instruction(id=f"{source}-{name}-{k}", clip_id=f"{source}/{name}", kind="video", media=f"{folder}/{name}",
                        task="understanding", turns=tuple(QUESTION), tags={"kind": "binary"})
            for name in names for k in range(each)]  # fmt: skip
    write_jsonl(path, made)
    return made


def test_questions_fill_their_quota_and_the_rest_is_listed(tmp_path):
    write_form(tmp_path, "lsvq_train")
    file = tmp_path / "rows.jsonl"
    names = ["yfcc-batch1/722.mp4", "yfcc-batch1/724.mp4", "backup/7.mp4"]
    rows_about(file, "lsvq_train", names, "LSVQ", 4)
    with file.open("a") as out:
        good = json.loads(file.read_text().splitlines()[0])
        for changes in ({}, {"id": "u", "clip_id": "lsvq_train/gone.mp4"}, {"id": "m", "media": "LSVQ/other.mp4"},
                        {"id": "t", "turns": []}, {"id": "w", "task": 3}):  # fmt: skip
            out.write(json.dumps({**good, **changes}) + "\n")
        out.write("{\n")
    options = ("source=lsvq_train", "set=understanding_extended", f"sets.understanding.file={file}")
    summary = run(tmp_path, tmp_path / "a", *options, "sets.understanding.quotas=[]")
    assert summary["sets"] == {"understanding": {"train": 12}}
    left = Counter(x["reason"].partition(":")[0] for x in lines(tmp_path / "a" / "understanding.excluded.jsonl"))
    assert left == {"duplicated id": 1, "unknown clip": 1, "other media": 1, "broken row": 3}
    quota = "sets.understanding.quotas=[{sources: [lsvq_train], rows: 7}]"
    run(tmp_path, tmp_path / "b", *options, quota)
    rows = read_jsonl(tmp_path / "b" / "understanding.train.jsonl", Instruction)
    assert len(rows) == 7
    assert rows[0].tags == {"kind": "binary", "split": "train"}
    manifest = json.loads((tmp_path / "b" / "understanding.manifest.json").read_text())
    assert manifest["excluded"]["extended: not drawn"] == 5
    with pytest.raises(DataError, match=r"13 rows about lsvq_train wanted, 12 usable"):
        run(tmp_path, tmp_path / "c", *options, quota.replace("7", "13"))
    with pytest.raises(DataError, match="sets.understanding.file: required"):
        run(tmp_path, tmp_path / "c", *options[:2])


def test_from_drawn_clips_over_depictions_to_rows(tmp_path):
    """depict -> people -> extend -> understanding, all of it by the documented commands."""
    write_form(tmp_path, "lsvq_train")
    root, out = tmp_path, tmp_path / "out"
    takes = {"lsvq_train": {"count": 3, "distortion": "none", "names": [], "cuts": 0, "without": []}}
    options = composed("data_prep", ["source=vqa2", "set=depict", f"root={root}", f"out={out}", "media=skip"])
    options["source"]["sets"] = {key: {"train": takes} for key in ("depict", "understanding")}
    assert prepare(decode(DataPrepRun, options, "x"), progress=False)["sets"] == {"depict": {"train": 3}}
    depicted = [{**clip, "overall": "The video is blurry and the camera shakes.", "in_context": ["The start is dark."]}
                for clip in lines(out / "depict.train.jsonl")]  # fmt: skip
    (tmp_path / "depicted.jsonl").write_text("".join(json.dumps(d) + "\n" for d in depicted))
    written = composed("extend", [f"depictions={tmp_path / 'depicted.jsonl'}", f"out={tmp_path / 'extended'}"])
    told = extend(decode(ExtendRun, written, "extend"), Console(quiet=True))
    options["sets"] = composed("data_prep", ["set=understanding_extended"])["sets"]
    options["sets"]["understanding"] |= {"file": str(tmp_path / "extended" / "extended.jsonl"), "quotas": []}
    summary = prepare(decode(DataPrepRun, options, "x"), progress=False)
    assert told["rows"] >= 15
    assert summary["sets"]["understanding"] == {"train": told["rows"]}
    assert not lines(out / "understanding.excluded.jsonl")


def test_the_leakfree_mixture_takes_what_the_released_lists_leave(tmp_path):
    write_form(tmp_path, "lsvq_1080p")
    write_form(tmp_path, "lsvq_1080p_2575")
    listed = tmp_path / "LSVQ/LSVQ(test_1080p).json"
    listed.write_text(json.dumps(json.loads(listed.read_text())[:2]))
    values = composed("data_prep", ["source=vqa2_leakfree", "set=grpo"])["source"]
    sets = {"grpo": {"train": {"lsvq_1080p": {**values["sets"]["understanding"]["train"]["lsvq_1080p"], "count": 3}}}}
    made = decode(
        DataPrepRun,
        {
            "source": {**values, "sets": sets},
            "sets": {"grpo": {"name": "grpo"}},
            "seed": 0,
            "root": str(tmp_path),
            "out": str(tmp_path / "out"),
            "media": "skip",
            "workers": 1,
        },
        "x",
    )
    prepare(made, progress=False)
    media = {r["media"] for r in lines(tmp_path / "out" / "grpo.train.jsonl")}
    assert media == {"LSVQ/ia-batch2/a b.mp4", "LSVQ/ia-batch2/c_d.e.mp4", "LSVQ/backup/7.mp4"}


def test_released_rows_keep_their_texts(tmp_path):
    said = "It is 8.0 seconds long:\n <image>. Motion:\n <image>. 001. How good?"
    good = {"image": "waterloo-i/1/v.mp4", "frames per sec": 1, "gt_score": "41.98", "conversations": [
        {"from": "human", "value": said}, {"from": "gpt", "value": "The quality of this video is fair."}]}  # fmt: skip
    folder = tmp_path / "VQA-stage2-streaming"
    folder.mkdir()
    asked, answered = good["conversations"]
    broken = [{**good, "conversations": [asked]}, {**good, "image": None}, 5,
              {**good, "conversations": [{**asked, "value": "no place"}, answered]}]  # fmt: skip
    names = composed("data_prep", ["source=vqa2_released", "set=vqa2_released"])["sets"]
    names = names["scoring_streaming"]["files"]
    for name in names:
        (folder / name).write_text(json.dumps([good, *broken] if name == names[0] else [good]))
    values = ["source=vqa2_released", "set=vqa2_released", "~sets.understanding"]
    summary = run(tmp_path, tmp_path, *values)
    assert summary["sets"] == {"scoring_streaming": {"train": len(names)}}
    row = read_jsonl(tmp_path / "scoring_streaming.train.jsonl", Instruction)[0]
    assert row.turns[0].user == said.replace("<image>", "<video>", 1).replace("<image>", "<motion>")
    assert (row.media, row.kind, row.tags["gt_score"]) == ("WaterlooSQoE-I/1/v.mp4", "video", "41.98")
    assert len(lines(tmp_path / "scoring_streaming.excluded.jsonl")) == 4


def test_parquet_holds_the_same_rows_and_datasets_streams_them(tmp_path):
    from datasets import load_dataset

    write_form(tmp_path, "maxwell")
    run(tmp_path, tmp_path / "out", "source=maxwell", "set=scoring_ugc")
    files = {
        split: str(tmp_path / "out" / "parquet" / "scoring_ugc" / f"{split}.parquet") for split in ("train", "test")
    }
    for streamed in (False, True):
        loaded = load_dataset("parquet", data_files=files, streaming=streamed, cache_dir=str(tmp_path / "cache"))
        for split in files:
            found = [{**row, "tags": json.loads(row["tags"])} for row in loaded[split]]
            assert found == lines(tmp_path / "out" / f"scoring_ugc.{split}.jsonl")


def made_up_streaming(root: Path) -> None:
    """Waterloo SQoE-III is in no repository: 450 sessions of the same form."""
    folder, rng = root / "WaterlooSQoE-III", np.random.default_rng(3)
    folder.mkdir()
    rows = [f"{k:04d}.csv,{rng.uniform(5, 95):.3f},c{k % 20}" for k in range(450)]
    logs = [f"{k:04d}.csv,{rng.choice((0, 0, 1.5))},2.0,25" for k in range(450) for _ in range(4)]
    (folder / "data.csv").write_text("\n".join(["streaming_log,mos,content", *rows]) + "\n")
    head = "streaming_log,rebuffering_duration,chunk_duration,framerate"
    (folder / "streaming_logs_all.csv").write_text("\n".join([head, *logs]) + "\n")


def published(root: Path) -> Path:
    for folder in LABELS.iterdir():
        (root / folder.name).symlink_to(folder)
    made_up_streaming(root)
    return root


@pytest.mark.skipif(not LABELS.is_dir(), reason="the published label files are not here")
def test_label_files_alone_give_table_1(tmp_path):
    """Stages 1 and 2 exactly; Waterloo SQoE-III's 450 sessions are made up."""
    root = tmp_path / "root"
    root.mkdir()
    summary = run(published(root), tmp_path / "out", "source=vqa2", "set=vqa2", "~sets.grpo")
    assert summary["sets"] == {key: {"train": count} for key, count in TABLE1.items()}
    by_source = {key: json.loads((tmp_path / "out" / f"{key}.manifest.json").read_text()) for key in TABLE1}
    taken = {
        name: held["taken"] for m in by_source.values() for name, held in m["sources"].items() if name != "lsvq_train"
    }
    assert taken == {"koniq_10k": 3693, "kadid_10k": 3481, "live_qualcomm": 34, "waterloo_sqoe_1": 180,
                     "waterloo_sqoe_3": 450, "live_nflx_2": 420}  # fmt: skip
    assert [by_source[k]["sources"]["lsvq_train"]["taken"] for k in ("distortion_temporal", "scoring_ugc")] == [
        100,
        28056,
    ]
    assert not any(m["excluded"] for m in by_source.values())
    names = Counter(r["tags"]["distortion"] for r in lines(tmp_path / "out" / "distortion_spatial.train.jsonl"))
    assert len(names) == 11
    assert min(names.values()) > 200


@pytest.mark.slow
@pytest.mark.skipif(not LABELS.is_dir(), reason="the published label files are not here")
def test_generated_questions_fill_table_1s_third_stage(tmp_path):
    """110,232 + 4,982 rows out of 124,000 generated ones about the sampled clips."""
    root = tmp_path / "root"
    root.mkdir()
    published(root)
    (root / "VideoFeedback").unlink()
    fields = (
        "visual quality",
        "temporal consistency",
        "dynamic degree",
        "text-to-video alignment",
        "factual consistency",
    )
    rng = np.random.default_rng(0)
    for split, count in (("train", 32901), ("test", 680)):
        folder = root / "VideoFeedback" / split
        folder.mkdir(parents=True)
        rows = [{"id": f"{split}{k}", **{f: int(rng.integers(1, 5)) for f in fields}} for k in range(count)]
        (folder / "data_annotated.json").write_text(json.dumps(rows))
    run(root, tmp_path / "out", "source=vqa2", "set=depict")
    sampled = lines(tmp_path / "out" / "depict.train.jsonl")
    assert Counter(r["clip_id"].partition("/")[0] for r in sampled) == {
        "lsvq_train": 13007, "lsvq_1080p": 998, "live_vqc": 497, "videofeedback": 998}  # fmt: skip
    with (tmp_path / "rows.jsonl").open("w") as out:
        for clip in sampled:
            for k in range(8):
                turns = [{"user": "<video>\nIs it sharp?", "assistant": "A. Yes"}]
                out.write(json.dumps({**clip, "id": f"{clip['id']}-{k}", "task": "binary", "turns": turns}) + "\n")
    summary = run(root, tmp_path / "out", "source=vqa2", "set=understanding_extended",
                  f"sets.understanding.file={tmp_path / 'rows.jsonl'}")  # fmt: skip
    assert summary["sets"]["understanding"] == {"train": 110232 + 4982}
    manifest = json.loads((tmp_path / "out" / "understanding.manifest.json").read_text())
    assert manifest["sources"]["videofeedback"]["rows"] == 4982
    assert manifest["excluded"] == {"extended: not drawn": 8 * 15500 - 115214}
