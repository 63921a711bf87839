"""Inference: a batch equals one by one, decoded ahead or not; pairs, frame counts."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from media import numbered, write_clip

from vqa2.core.errors import ConfigError, MediaError
from vqa2.core.prompts import FIRST_COUNT, KEY_COUNT, MOTION_COUNT, SECONDS, with_counts
from vqa2.core.records import Query, Turn
from vqa2.data.ahead import Reader
from vqa2.data.video import VideoSpec, thinned
from vqa2.model import processing
from vqa2.model.predict import Inference, ModelPredictor

SPEC = VideoSpec(backend="pyav", deadline_s=30.0, frame_multiple=4, max_motion_frames=400)
ASK = f"<video>\nIs {KEY_COUNT} of {MOTION_COUNT} sharp?"


@pytest.fixture(scope="module")
def reader():
    return Reader((32, 32), (32, 32), SPEC)


@pytest.fixture(scope="module")
def queries(data_root, tmp_path_factory):
    """Clips of several lengths, a broken one among them."""
    broken = tmp_path_factory.mktemp("media") / "broken.mp4"
    broken.write_bytes(b"no video")
    clips = sorted((data_root / "media" / "test").glob("*.mp4"))[:5]
    return [Query(id=p.name, path=p, kind="video", question=ASK) for p in [*clips[:2], broken, *clips[2:]]]


@pytest.fixture
def predictor(small):
    def make(workers=0, **changes):
        made = Inference(video=SPEC, device="cpu", max_new_tokens=6, workers=workers)
        model, processor = small
        return ModelPredictor(model.eval(), processor, "small", "c", replace(made, **changes))

    return make


def test_a_batch_answers_as_one_by_one(predictor, queries):
    one, many = predictor(), predictor(workers=1)
    many.plan([*queries, *queries])
    scores = many.score([replace(q, question=None) for q in queries])
    texts = many.answer(queries)
    assert [a.error is None for a in scores] == [q.path.name != "broken.mp4" for q in queries]
    for query, score, text in zip(queries, scores, texts, strict=True):
        (single,) = one.score([replace(query, question=None)])
        (alone,) = one.answer([query])
        assert (score.id, text.id, score.error) == (query.id, query.id, single.error)
        assert text.text == alone.text
        if score.error is None:
            assert score.score01 == pytest.approx(single.score01, abs=1e-5)


def test_two_clips_follow_each_other(reader, queries):
    first, second = (reader(q) for q in queries[:2])
    both = reader(replace(queries[0], second=queries[1].path))
    np.testing.assert_array_equal(both.key, np.concatenate([first.key, second.key]))
    np.testing.assert_array_equal(both.motion, np.concatenate([first.motion, second.motion]))
    assert (np.diff(both.key_times) > 0).all()
    assert (np.diff(both.motion_second) >= 0).all()
    assert both.motion_second[len(first.motion)] == len(first.key)
    assert (both.key_times < both.second_from).sum() == len(first.key)
    left = thinned(both, 2)
    assert left.second_from == both.second_from
    short = replace(reader, video=VideoSpec(backend="pyav", deadline_s=30.0, frame_multiple=4, max_motion_frames=20))
    with pytest.raises(MediaError, match="frames with .*, 20 are the most"):
        short(replace(queries[0], second=queries[1].path))


def test_prompts_say_how_many_frames_there_are(predictor, queries, monkeypatch):
    made, seen = predictor(), []
    real = processing.lay_out

    def watched(turns, *rest):
        seen.append(turns[0].user)
        return real(turns, *rest)

    monkeypatch.setattr(processing, "lay_out", watched)
    clip = made._clips.reader(queries[0])
    question = f"<video>{FIRST_COUNT}/{KEY_COUNT}/{MOTION_COUNT}"
    length = clip.motion_times[-1] + 1 / clip.fps
    made.processor.example((Turn(user=f"<video>{SECONDS} s, {KEY_COUNT}", assistant="Yes."),), clip, "row")
    assert seen == [f"<video>{length:.1f} s, {len(clip.key)}"], "training rows as well"
    made.answer([replace(queries[0], question=question, second=queries[1].path)])
    other = made._clips.reader(queries[1])
    counts = (len(clip.key), len(clip.key) + len(other.key), len(clip.motion) + len(other.motion))
    assert seen[-1] == "<video>{}/{}/{}".format(*counts)
    assert with_counts("plain", 1, 2, 3) == "plain"


def test_length_grows_with_the_clip_and_is_zero_frames_for_a_broken_one(predictor, queries):
    made = predictor()
    broken = next(q for q in queries if q.path.name == "broken.mp4")
    assert 0 < made.length(broken) < made.length(queries[0])
    assert made.length(queries[0]) < made.length(replace(queries[0], second=queries[1].path))


def test_settings_that_change_answers_change_the_fingerprint(predictor):
    assert predictor().fingerprint == predictor(workers=2).fingerprint
    assert predictor().fingerprint != predictor(max_new_tokens=7).fingerprint
    assert predictor().fingerprint != predictor(video=replace(SPEC, frame_multiple=8)).fingerprint
    assert predictor().provenance["checkpoint"] == "c"


def test_a_checkpoint_hash_covers_every_file(small, tmp_path):
    model, processor = small
    model.save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    made = Inference(video=SPEC, device="cpu", max_new_tokens=6, workers=0)
    before = ModelPredictor.load(tmp_path / "m", made)
    assert before.fingerprint == ModelPredictor.load(tmp_path / "m", made).fingerprint
    config = Path(tmp_path / "m" / "generation_config.json")
    config.write_text(config.read_text() + "\n")
    assert before.fingerprint != ModelPredictor.load(tmp_path / "m", made).fingerprint


def test_a_second_scores_as_a_clip_of_that_second_does(predictor, tmp_path):
    """Of the last second four of the six frames are used, as of any clip."""
    frames = numbered(22)
    write_clip(tmp_path / "whole.mkv", frames, 8)
    made = predictor().score_seconds(Query(id="whole", path=tmp_path / "whole.mkv", kind="video"))
    assert len(made) == 3
    for second, answer in enumerate(made):
        write_clip(tmp_path / f"{second}.mkv", frames[8 * second : 8 * second + 8], 8)
        (alone,) = predictor().score([Query(id="one", path=tmp_path / f"{second}.mkv", kind="video")])
        assert answer.score01 == pytest.approx(alone.score01, abs=1e-6)
    assert len({round(answer.score01, 6) for answer in made}) == 3


def test_a_folder_without_a_whole_model_of_ours_is_one_line(trained, tmp_path):
    made = Inference(video=SPEC, device="cpu", max_new_tokens=6, workers=0)
    folder = Path(shutil.copytree(trained / "model", tmp_path / "model"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ConfigError, match="model: the model is not whole"):
        ModelPredictor.load(folder, made)
    (folder / "config.json").write_text('{"model_type": "llava_qwen"}')
    with pytest.raises(ConfigError, match="of type llava_qwen, not vqa2; see vqa2 convert"):
        ModelPredictor.load(folder, made)
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match="no trained model here .*; name another, or train one"):
        ModelPredictor.load(folder, made)
