"""Token order: the only place that knows where visual and motion tokens stand in a prompt.

Shapes: K key frames, N visual tokens per key frame, T motion frames, L tokens.

Layouts: `interleaved` (default) puts, for each second i, the N tokens of key frame i and then the motion tokens of the
frames of that second, and closes with one newline slot; `official` is what the released checkpoints were trained with:
all visual tokens, the newline, then all motion tokens. A text may carry a second mark `<motion>`: `official` puts the
motion block there, `interleaved` drops the mark. Chat format is Qwen2's ChatML. Labels cover the answer tokens and the
closing `<|im_end|>`, nothing else (the released code also trains on role headers; see docs/training.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vqa2.core.errors import DataError
from vqa2.core.records import Turn

Layout = Literal["interleaved", "official"]
VIDEO_MARK, MOTION_MARK = "<video>", "<motion>"
IGNORE = -100


@dataclass(frozen=True, kw_only=True)
class Slots:
    """What a clip needs in the token sequence: visual tokens per key frame, the second of each motion frame."""

    tokens_per_frame: int
    num_key: int
    motion_second: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The ids that layout writes. `system` may be empty: then no system block is written."""

    video: int
    motion: int
    layout: Layout
    use_motion: bool
    system: str


@dataclass(frozen=True)
class Example:
    """`input_ids` and `labels` of equal length L; label -100 is not trained on."""

    input_ids: list[int]
    labels: list[int]


def clip_block(slots: Slots, tokens: Tokens) -> tuple[list[int], list[int]]:
    """The placeholder ids of a clip: (block at `<video>`, block at `<motion>`). K·N + 1 visual, T motion slots."""
    if not tokens.use_motion:
        return [tokens.video] * (slots.num_key * slots.tokens_per_frame + 1), []
    if tokens.layout == "official":
        visual = [tokens.video] * (slots.num_key * slots.tokens_per_frame + 1)
        return visual, [tokens.motion] * len(slots.motion_second)
    block: list[int] = []
    for second in range(slots.num_key):
        block += [tokens.video] * slots.tokens_per_frame
        last = second == slots.num_key - 1
        # Motion frames beyond the last key frame's second can only come from rounding fps: they follow the last frame.
        here = [s for s in slots.motion_second if s == second or (last and s > second)]
        block += [tokens.motion] * len(here)
    return [*block, tokens.video], []


def lay_out(turns: Sequence[Turn], slots: Slots | None, tokens: Tokens, tokenizer, where: str) -> Example:
    """Turns -> ids and labels. The first turn holds `<video>` where there is a clip. DataError names `where` else.

    A last turn with an empty `assistant` ends with the open answer header: a prompt to generate from.
    """
    ids: list[int] = []
    labels: list[int] = []

    def add(new: list[int], train: bool = False) -> None:
        ids.extend(new)
        labels.extend(new if train else [IGNORE] * len(new))

    def text(part: str) -> list[int]:
        return tokenizer.encode(part, add_special_tokens=False)

    if tokens.system:
        add(text(f"<|im_start|>system\n{tokens.system}<|im_end|>\n"))
    for number, turn in enumerate(turns):
        add(text("<|im_start|>user\n"))
        for piece in _user_pieces(turn.user, slots if number == 0 else None, tokens, where):
            add(piece if isinstance(piece, list) else text(piece))
        add(text("<|im_end|>\n<|im_start|>assistant\n"))
        if turn.assistant:
            add(text(turn.assistant) + text("<|im_end|>"), train=True)
            add(text("\n"))
        elif number < len(turns) - 1:
            raise DataError(f"{where}: turn {number} has no answer but is not the last")
    return Example(ids, labels)


def _user_pieces(user: str, slots: Slots | None, tokens: Tokens, where: str) -> list:
    """The user text cut at its marks, the marks replaced by placeholder ids."""
    marks = user.count(VIDEO_MARK)
    if slots is None:
        if marks or MOTION_MARK in user:
            raise DataError(f"{where}: text has a {VIDEO_MARK} mark but the row has no clip")
        return [user]
    if marks != 1 or user.count(MOTION_MARK) > 1:
        raise DataError(f"{where}: a clip needs exactly one {VIDEO_MARK} and at most one {MOTION_MARK}, found {marks}")
    visual, motion = clip_block(slots, tokens)
    if MOTION_MARK not in user:
        visual, motion = visual + motion, []
    pieces: list = []
    for i, part in enumerate(user.split(VIDEO_MARK)):
        pieces += [visual] if i else []
        for j, text in enumerate(part.split(MOTION_MARK)):
            pieces += [motion] if j else []
            pieces += [text] if text else []
    return [p for p in pieces if p]
