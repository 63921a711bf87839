"""The prompts of Q-Bench-Video as published: the official ones (its repository's script) and those of VQA²'s evaluation
code, which name the sampling in time and the motion features.

Departs from the official script in one thing: it names 16 frames (8 and 8 for pairs), here the predictor writes how
many it takes. VQA²'s wording keeps its slips ("the the", a full stop on a line of its own): released weights were
evaluated with them.
"""

from collections.abc import Sequence
from typing import Literal

from vqa2.core.prompts import FIRST_COUNT, KEY_COUNT, LETTERS, MOTION_COUNT, closed_prompt, open_prompt

Form = Literal["plain", "vqa2", "official"]

_ORDER = "arranged in the same temporal order as they appear in the video"
_OFFICIAL = (
    f"You will receive {KEY_COUNT} distinct frames that have been uniformly sampled from a video sequence, {_ORDER}. "
    "Please analyze these frames and answer the questions based on your observations.\nThe video frames:\n<video>\n"
)
_OFFICIAL_PAIR = (
    f"You will receive {KEY_COUNT} distinct frames in total. The first {FIRST_COUNT} frames and the frames after them "
    f"are uniformly sampled from the first and the second video sequence, {_ORDER}. Please analyze these frames and "
    "answer the questions based on your observations.\nThe frames of both videos:\n<video>\n"
)
_VQA2 = (
    f"You will receive {KEY_COUNT} distinct frames that have been uniformly sampled in each second from a video "
    f"sequence, {_ORDER}. In addition, you will also obtain motion features extracted from all {MOTION_COUNT} frames "
    "of the the video.  Please analyze these images and answer the questions based on your observations."
    "\nThe video frames:<video>\nThe video motion features:<motion>\n."
)
_LETTER = (
    "Please answer the question in the following format: the uppercase letter of the correct answer option itself +'.'."
    " Please do not add any other answers beyond this."
)
_DIRECTLY = "Please directly answer the question."


def question_prompt(form: Form, question: str, answers: Sequence[str], reply: str, pair: bool) -> str:
    """The text of a question; without `answers` it is an open one. `reply` is how `plain` asks closed ones (`letter` or
    `text`); the published forms ask for letters."""
    if form == "plain":
        return closed_prompt(question, answers, reply) if answers else open_prompt(question)
    assert reply == "letter"
    assert not (pair and form == "vqa2")
    prefix = _VQA2 if form == "vqa2" else _OFFICIAL_PAIR if pair else _OFFICIAL
    if answers:
        options = "\n".join(f"{letter}. {answer}" for letter, answer in zip(LETTERS, answers))
        return f"{prefix}{question}\n{options}\n{_LETTER}"
    return f"{prefix}{question}\n{_DIRECTLY if form == 'vqa2' else ''}"
