"""Token order: placeholders = K·N + 1 and T in both layouts, labels cover exactly the answer tokens."""

import pytest

from vqa2.core.errors import DataError
from vqa2.core.records import Turn
from vqa2.data.layout import IGNORE, Slots, Tokens, clip_block, lay_out

SLOTS = Slots(tokens_per_frame=2, num_key=3, motion_second=(0, 0, 1, 1, 2, 2, 2, 3))
V, M = 900, 901


class Words:
    """One id per character: enough to see where text stands."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert add_special_tokens is False
        return [ord(c) for c in text]


def tokens(layout: str, use_motion: bool = True) -> Tokens:
    return Tokens(video=V, motion=M, layout=layout, use_motion=use_motion, system="")


def test_interleaved_puts_each_seconds_motion_after_its_frame():
    block, second = clip_block(SLOTS, tokens("interleaved"))
    assert block == [V, V, M, M, V, V, M, M, V, V, M, M, M, M, V]
    assert second == []


def test_official_puts_all_motion_after_all_frames_and_newline():
    assert clip_block(SLOTS, tokens("official")) == ([V] * 7, [M] * 8)


@pytest.mark.parametrize("layout", ["interleaved", "official"])
def test_counts(layout):
    example = lay_out([Turn(user="<video>\nq", assistant="a")], SLOTS, tokens(layout), Words(), "row")
    assert example.input_ids.count(V) == 3 * 2 + 1
    assert example.input_ids.count(M) == 8


def test_without_motion_tokens_only_the_frames_are_laid_out():
    example = lay_out([Turn(user="<video>", assistant="")], SLOTS, tokens("interleaved", False), Words(), "row")
    assert (example.input_ids.count(V), example.input_ids.count(M)) == (7, 0)


def test_second_mark_holds_the_motion_block_in_official_and_vanishes_in_interleaved():
    turn = [Turn(user="a<video>b<motion>c", assistant="")]
    official = lay_out(turn, SLOTS, tokens("official"), Words(), "row").input_ids
    at = official.index(ord("b"))
    assert official[at - 1] == V
    assert official[at + 1] == M
    mixed = lay_out(turn, SLOTS, tokens("interleaved"), Words(), "row").input_ids
    at = mixed.index(ord("b"))
    assert mixed[at + 1] == ord("c")


def test_labels_cover_exactly_the_answers_and_their_end():
    turns = [Turn(user="<video>one", assistant="yes"), Turn(user="two", assistant="no")]
    example = lay_out(turns, SLOTS, tokens("official"), Words(), "row")
    trained = "".join(chr(i) for i in example.labels if i != IGNORE)
    assert trained == "yes<|im_end|>no<|im_end|>"
    assert all(label in (IGNORE, i) for i, label in zip(example.input_ids, example.labels, strict=True))


@pytest.mark.parametrize(
    ("turns", "slots", "say"),
    [
        ([Turn(user="no mark", assistant="a")], SLOTS, "exactly one <video>"),
        ([Turn(user="<video><video>", assistant="a")], SLOTS, "found 2"),
        ([Turn(user="<video>", assistant="a")], None, "no clip"),
        ([Turn(user="<video>", assistant=""), Turn(user="b", assistant="c")], SLOTS, "not the last"),
    ],
)
def test_marks_that_do_not_fit_are_errors_that_name_the_row(turns, slots, say):
    with pytest.raises(DataError, match=f"row-7.*{say}"):
        lay_out(turns, slots, tokens("interleaved"), Words(), "row-7")
