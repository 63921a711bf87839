"""The sets on clips without media: balanced, answerable only with the clip, and free of repetitions."""

import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from data_prep._degrade import COLOR, NAMES
from data_prep._questions import ALIKE, facts_of, severity_of
from data_prep._scene import CAMERAS
from data_prep.sets.benchmark import Benchmark
from data_prep.sets.grpo_choice import GrpoChoice
from data_prep.sets.understanding import Understanding
from vqa2.core.errors import DataError
from vqa2.core.prompts import REASON_QUESTION
from vqa2.core.records import Clip, Distortion
from vqa2.core.scale import level_of, mos_to_acr


def clips_of(per_name: dict[str, int], split: str) -> list[Clip]:
    """Rated clips, so many per distortion ('' is clean); every fourth one is gray unless its distortion is of color."""
    rng, out = np.random.default_rng(len(per_name)), []
    for name, count in per_name.items():
        for number in range(count):
            strength = float(rng.uniform(0.05, 1))
            color = name in COLOR or number % 4 != 0
            tags = {"origin": ("natural", "CG")[number % 2], "camera": CAMERAS[number % 4],
                    "color": "yes" if color else "no"}  # fmt: skip
            ident = f"{split}-{name.replace(' ', '_') or 'clean'}-{number:03d}"
            found = (Distortion(name=name, strength=strength),) if name else ()
            out.append(
                Clip(id=ident, path=f"media/{split}/{ident}.mp4", dataset="d", split=split, content=f"{split}{number}",
                     kind="video", mos=100 - 90 * strength, mos_rule="strength", distortions=found, tags=tags)
            )  # fmt: skip
    return out


# Twice as many flickers as others, as the embedded data has them.
MIXTURE = {"": 100, **dict.fromkeys(NAMES, 160), "flicker": 360, "stuttering": 180}


@pytest.fixture(scope="module")
def rows():
    clips = clips_of(MIXTURE, "train") + clips_of(dict.fromkeys(NAMES, 2), "test")
    made = Understanding(binary=1, choice=2, open=1, reasoned=True, reply="text").write(clips, seed=0)
    return {c.id: c for c in clips}, made["train"]


def test_yes_and_no_are_balanced_for_every_distortion(rows):
    answers = defaultdict(Counter)
    for row in rows[1]:
        question = row.turns[0].user.split("\n")[1]
        if row.tags.get("question_type") == "yes-or-no":
            answers[question][row.turns[0].assistant] += 1
    for name in NAMES:
        found = answers[f"Is there {name} in this video?"]
        assert found.total() >= 60, name
        assert 0.35 < found["Yes."] / found.total() < 0.68, (name, found)


def test_an_answer_of_yes_is_true_and_one_of_no_is_not_doubtful(rows):
    clips, train = rows
    for row in train:
        if row.tags.get("question_type") == "yes-or-no" and " there " in row.turns[0].user:
            asked = row.turns[0].user.split("Is there ")[1].split(" in this")[0]
            clip = clips[row.clip_id]
            own = clip.distortions[0].name if clip.distortions else ""
            assert (row.turns[0].assistant == "Yes.") == (asked == own)
            assert asked not in ALIKE.get(own, ())
            assert asked not in COLOR or clip.tags["color"] == "yes"


def test_no_question_is_asked_twice_about_one_clip(rows):
    asked = [(r.clip_id, r.turns[0].user.split("\n")[1]) for r in rows[1] if r.task == "understanding"]
    assert len(set(asked)) == len(asked)
    assert len({r.id for r in rows[1]}) == len(rows[1])


def test_right_options_stand_at_every_letter_alike(rows):
    places = Counter()
    for row in rows[1]:
        options = [line[3:] for line in row.turns[0].user.split("\n") if line[:3] in ("A. ", "B. ", "C. ", "D. ")]
        if len(options) == 4:
            places[options.index(row.turns[0].assistant.rstrip("."))] += 1
    assert min(places.values()) > 0.2 * places.total()


def test_facts_come_from_the_clip(rows):
    clips, train = rows
    for row in train:
        clip = clips[row.clip_id]
        if row.task == "reasoning":
            answer = row.turns[0].assistant
            assert row.turns[0].user == REASON_QUESTION
            assert float(answer.split("<answer>")[1].split("</answer>")[0]) == round(mos_to_acr(clip.mos), 2)
            assert level_of(clip.mos) in answer
        elif "How strong" in row.turns[0].user:
            assert row.turns[0].assistant == f"{severity_of(clip.distortions[0].strength)}."
        elif "camera move" in row.turns[0].user:
            assert row.turns[0].assistant == f"{clip.tags['camera']}."
            assert facts_of(clip).distortion not in ("flicker", "stuttering")


def test_letters_where_they_are_asked_for():
    set_ = Understanding(binary=1, choice=1, open=0, reasoned=False, reply="letter")
    for row in set_.write(clips_of({"noise": 20}, "train"), seed=1)["train"]:
        options = dict(line.split(". ", 1) for line in row.turns[0].user.split("\n") if line[1:3] == ". ")
        assert row.turns[0].assistant[:-1] in options
        assert row.turns[0].user.endswith("Answer with the letter.")


def test_every_test_clip_is_asked_and_no_train_clip_is():
    clips = clips_of(dict.fromkeys(NAMES, 6), "test") + clips_of({"noise": 30}, "train")
    for kind in ("yes-or-no", "what/how", "open_ended"):
        records = Benchmark(questions={kind: 78}).records(clips, seed=0)
        assert {r["video_name"] for r in records} == {f"{c.id}.mp4" for c in clips if c.split == "test"}
        assert len({(r["video_name"], r["question"]) for r in records}) == 78
        if kind == "yes-or-no":
            right = Counter(r["answers"]["AB".index(r["correct_choice"])] for r in records)
            assert right == {"Yes": 39, "No": 39}


def test_a_benchmark_without_test_clips_is_one_line():
    with pytest.raises(DataError, match="questions.open_ended: 3 wanted, the 0 test clips give 0"):
        Benchmark(questions={"open_ended": 3}).records(clips_of({"noise": 3}, "train"), seed=0)


def test_grpo_questions_are_right_and_have_no_answer():
    clips = clips_of(dict.fromkeys(NAMES, 2), "train")
    asked = GrpoChoice(questions=2).write(clips, seed=0)["train"]
    assert len(asked) > len(clips)
    assert len({row.id for row in asked}) == len({(row.clip_id, row.turns[0].user) for row in asked}) == len(asked)
    assert all(row.turns[0].user.endswith("<answer> </answer> tags.") and not row.turns[0].assistant for row in asked)
    options = [dict(re.findall(r"^([A-H])\. (.*)$", row.turns[0].user, re.MULTILINE)) for row in asked]
    assert all(row.tags["answer"] in some for row, some in zip(asked, options, strict=True))
    assert 0.1 < np.mean([row.tags["answer"] == "A" for row in asked]) < 0.6
    which = [(row, some) for row, some in zip(asked, options) if row.tags["distortion"] in some.values()]
    assert len(which) > 10
    assert all(some[row.tags["answer"]] == row.tags["distortion"] for row, some in which)
