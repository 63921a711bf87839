"""Set `base`: text-only rows that give a language model with random weights the skills a downloaded one has.

Words stand where the clip would be; the questions and reply forms are those of all other sets. Facts are drawn at
random: nothing in this set says anything about a clip.
"""

from typing import Annotated

import numpy as np
from annotated_types import Ge, Interval

from data_prep._degrade import NAMES, TEMPORAL
from data_prep._questions import BINARY, CHOICE, OPEN, Facts, ask, random_facts, reasoned
from data_prep._write import rng_of
from data_prep.sets.understanding import prompt_of
from vqa2.core.config import register
from vqa2.core.prompts import REASON_QUESTION, SCORE_PREFIX, SCORE_QUESTION
from vqa2.core.records import Clip, Instruction, Turn


@register("set", "base")
class Base:
    """`rows` per split (train, test); `repeats`: up to so many words are said again; question shares per form;
    `spatial`, `temporal`, `answer` as in the set `distortion`; `reply` as in `understanding`."""

    rows: tuple[Annotated[int, Ge(0)], Annotated[int, Ge(0)]]
    repeats: Annotated[int, Ge(0)]
    shares: dict[str, Annotated[float, Interval(ge=0, le=1)]]
    spatial: str
    temporal: str
    answer: str
    reply: str

    def write(self, clips: list[Clip], seed: int) -> dict[str, list[Instruction]]:
        return {split: self._rows(split, count, seed) for split, count in zip(("train", "test"), self.rows)}

    def _rows(self, split: str, count: int, seed: int) -> list[Instruction]:
        out = []
        forms, shares = list(self.shares), np.array(list(self.shares.values()))
        for number in range(count):
            rng = rng_of(seed, "base", split, str(number))
            user = None
            while user is None:
                facts = random_facts(rng)
                user, answer = self._ask(str(rng.choice(forms, p=shares / shares.sum())), facts, rng)
            told = user.replace("<video>", self._words(facts, rng))
            out.append(
                Instruction(
                    id=f"{split}-{number:05d}",
                    clip_id="",
                    kind="text",
                    media=None,
                    task="base",
                    turns=(Turn(user=told, assistant=answer),),
                    tags={"split": split},
                )  # fmt: skip
            )
        return out

    def _ask(self, form: str, facts: Facts, rng: np.random.Generator) -> tuple[str | None, str]:
        if form == "distortion":
            if not facts.distortion:
                return None, ""
            user = self.temporal if facts.distortion in TEMPORAL else self.spatial
            return user, self.answer.format(name=facts.distortion)
        if form == "scoring":
            return SCORE_QUESTION, f"{SCORE_PREFIX} {facts.level}."
        if form == "reasoned":
            return REASON_QUESTION, reasoned(facts)
        question = ask({"binary": BINARY, "choice": CHOICE, "open": OPEN}[form], facts, NAMES, rng)
        return (None, "") if question is None else prompt_of(question, self.reply)

    def _words(self, facts: Facts, rng: np.random.Generator) -> str:
        words = [f"{facts.severity} {facts.distortion}".strip() or "clean", facts.level, facts.camera, facts.origin]
        words += [str(w) for w in rng.choice(words, int(rng.integers(0, self.repeats + 1)))]
        return " ".join(str(w) for w in rng.permutation(words))
