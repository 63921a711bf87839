"""The grammar of a rated completion, read strictly. A completion that does not follow it has no answer (None).

    completion = space "<think>" thought "</think>" space "<answer>" space number space "</answer>" space
    thought    = any text without the four tags
    number     = digits [ "." digits ]            a plain decimal, on the 1-5 scale of the prompt, ends included

`space` may be empty. Departs from VQAThinker's released code, which takes the last answer block or else the whole text,
the first number in it, whatever its range, and a *random* integer of 1-5 where there is none.
"""

import re

LOWEST, HIGHEST = 1.0, 5.0

_PLAIN = r"(?:(?!</?(?:think|answer)>).)*"
_FORM = re.compile(rf"\s*<think>{_PLAIN}</think>\s*<answer>({_PLAIN})</answer>\s*", re.DOTALL | re.ASCII)
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*", re.ASCII)


def has_form(completion: str) -> bool:
    """Whether the whole completion is one thought and one answer block, whatever the answer says."""
    return _FORM.fullmatch(completion) is not None


def read_answer(completion: str) -> float | None:
    """The answer on the 1-5 scale, or None: tags missing, repeated or out of order, no plain decimal, out of range."""
    form = _FORM.fullmatch(completion)
    number = _NUMBER.fullmatch(form.group(1)) if form else None
    value = float(number.group(1)) if number else None
    return value if value is not None and LOWEST <= value <= HIGHEST else None
