"""The questions of the embedded data: one bank for the understanding set, the language base and the benchmark.

A `Facts` describes one clip in the words of the answers; every question is a pure function of facts, the distortions of
the clips it is asked about and a generator. What a question's text alone gives away is kept close to chance, see
docs/data.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep._degrade import COLOR, NAMES, TEMPORAL
from data_prep._scene import CAMERAS
from vqa2.core.records import Clip
from vqa2.core.scale import LEVELS, level_of, mos_to_acr

SEVERITIES = ("slight", "moderate", "strong")
ORIGINS = {"natural": "photographed", "CG": "computer-generated"}
BINARY, CHOICE, OPEN = "yes-or-no", "what/how", "open_ended"
PRESENCE = 0.75
"""Share of the yes-or-no questions that ask for a distortion; the others ask for the origin."""
ALIKE = {
    "compression artifact": ("block effect", "spatial blur"),
    "block effect": ("compression artifact", "spatial blur"),
    "low contrast": ("desaturation",),
    "high contrast": ("oversaturation",),
}
"""What a distortion also looks like: about that, the answer would be neither yes nor no."""


@dataclass(frozen=True)
class Facts:
    """What is known of a clip; `distortion` and `severity` are empty for a clean one."""

    distortion: str
    severity: str
    level: str
    acr: float
    camera: str
    origin: str
    color: bool

    @property
    def depiction(self) -> str:
        if not self.distortion:
            return "The video shows no distortion."
        return f"The video shows {self.severity} {self.distortion}."


@dataclass(frozen=True)
class Question:
    """`options` is empty for open questions; `answer` is an option or the reference text."""

    kind: str
    concern: str
    text: str
    options: tuple[str, ...]
    answer: str


def severity_of(strength: float) -> str:
    """Thirds of the strength range."""
    return SEVERITIES[min(2, int(strength * 3))]


def facts_of(clip: Clip) -> Facts:
    """The facts of an annotated video clip."""
    assert clip.mos is not None
    first = clip.distortions[0] if clip.distortions else None
    return Facts(
        distortion=first.name if first else "",
        severity=severity_of(first.strength) if first else "",
        level=level_of(clip.mos),
        acr=mos_to_acr(clip.mos),
        camera=clip.tags.get("camera", ""),
        origin=clip.tags.get("origin", ""),
        color=clip.tags.get("color") == "yes",
    )


def random_facts(rng: np.random.Generator) -> Facts:
    """Facts of no particular clip; about one in ten is clean."""
    clean = rng.random() < 0.1
    level = int(rng.integers(5))
    return Facts(
        distortion="" if clean else str(rng.choice(NAMES)),
        severity="" if clean else str(rng.choice(SEVERITIES)),
        level=LEVELS[4 - level],
        acr=float(1 + 0.8 * (level + rng.random())),
        camera=str(rng.choice(CAMERAS)),
        origin=str(rng.choice(list(ORIGINS))),
        color=True,
    )


def concern_of(distortion: str) -> str:
    return "Temporal" if distortion in TEMPORAL else "Technical"


def names_in(clips: Sequence[Clip]) -> list[str]:
    """The distortion of every clip that has one, repetitions kept: `ask` takes its "no" distortions from here."""
    return [c.distortions[0].name for c in clips if c.distortions]


def ask(kind: str, facts: Facts, names: Sequence[str], rng: np.random.Generator) -> Question | None:
    """A random question of a kind; None where the facts do not answer the one that was drawn.

    `names`: distortions of the clips that are asked about (`names_in`). Drawing the absent distortion in their
    proportions makes yes and no about equally frequent for each distortion, whatever the mixture of clips is.
    """
    if kind == BINARY and rng.random() < PRESENCE:
        return _has(facts, names, rng)
    bank = _BANK[kind]
    return bank[int(rng.integers(len(bank)))](facts, names, rng)


def draw(
    kind: str, facts: Facts, names: Sequence[str], rng: np.random.Generator, asked: set[str], wanted: str | None = None
) -> Question | None:
    """A question whose text is not in `asked` (and then is), with the answer `wanted` where one is; None if 64 random
    ones were not like that."""
    for _ in range(64):
        question = ask(kind, facts, names, rng)
        if question is not None and question.text not in asked and wanted in (None, question.answer):
            asked.add(question.text)
            return question
    return None


def _shuffled(options: list[str], rng: np.random.Generator) -> tuple[str, ...]:
    return tuple(str(x) for x in rng.permutation(options))


def _has(facts: Facts, names: Sequence[str], rng: np.random.Generator) -> Question | None:
    """Is a distortion there? Half the time the clip's own, else one that it neither has nor seems to have."""
    yes = bool(facts.distortion) and rng.random() < 0.5
    seen = (facts.distortion, *ALIKE.get(facts.distortion, ()), *(() if facts.color else COLOR))
    absent = [n for n in names if n not in seen]
    if not yes and not absent:
        return None
    asked = facts.distortion if yes else absent[int(rng.integers(len(absent)))]
    options = _shuffled(["Yes", "No"], rng)
    return Question(BINARY, concern_of(asked), f"Is there {asked} in this video?", options, "Yes" if yes else "No")


def _photographed(facts: Facts, names: Sequence[str], rng: np.random.Generator) -> Question | None:
    if not facts.origin:
        return None
    yes = facts.origin == "natural"
    text = "Is this scene photographed?"
    return Question(BINARY, "Other", text, _shuffled(["Yes", "No"], rng), "Yes" if yes else "No")


def _main(facts: Facts, names: Sequence[str], rng: np.random.Generator) -> Question | None:
    if not facts.distortion:
        return None
    # Frequent distortions are frequent wrong options, too.
    others = dict.fromkeys([*rng.permutation(names), *rng.permutation(NAMES)])
    wrong = [str(n) for n in others if n != facts.distortion][:3]
    options = _shuffled([facts.distortion, *wrong], rng)
    text = "What is the main distortion of this video?"
    return Question(CHOICE, concern_of(facts.distortion), text, options, facts.distortion)


def _how_good(facts: Facts, names: Sequence[str], rng: np.random.Generator) -> Question:
    wrong = [str(x) for x in rng.choice([n for n in LEVELS if n != facts.level], 3, replace=False)]
    text = "How is the overall quality of this video?"
    return Question(CHOICE, concern_of(facts.distortion), text, _shuffled([facts.level, *wrong], rng), facts.level)


def _how_strong(facts: Facts, names: Sequence[str], rng: np.random.Generator) -> Question | None:
    if not facts.distortion:
        return None
    text = "How strong is the main distortion of this video?"
    return Question(CHOICE, concern_of(facts.distortion), text, _shuffled(list(SEVERITIES), rng), facts.severity)


def _camera(facts: Facts, names: Sequence[str], rng: np.random.Generator) -> Question | None:
    # A held or shaken picture hides how the camera was meant to move.
    if facts.distortion in TEMPORAL or not facts.camera:
        return None
    text = "How does the camera move in this video?"
    return Question(CHOICE, "Other", text, _shuffled(list(CAMERAS), rng), facts.camera)


def _what_degrades(facts: Facts, names: Sequence[str], rng: np.random.Generator) -> Question | None:
    if not facts.distortion:
        return None
    text = "What degrades the quality of this video most?"
    answer = f"{facts.severity.capitalize()} {facts.distortion} degrades this video."
    return Question(OPEN, concern_of(facts.distortion), text, (), answer)


def _describe(facts: Facts, names: Sequence[str], rng: np.random.Generator) -> Question:
    """The overall depiction and its causal conclusion (VQA², stage 3)."""
    text = "Describe the quality of this video."
    answer = f"{facts.depiction} Hence, the quality of this video is {facts.level}."
    return Question(OPEN, concern_of(facts.distortion), text, (), answer)


_BANK = {
    BINARY: (_photographed,),
    CHOICE: (_main, _main, _how_good, _how_strong, _camera),
    OPEN: (_what_degrades, _describe),
}


def reasoned(facts: Facts) -> str:
    """The reply form that GRPO asks for: reasoning, then the number (ACR scale, two decimals)."""
    return f"<think>{facts.depiction} The quality is {facts.level}.</think><answer>{facts.acr:.2f}</answer>"
