"""The grammar of a completion, read strictly. A completion that does not follow it has no answer (None).

    completion = space "<think>" thought "</think>" space "<answer>" space reply space "</answer>" space
    thought    = any text without the four tags
    reply      = number | letter, as the prompt asks
    number     = digits [ "." digits ]            a plain decimal, on the 1-5 scale of the prompt, ends included
    letter     = "A" … "H" [ "." ]                of an option of a multiple-choice prompt

`space` may be empty. Departs from VQAThinker's released code, which takes the last answer block or else the whole text,
the first number in it, whatever its range, and a *random* integer of 1-5 where there is none.
"""

import re

LOWEST, HIGHEST = 1.0, 5.0

_PLAIN = r"(?:(?!</?(?:think|answer)>).)*"
_FORM = re.compile(rf"\s*<think>{_PLAIN}</think>\s*<answer>({_PLAIN})</answer>\s*", re.DOTALL | re.ASCII)
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*", re.ASCII)
_LETTER = re.compile(r"\s*([A-H])\.?\s*", re.ASCII)


def has_form(completion: str) -> bool:
    """Whether the whole completion is one thought and one answer block, whatever the answer says."""
    return _FORM.fullmatch(completion) is not None


def read_answer(completion: str) -> float | None:
    """The answer on the 1-5 scale, or None: tags missing, repeated or out of order, no plain decimal, out of range."""
    number = _reply(completion, _NUMBER)
    value = None if number is None else float(number)
    return value if value is not None and LOWEST <= value <= HIGHEST else None


def read_choice(completion: str) -> str | None:
    """The letter of the option, or None: tags missing, repeated or out of order, anything but one letter."""
    return _reply(completion, _LETTER)


def _reply(completion: str, kind: re.Pattern[str]) -> str | None:
    form = _FORM.fullmatch(completion)
    reply = kind.fullmatch(form.group(1)) if form else None
    return reply.group(1) if reply else None
