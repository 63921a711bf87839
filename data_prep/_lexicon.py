"""Reading quality out of human sentences by word lists: which attribute, there or not, how strong, when.

Deterministic and shallow on purpose: what it cannot read it does not report. Words are values (conf/lexicon).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated

from annotated_types import Ge, MinLen

from vqa2.core.config import spec
from vqa2.core.errors import ConfigError


@spec
class Attribute:
    """Terms that say an attribute is there (`present`) or explicitly not (`absent`). `category`: AgenticIQA's name for
    it; of the `temporal` ones, which that paper has not, ours. `alike`: attributes that it is easily taken for."""

    category: str
    temporal: bool
    present: Annotated[tuple[str, ...], MinLen(1)]
    absent: tuple[str, ...]
    alike: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """What one clause says; `severity` and `when` are empty where it says nothing. `clause` is its text."""

    attribute: str
    present: bool
    severity: str
    when: str
    clause: str


@spec
class Lexicon:
    """Word lists, regular expressions for whole words; see conf/lexicon/english.yaml. The first group of `subject` is
    what a clause speaks of, unless it ends in a word of `whole`."""

    attributes: dict[str, Attribute]
    negations: tuple[str, ...]
    negation_reach: Annotated[int, Ge(0)]
    clause_ends: Annotated[tuple[str, ...], MinLen(1)]
    severities: dict[str, tuple[str, ...]]
    times: dict[str, tuple[str, ...]]
    temporal_words: tuple[str, ...]
    subject: str
    whole: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, attribute in self.attributes.items():
            for other in attribute.alike:
                if other not in self.attributes:
                    raise ConfigError(f"lexicon.attributes.{name}.alike: no attribute {other!r}")
        try:
            _ = self._terms, self._clauses, self._temporal, self._negated, self._subject
        except re.error as err:
            raise ConfigError(f"lexicon: {err.pattern!r} is no regular expression: {err.msg}") from None

    @cached_property
    def _terms(self) -> list[tuple[re.Pattern, str, bool]]:
        """(pattern, attribute, present)."""
        found = [(_words(a.present), n, True) for n, a in self.attributes.items()]
        return found + [(_words(a.absent), n, False) for n, a in self.attributes.items() if a.absent]

    @cached_property
    def _clauses(self) -> re.Pattern:
        return re.compile("|".join(self.clause_ends), re.IGNORECASE)

    @cached_property
    def _subject(self) -> re.Pattern:
        return re.compile(self.subject, re.IGNORECASE)

    @cached_property
    def _temporal(self) -> re.Pattern:
        return _words(self.temporal_words)

    @cached_property
    def _negated(self) -> re.Pattern:
        """A negation at most `negation_reach` words before the end of the text."""
        return re.compile(rf"\b(?:{'|'.join(self.negations)})(?:\W+\w+){{0,{self.negation_reach}}}\W*\Z", re.IGNORECASE)

    def read(self, text: str) -> list[Finding]:
        """One finding per attribute that the text speaks of, in order of appearance.

        Where clauses disagree, the one that says it is there counts: "clear at first, blurry at the end" has blur.
        """
        found: dict[str, Finding] = {}
        for clause in self._parts(text):
            for new in self._read_clause(clause):
                old = found.get(new.attribute)
                if old is None or (new.present and not old.present):
                    found[new.attribute] = new
                elif new.present:
                    found[new.attribute] = replace(
                        old, severity=old.severity or new.severity, when=old.when or new.when
                    )
        return list(found.values())

    def regions(self, text: str) -> dict[str, list[Finding]]:
        """Findings by the region that a clause has as its subject; of the picture as a whole under the empty name."""
        texts: dict[str, list[str]] = {}
        for clause in self._parts(text):
            subject = self._subject.match(clause)
            name = subject[1].lower() if subject else ""
            texts.setdefault("" if name.split(" ")[-1] in self.whole else name, []).append(clause)
        return {name: found for name, clauses in texts.items() if (found := self.read(". ".join(clauses)))}

    def says_time(self, text: str) -> bool:
        """Whether a text is about time."""
        return bool(self._temporal.search(text))

    def meaning(self, text: str) -> frozenset[tuple[str, bool, str, str]]:
        """What a short text says, so that two wordings of one thing compare equal."""
        return frozenset((f.attribute, f.present, f.severity, f.when) for f in self.read(text))

    def _parts(self, text: str) -> list[str]:
        return [part for c in self._clauses.split(text) if (part := c.strip(" ,\n"))]

    def _read_clause(self, clause: str) -> list[Finding]:
        when = _first(self.times, clause)
        hits = [(m, name, there) for pattern, name, there in self._terms for m in pattern.finditer(clause)]
        taken: list[tuple[re.Match, str, bool]] = []
        # The longest term has the words ("motion blur" is not also "blur"); equal ones share them ("well lit" denies
        # both kinds of bad exposure).
        for hit in sorted(hits, key=lambda h: h[0].start() - h[0].end()):
            if all(hit[0].span() == t[0].span() or _apart(hit[0], t[0]) for t in taken):
                taken.append(hit)
        made = []
        for match, name, there in sorted(taken, key=lambda h: h[0].start()):
            present = there != bool(self._negated.search(clause[: match.start()]))
            severity = _nearest(self.severities, clause, match) if present else ""
            made.append(Finding(name, present, severity, when, clause))
        return made


def _apart(a: re.Match, b: re.Match) -> bool:
    return a.end() <= b.start() or b.end() <= a.start()


def _words(terms: Sequence[str]) -> re.Pattern:
    return re.compile(rf"\b(?:{'|'.join(terms)})\b", re.IGNORECASE)


def _nearest(lists: dict[str, tuple[str, ...]], clause: str, term: re.Match) -> str:
    """The entry of `lists` with the match in the clause that is nearest to a term, empty where there is none."""
    found = [
        (max(m.start() - term.end(), term.start() - m.end()), name)
        for name, terms in lists.items()
        for m in _words(terms).finditer(clause)
    ]
    return min(found, default=(0, ""), key=lambda f: f[0])[1]


def _first(lists: dict[str, tuple[str, ...]], clause: str) -> str:
    """The first entry of `lists` with a term in the clause, empty where there is none."""
    return next((name for name, terms in lists.items() if _words(terms).search(clause)), "")
