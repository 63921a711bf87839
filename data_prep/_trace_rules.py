"""`llm=rules` for AgenticIQA's roles: issues and queries from a depiction by word lists and fixed wordings.

Severities are those that the text states; regions are the subjects of its clauses. As for question-answer rows, a
distortion that no sentence mentions, and that nothing mentioned is easily taken for, counts as absent.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
from annotated_types import Ge, Interval, MinLen

from data_prep._lexicon import Finding, Lexicon
from data_prep._plans import GLOBAL, Library
from data_prep._rules import absent, sentence
from data_prep._traces import UNSTATED, Asked, Issue, Traces
from data_prep._write import rng_of
from vqa2.core.config import spec
from vqa2.core.errors import ConfigError
from vqa2.core.records import Depiction
from vqa2.core.scale import LEVELS, level_of

FORMS = ("binary", "severity", "which", "why", "score", "other")
_GRADED = ("slight", "moderate", "severe", "extreme")
_Texts = Annotated[tuple[str, ...], MinLen(1)]


@spec
class Wording:
    """Texts of each form, with the places {place} and {distortion}; `tool` puts {tool} before a {query}; `grades` are
    the answers to `score`, worst first; `shares` of the forms among the queries, `tool_share` of those that may name a
    tool and do."""

    binary: _Texts
    severity: _Texts
    which: _Texts
    why: _Texts
    score: _Texts
    other: _Texts
    tool: str
    grades: tuple[str, str, str, str, str]
    shares: dict[str, Annotated[float, Ge(0)]]
    tool_share: Annotated[float, Interval(ge=0, le=1)]

    def __post_init__(self) -> None:
        if set(self.shares) != set(FORMS):
            raise ConfigError(f"wording.shares: needs exactly {', '.join(FORMS)}, got {', '.join(self.shares)}")


class TraceRules:
    """Writes at most `queries` queries about a depiction, none twice."""

    def __init__(self, lexicon: Lexicon, library: Library, wording: Wording, queries: int, seed: int) -> None:
        self.lexicon, self.library, self.wording = lexicon, library, wording
        self.queries, self.seed = queries, seed

    def write(self, depiction: Depiction) -> Traces:
        """Issues and queries of one depiction; depends on its id and text and the seed alone."""
        rng = rng_of(self.seed, "agentic", depiction.id)
        text = " ".join(sentence(s) for s in (depiction.overall, *depiction.in_context))
        places = self.lexicon.regions(text)
        issues = tuple(_issue(name or GLOBAL, f) for name, found in places.items() for f in found)
        left = {form: self._made(form, depiction, places, rng) for form in FORMS}
        made: dict[str, Asked] = {}
        while len(made) < self.queries:
            open_forms = [form for form, found in left.items() if found and self.wording.shares[form]]
            if not open_forms:
                break
            weights = np.array([self.wording.shares[form] for form in open_forms])
            form = open_forms[int(rng.choice(len(open_forms), p=weights / weights.sum()))]
            asked = left[form].pop(int(rng.integers(len(left[form]))))
            if form in ("binary", "severity", "score"):
                asked = self._with_tool(asked, rng)
            made.setdefault(asked.query, asked)
        return Traces(issues=issues, queries=tuple(made.values()))

    def _made(
        self, form: str, depiction: Depiction, places: dict[str, list[Finding]], rng: np.random.Generator
    ) -> list[Asked]:
        """Every query of a form that the text answers."""
        kind = f"this {depiction.kind}"
        if form == "other":
            texts = [t.format(place=kind) for t in self.wording.other]
            return [_asked(t, "", query_type="Other") for t in texts]
        if form == "score":
            return [] if depiction.mos is None else [self._score(kind, depiction.mos, depiction.overall, rng)]
        everything = [f for found in places.values() for f in found]
        return [
            asked
            for name, found in places.items()
            for asked in self._about(form, name, f"the {name}" if name else kind, (found, everything), rng)
        ]

    def _score(self, place: str, mos: float, overall: str, rng: np.random.Generator) -> Asked:
        right = self.wording.grades[4 - LEVELS.index(level_of(mos))]
        wrong = tuple(g for g in reversed(self.wording.grades) if g != right)
        return _asked(_one(self.wording.score, rng).format(place=place), right, wrong, sentence(overall))

    def _about(
        self,
        form: str,
        name: str,
        place: str,
        findings: tuple[Sequence[Finding], Sequence[Finding]],
        rng: np.random.Generator,
    ) -> Iterator[Asked]:
        """Queries of a form about one place; `findings` there and everywhere."""
        found, everything = findings
        there = [f for f in found if f.present]
        # Of a region, a silent text tells less than of the whole picture: only what it denies is absent.
        missing = [f.attribute for f in found if not f.present] if name else absent(self.lexicon, everything, rng)
        objects = (name,) if name else ()

        def text(distortion: str) -> str:
            return _one(getattr(self.wording, form), rng).format(place=place, distortion=distortion)

        if form == "binary":
            for f in there:
                yield _asked(text(f.attribute), "Yes", ("No",), sentence(f.clause), objects, (f.attribute,))
            for attribute in missing[: max(1, len(there))]:
                said = f"No {attribute} is visible."
                yield _asked(text(attribute), "No", ("Yes",), said, objects, (attribute,))
        elif form == "severity":
            for f in (f for f in there if f.severity in _GRADED):
                wrong = ("none", *(s for s in _GRADED if s != f.severity))[:3]
                yield _asked(text(f.attribute), f.severity, wrong, sentence(f.clause), objects, (f.attribute,))
        elif form == "which" and there and missing:
            f = there[int(rng.integers(len(there)))]
            yield _asked(text(""), f.attribute, tuple(missing[:3]), sentence(f.clause), objects)
        elif form == "why" and there:
            names = " and ".join(dict.fromkeys(f.attribute for f in there))
            why = " ".join(dict.fromkeys(sentence(f.clause) for f in there))
            yield _asked(text(""), f"{names.capitalize()}.", (), why, objects)

    def _with_tool(self, asked: Asked, rng: np.random.Generator) -> Asked:
        if rng.random() >= self.wording.tool_share:
            return asked
        tool = list(self.library.tools)[int(rng.integers(len(self.library.tools)))]
        query = self.wording.tool.format(tool=tool, query=asked.query[0].lower() + asked.query[1:])
        return asked.model_copy(update={"query": query, "tools": (tool,)})


def _issue(place: str, finding: Finding) -> Issue:
    severity = (finding.severity or UNSTATED) if finding.present else "none"
    return Issue(object=place, distortion=finding.attribute, severity=severity, explanation=sentence(finding.clause))


def _asked(
    query: str,
    answer: str,
    distractors: tuple[str, ...] = (),
    reasoning: str = "",
    objects: tuple[str, ...] = (),
    distortions: tuple[str, ...] = (),
    *,
    query_type: str = "IQA",
) -> Asked:
    return Asked(
        query=query, query_type=query_type, objects=objects, distortions=distortions, tools=(), answer=answer,
        distractors=distractors, reasoning=reasoning,
    )  # fmt: skip


def _one(texts: Sequence[str], rng: np.random.Generator) -> str:
    return texts[int(rng.integers(len(texts)))]
