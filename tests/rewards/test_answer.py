"""The answer grammar: what reads as a number, what does not."""

import pytest

from vqa2.rewards._answer import has_form, read_answer, read_choice


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("<think>blurry</think><answer>3.50</answer>", 3.5),
        ("<think></think>\n<answer> 4 </answer>\n", 4.0),
        ("\n<think>two\nlines, 7 frames</think> <answer>1</answer>", 1.0),
        ("<think>x</think><answer>5.00</answer>", 5.0),
        ("<think>x</think><answer>5.01</answer>", None),
        ("<think>x</think><answer>0.99</answer>", None),
        ("<think>x</think><answer>-3</answer>", None),
        ("<think>x</think><answer>.5</answer>", None),
        ("<think>x</think><answer>3.</answer>", None),
        ("<think>x</think><answer>3,5</answer>", None),
        ("<think>x</think><answer>3.5/5</answer>", None),
        ("<think>x</think><answer>about 3</answer>", None),
        ("<think>x</think><answer>٣</answer>", None),
        ("<think>x</think><answer></answer>", None),
        ("<answer>3</answer>", None),
        ("<think>x<answer>3</answer>", None),
        ("<think>x</think>so <answer>3</answer>", None),
        ("<think>x</think><answer>3</answer> done", None),
        ("<think>x</think><answer>3</answer><answer>4</answer>", None),
        ("<think>a</think><answer>2</answer><think>b</think><answer>4</answer>", None),
        ("<answer>3</answer><think>x</think>", None),
        ("", None),
    ],
)
def test_read_answer(completion, value):
    assert read_answer(completion) == value


def test_form_ignores_what_the_answer_says():
    assert has_form("<think>x</think><answer>good</answer>")
    assert not has_form("<think>x</think><answer>good")


@pytest.mark.parametrize(
    ("reply", "letter"),
    [("A", "A"), (" H. ", "H"), ("I", None), ("a", None), ("A.B", None), ("(A)", None), ("", None), ("3", None)],
)
def test_read_choice(reply, letter):
    assert read_choice(f"<think>x</think><answer>{reply}</answer>") == letter
    assert read_choice(f"<answer>{reply}</answer>") is None
