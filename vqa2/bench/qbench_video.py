"""Benchmark `qbench_video`: Q-Bench-Video (CVPR 2025) on single videos, the task of VQA², section 5.

Departs from the official protocol, so figures are not comparable across protocols: frames are those the predictor
takes, the prompt is that of vqa2/core/prompts.py (`reply`: by letter, as officially, or by the option's text); the
official judge of open answers is not called. Overall here is the plain mean over closed questions; the paper's Overall
also counts open ones. An unreadable closed reply is wrong, counted and listed (VQA² reads the first character).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, MinLen

from vqa2.bench import _judge
from vqa2.bench._items import Grade, Item, Marks, errors, shorten
from vqa2.bench._judge import Vocabulary
from vqa2.bench._parse import letter, option
from vqa2.bench._qbench_records import OPEN, Question, read_questions
from vqa2.core.config import register
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.prompts import LETTERS, closed_prompt, open_prompt
from vqa2.core.records import Answer, Metric, Query, Report


@register("benchmark", "qbench_video")
class QBenchVideo:
    """`file`: the JSON in the released form; `video_root`: folder that `video_name` is relative to. `reply`: how closed
    questions are answered. `judge` of open answers: `none` (asked, not graded) or `rules` with its `vocabulary` (the
    embedded benchmark only). `reference_keys`: where an open reference may stand, first match."""

    label: str
    file: str
    video_root: str
    reply: Literal["letter", "text"]
    judge: Literal["none", "rules"]
    vocabulary: Vocabulary | None
    reference_keys: Annotated[tuple[str, ...], MinLen(1)]
    batch_size: Annotated[int, Ge(1)]
    bootstrap: Annotated[int, Ge(0)]
    seed: Annotated[int, Ge(0)]

    def inputs(self) -> tuple[Path, ...]:
        """The file that decides what is asked and what is right."""
        return (Path(self.file),)

    def items(self) -> list[Item]:
        """One item per single-video question. ConfigError for the rule judge where it cannot read a reference."""
        questions, pairs = self._read()
        if not questions:
            raise DataError(f"{self.file}: no single-video question among {len(pairs)} records")
        if self.judge == "rules":
            self._check_rules(questions)
        return [self._item(question) for question in questions]

    def grade(self, item: Item, text: str) -> Grade:
        """Closed: 1 or 0; open: 0, 0.5 or 1 by the rule judge, ungraded without one."""
        target = item.target
        if target["kind"] == OPEN:
            if self.judge == "none":
                return Grade(item, None)
            assert self.vocabulary is not None
            return Grade(item, _judge.grade(text, target["reference"], self.vocabulary) / 2)
        answers = target["answers"]
        if self.reply == "letter":
            found = letter(text, len(answers))
            said = None if found is None else answers[LETTERS.index(found)]
            correct = found == target["choice"]
        else:
            said = option(text, answers)
            correct = said == target["reference"]
        return Grade(item, float(correct), "" if said is not None else f"unparseable reply: {shorten(text)!r}")

    def report(self, items: Sequence[Item], answers: Sequence[Answer], predictor: str) -> Report:
        """Closed accuracies and, apart from them, the open score. Ungraded open questions are outside the coverage."""
        marks = Marks(self.bootstrap, self.seed)
        counted = [(i, a) for i, a in zip(items, answers, strict=True) if self._gradable(i)]
        grades = [self.grade(i, a.text) for i, a in counted if a.text is not None]
        closed = [g for g in grades if g.item.target["kind"] != OPEN]
        unread = [(g.item.query.id, g.reason) for g in closed if g.reason]
        return Report(
            benchmark=self.label,
            predictor=predictor,
            metrics=(
                marks.mean("Overall (closed)", closed, "plain mean over closed questions"),
                marks.parsed(closed),
                self._open(items, answers, marks),
            ),
            n_expected=len(counted),
            n_scored=len(grades) - len(unread),
            failures=(*errors(*(zip(*counted) if counted else ((), ()))), *unread),
            groups={
                "accuracy by question type": marks.by(closed, lambda i: [i.target["kind"]]),
                "accuracy by quality concern": marks.by(closed, lambda i: i.target["concerns"]),
                "accuracy by video type": marks.by(closed, lambda i: [i.target["video_type"]]),
            },
            notes=self._notes(items),
        )

    def _read(self) -> tuple[list[Question], list[tuple[str, str]]]:
        return read_questions(Path(self.file), Path(self.video_root), self.reference_keys)

    def _gradable(self, item: Item) -> bool:
        return item.target["kind"] != OPEN or self.judge != "none"

    def _item(self, question: Question) -> Item:
        prompt = (
            open_prompt(question.text)
            if question.kind == OPEN
            else closed_prompt(question.text, question.answers, self.reply)
        )
        target = {
            "kind": question.kind,
            "concerns": question.concerns,
            "video_type": question.video_type,
            "answers": question.answers,
            "choice": question.choice,
            "reference": question.reference,
        }
        if question.answers:
            target["chance"] = 1 / len(question.answers)
        query = Query(id=question.id, path=question.path, kind="video", question=prompt)
        return Item(query=query, mode="answer", target=target)

    def _check_rules(self, questions: Sequence[Question]) -> None:
        if self.vocabulary is None:
            raise ConfigError(f"{self.label}.vocabulary: judge=rules needs it; use judge=none for other benchmarks")
        for question in questions:
            if question.kind == OPEN and not _judge.readable(question.reference, self.vocabulary):
                raise ConfigError(
                    f"{self.label}.judge: rules cannot grade the reference {shorten(question.reference)!r} "
                    f"({question.id}); it is for the embedded benchmark only, use judge=none"
                )

    def _open(self, items: Sequence[Item], answers: Sequence[Answer], marks: Marks) -> Metric:
        asked = [(i, a) for i, a in zip(items, answers, strict=True) if i.target["kind"] == OPEN]
        replied = [(i, a.text) for i, a in asked if a.text is not None]
        if self.judge == "none":
            note = f"not graded (judge: none); {len(replied)} of {len(asked)} open questions answered"
            return Metric(name="open", value=None, n=0, note=note)
        grades = [self.grade(i, text) for i, text in replied]
        note = "word rules for the embedded benchmark, not the official judge; not part of Overall"
        return marks.mean("open (rule judge)", grades, note)

    def _notes(self, items: Sequence[Item]) -> tuple[str, ...]:
        notes = [
            f"closed questions answered by {self.reply}; unreadable replies count as wrong",
            "frames and prompt are this framework's, not the official ones",
        ]
        pairs = self._read()[1]
        if pairs:
            names = ", ".join(name for name, _ in pairs)
            notes.append(f"{len(pairs)} questions about two videos excluded: {names}")
        if not all(i.target["concerns"] for i in items):
            without = sum(not i.target["concerns"] for i in items)
            notes.append(f"{without} of {len(items)} questions have no quality_concern and are in no concern column")
        return tuple(notes)
