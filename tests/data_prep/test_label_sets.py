"""From label files to sets: sampling, Table 1, stage 1's recipes, Parquet."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from label_runs import clips, lines, link_published, run, with_labels
from labels_form import write_form

from data_prep._sample import BINS, chosen, quotas
from data_prep._stage1 import stage1
from data_prep.run import DataPrepRun, prepare
from data_prep.sources.mixture import Take
from vqa2.core.config import build, decode
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.records import Clip
from vqa2.launch import composed

TABLE1 = {"distortion_spatial": 7174, "distortion_temporal": 5211, "scoring_ugc": 28056, "scoring_streaming": 2100}


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
        run(
            tmp_path,
            tmp_path / "out",
            "source=vqa2",
            "set=scoring_ugc",
            "+sets.base={name: scoring_ugc, questions: [x]}",
        )


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
            "sets": {"grpo": {"name": "grpo", "questions": ["<video>\nHow good is it?"]}},
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
    link_published(root)
    made_up_streaming(root)
    return root


@with_labels
def test_label_files_alone_give_table_1(tmp_path):
    """Stages 1 and 2 exactly; Waterloo SQoE-III's 450 sessions are made up."""
    root = tmp_path / "root"
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
    rows = lines(tmp_path / "out" / "distortion_spatial.train.jsonl")
    for name in ("koniq_10k", "kadid_10k"):
        pool = np.array([c.mos for c in clips(name, root)[0] if name == "koniq_10k" or c.distortions])
        drawn = [r["mos"] for r in rows if r["clip_id"].startswith(name)]
        edges = np.linspace(pool.min(), pool.max(), BINS + 1)
        whole, part = (np.histogram(mos, edges)[0] for mos in (pool, drawn))
        assert np.abs(whole * len(drawn) / len(pool) - part).max() <= 1, "to one item a bin"
    names = Counter(r["tags"]["distortion"] for r in rows)
    assert len(names) == 11
    assert min(names.values()) > 200


@pytest.mark.slow
@with_labels
def test_generated_questions_fill_table_1s_third_stage(tmp_path):
    """110,232 + 4,982 rows out of 124,000 generated ones about the sampled clips."""
    root = tmp_path / "root"
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
