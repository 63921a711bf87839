"""Benchmark `qbench_video`: Q-Bench-Video (CVPR 2025), the task of VQA², section 5.

Closed questions are right or wrong, open ones are graded in [0, 1]; figures are plain means over questions, Overall
over both kinds, as published. Departs from the official protocol where a configuration says so, and the report then
names it (`deviations`): frames are those the predictor takes; an unreadable closed reply is wrong, counted and listed
(VQA² reads the first character, the official parser is not published); what no judge has graded is not graded, never
guessed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, MinLen

from vqa2.bench import _judge, _judge_rules
from vqa2.bench._items import Breakdowns, Grade, Item, Marks, check_file, errors, shorten
from vqa2.bench._judge import Judge, OpenAnswer, Verdict
from vqa2.bench._judge_rules import Vocabulary
from vqa2.bench._parse import letter, option
from vqa2.bench._qbench_prompts import Form, question_prompt
from vqa2.bench._qbench_records import OPEN, Question, Questions, read_concerns, read_questions
from vqa2.core.config import register
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.prompts import LETTERS
from vqa2.core.records import Answer, Metric, Query, Report

_LENIENT = ("Aesthetic", "AIGC")
"""VQA² prints these two concerns in one column."""
_CONCERNS = "score by quality concern"


@register("benchmark", "qbench_video")
class QBenchVideo:
    """`file`: the JSON in the released form; `video_root`: folder of the videos it names; `prepare`: the command that
    gets both. `concerns`: a JSON list of records with `video_name`, `question` and `quality_concern`, for a file
    without the last (the released one), null for none. `pairs`: questions about two videos. `prompt`: whose wording;
    `reply`: how `plain` asks closed questions. Open answers are graded by `judge`, or by word rules where
    `vocabulary` is set and the judge is none (the embedded benchmark only), else not at all. `reference_keys`: where
    an open reference may stand, first match. `published_n`: questions behind published figures, null where nothing is
    published."""

    label: str
    prepare: str | None
    file: str
    video_root: str
    concerns: str | None
    pairs: Literal["exclude", "include"]
    prompt: Form
    reply: Literal["letter", "text"]
    judge: Judge
    vocabulary: Vocabulary | None
    reference_keys: Annotated[tuple[str, ...], MinLen(1)]
    published_n: Annotated[int, Ge(1)] | None
    batch_size: Annotated[int, Ge(1)]
    bootstrap: Annotated[int, Ge(0)]
    seed: Annotated[int, Ge(0)]

    def inputs(self) -> tuple[Path, ...]:
        """The files that decide what is asked, what is right and what a question counts under."""
        return tuple(Path(file) for file in (self.file, self.concerns) if file is not None)

    def items(self) -> list[Item]:
        """One item per question. ConfigError for settings that exclude each other and for a judge that cannot grade."""
        if self.prompt != "plain" and self.reply == "text":
            raise ConfigError(f"{self.label}.reply: prompt={self.prompt} asks for letters; use reply=letter")
        if self.prompt == "vqa2" and self.pairs == "include":
            raise ConfigError(
                f"{self.label}.pairs: prompt=vqa2 is worded for one video; use official, plain or exclude"
            )
        check_file(Path(self.file), self.prepare)
        if self.concerns is not None:
            check_file(Path(self.concerns), None)
        read = self._read()
        if not read.kept:
            raise DataError(f"{self.file}: no single-video question among {len(read.excluded)} records")
        if self.judge.named():
            _judge.check(self.judge, f"{self.label}.judge")
        elif self.vocabulary is not None:
            self._check_rules(read.kept, self.vocabulary)
        return [self._item(question) for question in read.kept]

    def report(self, items: Sequence[Item], answers: Sequence[Answer], predictor: str) -> Report:
        """Means over questions. Open questions without a judge and withheld answers are outside the coverage."""
        read, marks = self._read(), Marks(self.bootstrap, self.seed)
        verdicts = self._verdicts(items, answers)
        counted = [(i, a) for i, a in zip(items, answers, strict=True) if self._gradable(i, read)]
        grades = [self._grade(i, a.text, verdicts) for i, a in counted if a.text is not None]
        ungraded = [(g.item.query.id, g.reason) for g in grades if g.reason]
        failures = (*errors(*(zip(*counted) if counted else ((), ()))), *ungraded)
        metrics = self._metrics(grades, marks, items, answers)
        undone = [i for i, a in counted if a.error is not None] + [g.item for g in grades if g.mark is None]
        return Report(
            benchmark=self.label,
            predictor=predictor,
            metrics=metrics,
            n_expected=len(counted),
            n_scored=len(counted) - len(failures),
            failures=failures,
            groups={
                **{name: marks.by(grades, key) for name, key in _BREAKDOWNS.items()},
                **self._agreement(verdicts),
            },
            notes=self._notes(items, read, verdicts),
            deviations=self._deviations(items, read, sum(i.target["kind"] != OPEN for i in undone)),
            limited=self._limited(items, metrics[-1], verdicts, sum(i.target["kind"] == OPEN for i in undone)),
            marks={g.item.query.id: g.mark for g in grades if g.mark is not None},
        )

    def compare(self, items: Sequence[Item], answers: Sequence[Answer], others: Sequence[Answer]) -> tuple[Metric, ...]:
        """Scores of `answers` minus those of `others`, on the questions that are graded for both."""
        read = self._read()
        first, second = (
            [self._grade(i, a.text, verdicts)
             for i, a in zip(items, some, strict=True) if a.text is not None and self._gradable(i, read)]
            for some, verdicts in ((s, self._verdicts(items, s)) for s in (answers, others))
        )  # fmt: skip
        return Marks(self.bootstrap, self.seed).differences("Overall", first, second, _BREAKDOWNS)

    def _read(self) -> Questions:
        concerns = {} if self.concerns is None else read_concerns(Path(self.concerns))
        return read_questions(
            Path(self.file), Path(self.video_root), self.reference_keys, self.pairs == "include", concerns
        )

    def _gradable(self, item: Item, read: Questions) -> bool:
        judged = bool(self.judge.named()) or self.vocabulary is not None
        return not read.withheld and (item.target["kind"] != OPEN or judged)

    def _verdicts(self, items: Sequence[Item], answers: Sequence[Answer]) -> dict[str, dict[str, Verdict]]:
        """Judge -> id -> verdict of every open question that was answered."""
        asked = [
            OpenAnswer(id=i.query.id, question=i.target["question"], reply=a.text, reference=i.target["reference"])
            for i, a in zip(items, answers, strict=True)
            if i.target["kind"] == OPEN and i.target["reference"] and a.text is not None
        ]
        return _judge.grade_all(self.judge, asked, f"{self.label}.judge") if asked else {}

    def _grade(self, item: Item, text: str, verdicts: Mapping[str, Mapping[str, Verdict]]) -> Grade:
        target = item.target
        if target["kind"] != OPEN:
            return self._closed(item, text)
        if verdicts:
            verdict = next(iter(verdicts.values()))[item.query.id]
            return Grade(item, verdict.mark, verdict.reason)
        assert self.vocabulary is not None
        return Grade(item, _judge_rules.grade(text, target["reference"], self.vocabulary) / 2)

    def _closed(self, item: Item, text: str) -> Grade:
        answers = item.target["answers"]
        if self.reply == "letter":
            found = letter(text, len(answers))
            said = None if found is None else answers[LETTERS.index(found)]
            correct = found == item.target["choice"]
        else:
            said = option(text, answers)
            correct = said == item.target["reference"]
        return Grade(item, float(correct), "" if said is not None else f"unparseable reply: {shorten(text)!r}")

    def _item(self, question: Question) -> Item:
        pair = question.second is not None
        target = {
            "kind": question.kind,
            "concerns": question.concerns,
            "video_type": question.video_type,
            "context": question.context,
            "question": question.text,
            "answers": question.answers,
            "choice": question.choice,
            "reference": question.reference,
        }
        if question.answers:
            target["chance"] = 1 / len(question.answers)
        text = question_prompt(self.prompt, question.text, question.answers, self.reply, pair)
        query = Query(id=question.id, path=question.path, second=question.second, kind="video", question=text)
        return Item(query=query, mode="answer", target=target)

    def _check_rules(self, questions: Sequence[Question], words: Vocabulary) -> None:
        for question in questions:
            if question.kind == OPEN and question.reference and not _judge_rules.readable(question.reference, words):
                raise ConfigError(
                    f"{self.label}.vocabulary: word rules cannot grade the reference {shorten(question.reference)!r} "
                    f"({question.id}); they are for the embedded benchmark only, use vocabulary=null"
                )

    def _metrics(
        self, grades: Sequence[Grade], marks: Marks, items: Sequence[Item], answers: Sequence[Answer]
    ) -> tuple[Metric, ...]:
        closed = [g for g in grades if g.item.target["kind"] != OPEN]
        opened = [g for g in grades if g.item.target["kind"] == OPEN]
        complete = opened or not any(i.target["kind"] == OPEN for i in items)
        return (
            marks.mean("Overall (closed)", closed, "plain mean over closed questions"),
            marks.mean("Overall", grades, "plain mean over questions, open answers count in [0, 1]")
            if complete
            else Metric(name="Overall", value=None, n=0, note="undefined: open questions are not graded"),
            marks.parsed(closed),
            self._open(opened, marks, items, answers),
        )

    def _open(self, grades: Sequence[Grade], marks: Marks, items: Sequence[Item], answers: Sequence[Answer]) -> Metric:
        if grades and self.judge.named():
            return marks.mean(f"open (judge {self._judges()[0]})", grades, "mean grade / 2")
        if grades:
            note = "word rules for the embedded benchmark, no language model"
            return marks.mean("open (rule judge)", grades, note)
        asked = [a for i, a in zip(items, answers, strict=True) if i.target["kind"] == OPEN]
        replied = sum(a.text is not None for a in asked)
        note = f"not graded (no judge or no reference); {replied} of {len(asked)} open questions answered"
        return Metric(name="open", value=None, n=0, note=note)

    def _judges(self) -> list[str]:
        """The judges by model."""
        return [_judge.model_of(values) for values in self.judge.named().values()]

    def _agreement(self, verdicts: Mapping[str, Mapping[str, Verdict]]) -> dict[str, tuple[Metric, ...]]:
        if len(verdicts) < 2:
            return {}
        (first, *others), names = verdicts.values(), self._judges()
        kappas = [
            _judge.agreement(first, other, name, bootstrap=self.bootstrap, seed=self.seed)
            for other, name in zip(others, names[1:])
        ]
        return {f"agreement of {names[0]}": tuple(m for some in kappas for m in some)}

    def _notes(
        self, items: Sequence[Item], read: Questions, verdicts: Mapping[str, Mapping[str, Verdict]]
    ) -> tuple[str, ...]:
        how = f"by {self.reply}" if self.prompt == "plain" else f"by letter, in the words of the {self.prompt} prompt"
        notes = [f"closed questions answered {how}; unreadable replies count as wrong"]
        for name, found in zip(self._judges(), verdicts.values()):
            rounds = [g for v in found.values() for g in v.rounds]
            notes.append(f"judge {name}: {rounds.count(None)} of {len(rounds)} replies are no grade and in no mean")
            models = sorted({m for v in found.values() for m in v.models})
            notes.append(f"judge {name}: answered by {', '.join(models) or 'a model that the backend does not name'}")
        if read.withheld:
            notes.append("the file holds no right answers: nothing is graded, the replies are in the answers file")
        if read.excluded:
            names = ", ".join(name for name, _ in read.excluded)
            notes.append(f"{len(read.excluded)} questions about two videos excluded: {names}")
        return tuple(notes)

    def _deviations(self, items: Sequence[Item], read: Questions, failed: int) -> tuple[str, ...]:
        """Why no figure is comparable with published ones; `failed`: closed questions without a mark."""
        if self.published_n is None:
            return ("not a published benchmark",)
        found = [f"{len(items)} questions, published on {self.published_n}"] if len(items) != self.published_n else []
        if read.withheld:
            found.append("answers are withheld")
        if self.prompt == "plain":
            found.append("prompt=plain is not a published prompt")
        if self.prompt == "official":
            found.append("frames are those the predictor takes, published with 16 a video, 8 each of a pair")
        if self.pairs == "include" and any(i.query.second for i in items):
            found.append("frames of a pair stand in one list, published under a heading each")
        if failed:
            found.append(f"{failed} closed questions not answered")
        return tuple(found)

    def _limited(
        self, items: Sequence[Item], opened: Metric, verdicts: Mapping[str, Mapping[str, Verdict]], failed: int
    ) -> dict[str, tuple[str, ...]]:
        """Why some figures are not comparable: those that open questions are in, of which `failed` have no mark, and
        those by concern."""
        found = {}
        without = sum(not i.target["concerns"] for i in items)
        if without:
            reason = f"{without} of {len(items)} questions have no quality_concern and are in no concern column"
            found[f"{reason} ({self.label}.concerns, docs/evaluation.md)"] = (_CONCERNS,)
        if self.published_n is None:
            return found
        of = [f"{name} / {value}" for name, key in _BREAKDOWNS.items()
              for item in items if item.target["kind"] == OPEN for value in key(item)]  # fmt: skip
        figures = ("Overall", opened.name, *dict.fromkeys(of))
        reasons = [f"{failed} open questions not answered or not graded"] if failed else []
        reasons += _judge.departures(self.judge, [*next(iter(verdicts.values()), {}).values()])
        return found | dict.fromkeys(reasons, figures)


def _concerns(item: Item) -> list[str]:
    concerns = list(item.target["concerns"])
    return [*concerns, " or ".join(_LENIENT)] if any(c in concerns for c in _LENIENT) else concerns


_BREAKDOWNS: Breakdowns = {
    "score by question type": lambda i: [i.target["kind"]],
    _CONCERNS: _concerns,
    "score by video type": lambda i: [i.target["video_type"]],
    "score by context": lambda i: [i.target["context"]],
    "score by number of videos": lambda i: ["Single" if i.query.second is None else "Pair"],
}
