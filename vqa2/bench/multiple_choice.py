"""Benchmark `multiple_choice`: questions about images with lettered options: Q-Bench (LLVisionQA) and AgenticIQA-Eval.

Accuracy per axis of the form, its unweighted mean over the axis, and over all questions. AgenticIQA prints the mean of
its four tracks as overall. Departs from Q-Bench, which lets GPT read replies: here a reply is read by its letter; an
unreadable one is wrong, counted and listed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from vqa2.bench._choice_records import Choice, Form, read_choices
from vqa2.bench._items import Grade, Item, Marks, check_file, errors, shorten
from vqa2.bench._parse import letter
from vqa2.core.config import register
from vqa2.core.prompts import LETTERS, closed_prompt
from vqa2.core.records import Answer, Metric, Query, Report

_QBENCH = "Choose between one of the options as follows:"


@register("benchmark", "multiple_choice")
class MultipleChoice:
    """`file` in the given `form`; `media_root`: folder of its images; `prepare`: the command that gets both, null where
    there is none. `prompt`: Q-Bench's own wording, or `plain`, which asks for the letter. `published_n`: questions
    behind published figures, null where nothing is published; `released`: whether those very questions can be had."""

    label: str
    prepare: str | None
    file: str
    media_root: str
    form: Form
    prompt: Literal["qbench", "plain"]
    published_n: Annotated[int, Ge(1)] | None
    released: bool
    batch_size: Annotated[int, Ge(1)]
    bootstrap: Annotated[int, Ge(0)]
    seed: Annotated[int, Ge(0)]

    def inputs(self) -> tuple[Path, ...]:
        """The file that decides what is asked and what is right."""
        return (Path(self.file),)

    def items(self) -> list[Item]:
        """One item per question, in the order of the file."""
        check_file(Path(self.file), self.prepare)
        return [self._item(c) for c in read_choices(Path(self.file), Path(self.media_root), self.form)]

    def report(self, items: Sequence[Item], answers: Sequence[Answer], predictor: str) -> Report:
        """Accuracies; where the right answers are withheld, nothing is graded and nothing counts as expected."""
        marks = Marks(self.bootstrap, self.seed)
        withheld = not items[0].target["choice"]
        counted = [] if withheld else list(zip(items, answers, strict=True))
        grades = [_grade(i, a.text) for i, a in counted if a.text is not None]
        unread = [(g.item.query.id, g.reason) for g in grades if g.reason]
        failures = [*((i.query.id, a.error) for i, a in counted if a.error is not None), *unread]
        axes = list(items[0].target["axes"])
        by = {axis: marks.by(grades, lambda i, axis=axis: [i.target["axes"][axis]]) for axis in axes}
        return Report(
            benchmark=self.label,
            predictor=predictor,
            metrics=(
                marks.mean("accuracy", grades),
                *(
                    marks.macro(f"mean over {axis}s", grades, lambda i, axis=axis: i.target["axes"][axis])
                    for axis in axes
                ),
                marks.parsed(grades),
            ),
            n_expected=len(counted),
            n_scored=len(counted) - len(failures),
            failures=tuple(failures),
            groups={f"accuracy by {axis}": made for axis, made in by.items()},
            notes=self._notes(withheld),
            deviations=self._deviations(len(items), withheld, len(errors(items, answers)), len(unread)),
            marks={g.item.query.id: g.mark for g in grades if g.mark is not None},
        )

    def compare(self, items: Sequence[Item], answers: Sequence[Answer], others: Sequence[Answer]) -> tuple[Metric, ...]:
        """Accuracies of `answers` minus those of `others`, on the items that both answered."""
        if not items[0].target["choice"]:
            return ()
        first, second = (
            [_grade(i, a.text) for i, a in zip(items, some, strict=True) if a.text is not None]
            for some in (answers, others)
        )
        axes = {
            f"accuracy by {axis}": lambda i, axis=axis: [i.target["axes"][axis]] for axis in items[0].target["axes"]
        }
        return Marks(self.bootstrap, self.seed).differences("accuracy", first, second, axes)

    def _item(self, choice: Choice) -> Item:
        question = closed_prompt(choice.text, choice.options, "letter")
        if self.prompt == "qbench":
            options = "".join(f"{name}. {option}\n" for name, option in zip(LETTERS, choice.options))
            question = f"<video>\n{choice.text}\n{_QBENCH}\n{options}"
        query = Query(
            id=choice.id,
            path=choice.path,
            second=choice.second,
            pristine=choice.second is not None,
            kind="image",
            question=question,
        )
        target = {
            "axes": dict(choice.axes),
            "options": choice.options,
            "choice": choice.choice,
            "reference": choice.options[LETTERS.index(choice.choice)] if choice.choice else "",
            "question": choice.text,
            "chance": 1 / len(choice.options),
        }
        return Item(query=query, mode="answer", target=target)

    def _notes(self, withheld: bool) -> tuple[str, ...]:
        notes = ["answered by letter; unreadable replies count as wrong"]
        if withheld:
            notes.append("the file holds no right answers: nothing is graded, the replies are in the answers file")
        return tuple(notes)

    def _deviations(self, asked: int, withheld: bool, failed: int, unread: int) -> tuple[str, ...]:
        """Why the figures are not comparable with published ones; `unread`: replies that name no letter."""
        found = [] if self.released else ["not the paper's questions, which are not released"]
        if self.published_n is not None and asked != self.published_n:
            found.append(f"{asked} questions, published on {self.published_n}")
        if withheld:
            found.append("answers are withheld")
        if failed:
            found.append(f"{failed} questions not answered")
        if self.form == "llvisionqa" and self.prompt == "plain":
            found.append("prompt=plain is not the published prompt")
        if self.form == "llvisionqa" and unread:
            found.append(f"{unread} replies that name no letter count as wrong, published ones were read by GPT")
        return tuple(found)


def _grade(item: Item, text: str) -> Grade:
    found = letter(text, len(item.target["options"]))
    reason = "" if found else f"unparseable reply: {shorten(text)!r}"
    return Grade(item, float(found == item.target["choice"]), reason)
