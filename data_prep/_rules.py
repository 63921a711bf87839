"""`llm=rules`: pairs from a depiction by word lists and fixed wordings, without a language model. Deterministic.

It asks only what the lexicon reads in the text. A distortion that no sentence mentions, and that nothing mentioned is
easily taken for, counts as absent: people who describe quality name what disturbs them, not everything that is fine.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_prep._lexicon import Finding, Lexicon
from data_prep._pairs import Closed, Pairs, Plain, YesNo
from data_prep._write import rng_of
from vqa2.core.records import Depiction
from vqa2.core.scale import LEVELS, level_of


class RulesWriter:
    """Writes at most `counts[kind]` pairs of a kind; fewer where the text does not say enough."""

    def __init__(self, lexicon: Lexicon, counts: Mapping[str, int], distractors: int, turns: int, seed: int) -> None:
        """`distractors` at most per question; a conversation of fewer than `turns` is none."""
        self.lexicon, self.counts, self.seed = lexicon, counts, seed
        self.distractors, self.turns = distractors, turns

    def write(self, depiction: Depiction) -> Pairs:
        """The pairs of one depiction; depends on its id and text and the seed alone."""
        rng = rng_of(self.seed, "extend", depiction.id)
        text = " ".join([sentence(depiction.overall), *(sentence(s) for s in depiction.in_context)])
        found = self.lexicon.read(text)
        level = "" if depiction.mos is None else level_of(depiction.mos)
        talk = _conversation(depiction, found, level)
        return Pairs(
            binary=self._some(self._binary(found, rng), "binary", None),
            choice=self._some(self._choice(found, level, rng), "choice", rng),
            open=self._some(_open(depiction, found), "open", rng),
            temporal=self._some(self._temporal(found, rng), "temporal", rng),
            conversation=talk if self.counts["conversation"] and len(talk) >= self.turns else (),
        )

    def _some(self, made: Sequence, kind: str, rng: np.random.Generator | None) -> tuple:
        """The first `counts[kind]`, of a random order where there is a generator; no question twice."""
        order = range(len(made)) if rng is None else rng.permutation(len(made))
        unique: dict[str, Any] = {}
        for index in order:
            unique.setdefault(made[index].question, made[index])
        return tuple(unique.values())[: self.counts[kind]]

    def _binary(self, found: Sequence[Finding], rng: np.random.Generator) -> list[YesNo]:
        """Yes and no in turns, the first at random, as far as there is something of each."""
        yes = [_is_there(str(n), "Yes") for n in rng.permutation([f.attribute for f in found if f.present])]
        no = [_is_there(n, "No") for n in absent(self.lexicon, found, rng)]
        first, second = (yes, no) if rng.random() < 0.5 else (no, yes)
        both = [pair for two in zip(first, second) for pair in two]
        return both + first[len(second) :] + second[len(first) :]

    def _choice(self, found: Sequence[Finding], level: str, rng: np.random.Generator) -> list[Closed]:
        made, wrong = [], absent(self.lexicon, found, rng)[: self.distractors]
        present = [f for f in found if f.present]
        if present and wrong:
            answer = present[int(rng.integers(len(present)))].attribute
            made.append(_ask("Which of these distortions does this video show?", answer, wrong))
        for finding in (f for f in present if f.severity):
            others = [s for s in (*self.lexicon.severities, "not present") if s != finding.severity]
            made.append(_ask(f"How strong is the {finding.attribute} in this video?", finding.severity, others))
        if level:
            others = [str(x) for x in rng.permutation([x for x in LEVELS if x != level])][: self.distractors]
            made.append(_ask("How is the overall quality of this video?", level, others))
        return made

    def _temporal(self, found: Sequence[Finding], rng: np.random.Generator) -> list[Closed]:
        made = []
        for finding in (f for f in found if f.present and f.when):
            others = [t for t in self.lexicon.times if t != finding.when][: self.distractors]
            made.append(_ask(f"When does the {finding.attribute} appear in this video?", finding.when, others))
        timely = [n for n, a in self.lexicon.attributes.items() if a.temporal]
        shown = [f.attribute for f in found if f.present and f.attribute in timely]
        wrong = [n for n in absent(self.lexicon, found, rng) if n in timely]
        if shown and wrong:
            made.append(_ask("Which problem does the motion of this video have?", shown[0], wrong[: self.distractors]))
        return made


def absent(lexicon: Lexicon, found: Sequence[Finding], rng: np.random.Generator) -> list[str]:
    """Attributes that are not there: those a clause denies first, then the unmentioned, each in random order."""
    present = {f.attribute for f in found if f.present}
    near = present.union(*(lexicon.attributes[name].alike for name in present))
    denied = [f.attribute for f in found if not f.present and f.attribute not in present]
    silent = [n for n in lexicon.attributes if n not in near and n not in denied]
    return [str(x) for x in (*rng.permutation(denied), *rng.permutation(silent))]


def _is_there(name: str, answer: str) -> YesNo:
    return YesNo(question=f"Is there {name} in this video?", answer=answer)


def _ask(question: str, answer: str, wrong: Sequence[str]) -> Closed:
    return Closed(question=question, answer=answer, distractors=tuple(wrong))


def _open(depiction: Depiction, found: Sequence[Finding]) -> list[Plain]:
    made = [Plain(question="How would you describe the quality of this video?", answer=sentence(depiction.overall))]
    bad, good = _clauses(found, True), _clauses(found, False)
    if bad:
        made.append(Plain(question="What degrades the quality of this video?", answer=bad))
    if good:
        made.append(Plain(question="What speaks for the quality of this video?", answer=good))
    return made


def _conversation(depiction: Depiction, found: Sequence[Finding], level: str) -> tuple[Plain, ...]:
    """Description, then what it says in detail, then the rating; the questions refer to what was said before."""
    turns = [Plain(question="Please describe the quality of this video.", answer=sentence(depiction.overall))]
    worst = next((f for f in found if f.present), None)
    if worst is not None:
        turns.append(
            Plain(question="Which of these problems is named first?", answer=f"{worst.attribute.capitalize()}.")
        )
        if worst.severity:
            turns.append(Plain(question="How strong is it?", answer=f"It is {worst.severity}."))
        if worst.when:
            turns.append(Plain(question="When does it appear?", answer=f"It appears {worst.when}."))
    if depiction.in_context:
        more = sentence(" ".join(depiction.in_context))
        turns.append(Plain(question="Can you say more about a certain moment or place?", answer=more))
    if level:
        turns.append(Plain(question="How would you rate it, then?", answer=f"The quality of this video is {level}."))
    return tuple(turns)


def _clauses(found: Sequence[Finding], present: bool) -> str:
    """The clauses behind findings, as sentences, each once; none that also says the contrary ("sharp and shaky")."""
    mixed = {f.clause for f in found if f.present != present}
    unique = dict.fromkeys(f.clause for f in found if f.present == present and f.clause not in mixed)
    return " ".join(sentence(c) for c in unique)


def sentence(text: str) -> str:
    """A text on one line that begins and ends like a sentence."""
    flat = " ".join(text.split())
    flat = flat[:1].upper() + flat[1:]
    return flat if flat.endswith((".", "!", "?")) else f"{flat}."
