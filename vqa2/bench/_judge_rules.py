"""The deterministic grader of open answers, for the embedded benchmark only.

Its references are built from a known vocabulary ("Strong noise degrades this video."), so that words can be compared.
It knows nothing of paraphrase and is no stand-in for a language model (vqa2/bench/_judge.py).
"""

from typing import Annotated

from annotated_types import MinLen

from vqa2.bench._parse import contains, name_in
from vqa2.core.config import spec


@spec
class Vocabulary:
    """Words that references are made of: distortion names, severity words, and the phrase for a clean clip."""

    distortions: Annotated[tuple[str, ...], MinLen(1)]
    severities: Annotated[tuple[str, ...], MinLen(1)]
    clean: str


def readable(reference: str, words: Vocabulary) -> bool:
    """Whether the rule applies to a reference: exactly one distortion with one severity, or the clean phrase alone."""
    name = name_in(reference, words.distortions)
    severity = name_in(reference, words.severities)
    return (name is not None and severity is not None) or (name is None and contains(reference, words.clean))


def grade(reply: str, reference: str, words: Vocabulary) -> int:
    """0, 1 or 2, the official judge's scale. 2: the reference's distortion and its severity word; 1: the distortion
    alone; 0: else, also where the reply names several distortions. A clean reference: 2 for the clean phrase without
    any distortion name, else 0."""
    assert readable(reference, words)
    name, said = name_in(reference, words.distortions), name_in(reply, words.distortions)
    if name is None:
        named = any(contains(reply, word) for word in words.distortions)
        return 2 if contains(reply, words.clean) and not named else 0
    if said != name:
        return 0
    return 2 if name_in(reply, words.severities) == name_in(reference, words.severities) else 1
