"""The agent's rows about embedded clips: they say what was done to the clip, and stay out of the tokenizer's corpus."""

from collections import Counter

import pytest

from data_prep._degrade import COLOR
from data_prep._known import depictions
from data_prep._questions import severity_of
from vqa2.agents import schemas
from vqa2.agents._names import distortion
from vqa2.core.config import build
from vqa2.core.llm import parse
from vqa2.core.records import Clip, Instruction, read_jsonl
from vqa2.core.scale import LEVELS, level_of
from vqa2.launch import composed
from vqa2.train.common import set_texts

ROLES = ("planner", "executor", "summarizer")
WORDS = {"strong": "severe"}


@pytest.fixture(scope="module")
def made(data_root):
    """(clips by id, rows by role and split)."""
    clips = {c.id: c for c in read_jsonl(data_root / "clips.jsonl", Clip)}
    parts = [(role, split) for role in ROLES for split in ("train", "test")]
    return clips, {p: read_jsonl(data_root / "agent" / f"{p[0]}.{p[1]}.jsonl", Instruction) for p in parts}


def test_splits_are_the_clips_own_and_every_clip_is_planned_for(made):
    clips, rows = made
    for (role, split), found in rows.items():
        assert found, (role, split)
        assert {clips[r.clip_id].split for r in found} == {split}
    planned = Counter(r.clip_id for part, found in rows.items() if part[0] == "planner" for r in found)
    asked = {c.id for c in clips.values() if c.tags.get("set") != "streaming"}
    assert set(planned) == asked
    assert set(planned.values()) == {1}


def test_analyses_and_ratings_are_what_was_done(made):
    clips, rows = made
    judged = 0
    for row in (r for found in rows.values() for r in found if r.tags["subtask"] == "analysis"):
        clip = clips[row.clip_id]
        known = {}
        for d in clip.distortions:
            name = "camera shake" if d.variant == "shake" else d.name
            known[distortion(name)] = WORDS.get(severity_of(d.strength), severity_of(d.strength))
        for entry in parse(row.turns[0].assistant, schemas.Analysis).distortion_analysis:
            for found in entry.findings:
                judged += 1
                assert found.severity == known.get(found.type, "none"), row
    assert judged > 10
    letters = 0
    for row in (r for found in rows.values() for r in found if r.id.endswith("-score")):
        letters += 1
        assert "ABCDE"[LEVELS.index(level_of(clips[row.clip_id].mos))] == row.turns[0].assistant
    assert letters > 5


def test_a_depiction_denies_nothing_that_might_be_seen(made):
    clips, _ = made
    values = build("set", composed("data_prep", ["set=agent"])["sets"]["agent"], "sets.agent")
    attributes = values.lexicon.attributes
    for d in depictions(clips.values(), values.sentences, values.lexicon, seed=1):
        clip = clips[d.clip_id]
        there = ["camera shake" if x.variant == "shake" else x.name for x in clip.distortions]
        denied = [f.attribute for f in values.lexicon.read(d.overall) if not f.present]
        assert len(denied) == 3
        for name in denied:
            assert name not in there
            assert not any(name in attributes[t].alike or t in attributes[name].alike for t in there)
            assert not (attributes[name].temporal and clip.kind == "image")
            assert not (name in COLOR and clip.tags.get("color") == "no")


def test_the_tokenizers_corpus_and_the_other_sets_are_without_them(made, data_root):
    _, rows = made
    corpus = set(set_texts(data_root))
    assert not corpus & {r.turns[0].user for found in rows.values() for r in found}
