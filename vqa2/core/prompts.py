"""Question texts that training sets, benchmarks and inference share; `<video>` stands for the clip."""

from collections.abc import Sequence

SCORE_QUESTION = "<video>\nHow would you rate the quality of this video?"
SCORE_PREFIX = "The quality of this video is"
"""The begun answer of the level score: the training wording of VQA² (its released scorers write "the video")."""

REASON_FORM = (
    "First output the thinking process in <think> </think> tags and then the final answer in <answer> </answer> tags."
)
REASON_QUESTION = (
    "<video>\nWhat is your overall rating on the quality of this video? The rating is a float between 1 and 5, rounded "
    f"to two decimals. {REASON_FORM}"
)

LETTERS = "ABCDEFGH"

KEY_COUNT, FIRST_COUNT, MOTION_COUNT = "<key_frames>", "<first_key_frames>", "<motion_frames>"
SECONDS = "<seconds>"
"""Marks in a question for numbers that only the reader of the clip knows: its key frames, those of the first of two
clips, its motion frames, and its length."""


def with_counts(question: str, key: int, first: int, motion: int, seconds: float | None = None) -> str:
    """The question with its marks replaced by numbers of frames, and by the seconds where they are known."""
    for mark, count in ((KEY_COUNT, key), (FIRST_COUNT, first), (MOTION_COUNT, motion)):
        question = question.replace(mark, str(count))
    return question if seconds is None else question.replace(SECONDS, f"{seconds:.1f}")


INSTRUCTION = {"letter": "Answer with the letter.", "text": "Answer with the text of the option."}


def closed_prompt(question: str, answers: Sequence[str], reply: str) -> str:
    """A question with lettered options. `reply`: `letter` (as Q-Bench-Video asks) or `text` of the option, which a
    small model learns in minutes."""
    assert 2 <= len(answers) <= len(LETTERS)
    options = "\n".join(f"{letter}. {answer}" for letter, answer in zip(LETTERS, answers))
    return f"<video>\n{question}\n{options}\n{INSTRUCTION[reply]}"


def one_turn(system: str, user: str, *, see: bool) -> str:
    """System and user text in one question, for models of ours, which have no system turn of their own."""
    mark, told = "<video>\n" if see else "", f"{system}\n\n" if system else ""
    return mark + told + user


def open_prompt(question: str) -> str:
    """A question answered in free text."""
    return f"<video>\n{question}"
