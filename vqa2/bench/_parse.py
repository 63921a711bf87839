"""Strict readers of replies: each gives what was said, or None where that is not certain. Nothing is guessed."""

import re
from collections.abc import Sequence

from vqa2.core.prompts import LETTERS

_LETTER = re.compile(r"\s*(?P<open>[(\[]?)(?P<letter>[A-Z])(?P<close>[)\].:]*)(?P<rest>\s.*|)$", re.DOTALL)


def letter(reply: str, count: int) -> str | None:
    """The option letter that is the reply's first token, bare or with brackets, dot or colon: `B`, `B.`, `(B) noise`.

    It must be among the `count` options. A bare `A` before more words may be the article and is not read.
    """
    found = _LETTER.match(reply)
    if found is None or found["letter"] not in LETTERS[:count]:
        return None
    decorated = found["open"] or found["close"]
    if found["letter"] == "A" and not decorated and found["rest"].strip():
        return None
    return found["letter"]


def option(reply: str, options: Sequence[str]) -> str | None:
    """The option whose text is the whole reply, case and final dot aside."""
    said = _plain(reply)
    same = [o for o in options if _plain(o) == said]
    return same[0] if len(same) == 1 else None


def name_in(reply: str, names: Sequence[str]) -> str | None:
    """The one name that the reply contains as whole words, case aside; longer names are matched before shorter ones.

    None where no name or more than one different name occurs. Negation is not understood.
    """
    said = " ".join(reply.split()).casefold()
    found = set()
    for name in sorted(names, key=len, reverse=True):
        said, times = re.subn(rf"\b{re.escape(name.casefold())}\b", " | ", said)
        if times:
            found.add(name)
    return found.pop() if len(found) == 1 else None


def contains(reply: str, phrase: str) -> bool:
    """Whether the phrase occurs as whole words, case aside."""
    return re.search(rf"\b{re.escape(phrase.casefold())}\b", " ".join(reply.split()).casefold()) is not None


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold().rstrip(".").rstrip()
