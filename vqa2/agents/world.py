"""What surrounds a router or an agent: clip, experts, models, budget. Every look outside is on the tape.

Live, a `World` has a pool of experts, perhaps a chat client and perhaps a model of ours. In a replay it has none of
them and the tape answers; what they are is then known from the cards in the trace.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol

from annotated_types import Ge, Gt
from pydantic import BaseModel

from vqa2.agents import _chat, _media
from vqa2.agents._media import Box, FrameSpec
from vqa2.agents.item import Asked, Card
from vqa2.agents.roles import Prompt
from vqa2.agents.trace import Notes, Plain, StepFailed, Tape, spending
from vqa2.core.config import spec
from vqa2.core.llm import BadReply, Llm, Usage, parse
from vqa2.core.records import Kind
from vqa2.core.run import fingerprint
from vqa2.experts.base import Media
from vqa2.experts.pool import Pool


@spec
class Budget:
    """Bounds of one item, null for none: seconds of all calls together, experts run, tries at a chat model (a repaired
    reply is a second try). After the seconds no call begins; of those that have begun only experts are cut off."""

    seconds: Annotated[float, Gt(0)] | None
    experts: Annotated[int, Ge(0)] | None
    llm_calls: Annotated[int, Ge(0)] | None


class Voice(Protocol):
    """A model of ours, as the agents use it; `can` names the verbs below that it has a model for."""

    name: str
    can: tuple[str, ...]

    def levels(self, path: Path, kind: Kind, question: str | None) -> Sequence[float]:
        """Probabilities of the five levels, best first."""

    def options(self, path: Path, kind: Kind, question: str, replies: Sequence[str]) -> Sequence[float]:
        """Log-probability of each reply, whole."""

    def say(self, path: Path, kind: Kind, question: str) -> str:
        """A reply in words."""


class Gate(Protocol):
    """The learned router."""

    name: str

    def __call__(self, path: Path, kind: Kind, experts: Sequence[str]) -> Plain:
        """Of the experts that can rate this item: `weights` (by name, sum 1, the chosen ones alone), `content_type`,
        `uncertainty` (expected absolute error in MOS points, or null) and `note` (empty, or why one expert stands
        in). A user error where it knows none of them."""


class Localizer(Protocol):
    """Where and when artifacts are (tier 2). `name` changes whenever a finding could."""

    name: str

    def __call__(self, path: Path, kind: Kind) -> Plain:
        """`findings` (spans, boxes, severities, kinds) as plain JSON and their distinct `types`, strongest first."""


@dataclass(frozen=True, kw_only=True)
class Means:
    """What is there to ask; each name or identity changes whenever an answer could."""

    pool: Pool | None
    llm: Llm | None
    voice: Voice | None
    localizer: Localizer | None
    gate: Gate | None = None


@dataclass(kw_only=True)
class World:
    """One item's surroundings. `has_llm`, `reads_files` (the chat model opens the clip itself), `voices`,
    `has_localizer`, `has_gate` hold in a replay too, where `means` is None. `content`: hash of the clip, once its facts
    are known."""

    tape: Tape
    asked: Asked
    cards: dict[str, Card]
    budget: Budget
    frames: FrameSpec
    seed: int
    has_llm: bool
    reads_files: bool
    voices: tuple[str, ...]
    has_localizer: bool
    has_gate: bool
    tries: int
    means: Means | None
    content: str = ""
    notes: Notes = field(default_factory=Notes)
    readings: dict[tuple[str, Box | None], Plain | str] = field(default_factory=dict)

    def facts(self) -> Plain:
        """See `_media.facts`. StepFailed for an unreadable file, and for a reference that is unreadable or of another
        size. A note says which of reference and prompt no expert uses."""
        known = self._probed(self.asked.path)
        self.content = known["content"]
        if self.asked.reference is not None:
            other = self._probed(self.asked.reference)
            sizes = [f"{file['width']}x{file['height']}" for file in (other, known)]
            if sizes[0] != sizes[1]:
                raise StepFailed(
                    f"the reference is {sizes[0]}, the {self.asked.kind} {sizes[1]}; they must have one size"
                )
        cards = self.usable().values()
        unused = {
            "reference": self.asked.reference is not None and not any(card.reference for card in cards),
            "prompt": self.asked.prompt is not None and not any(card.prompt for card in cards),
        }
        for name in (name for name, so in unused.items() if so):
            self.notes.add(f"no expert uses the {name}: none that needs one is calibrated (docs/experts.md)")
        return known

    def usable(self) -> dict[str, Card]:
        """The experts that can rate this item, by name."""
        return {name: card for name, card in self.cards.items() if not card.why_not}

    def seconds_left(self) -> float | None:
        """None without a bound."""
        spent = sum(step.seconds for step in self.tape.steps)
        return None if self.budget.seconds is None else self.budget.seconds - spent

    def tool(self, name: str, box: Box | None = None) -> Plain:
        """The calibrated reading of one expert, asked for once. StepFailed with the reason where there is none: a
        crash, a time-out and a used-up budget are evidence, not the end."""
        key = (name, box)
        if key not in self.readings:
            self.readings[key] = self._tool(name, box)
        found = self.readings[key]
        if isinstance(found, str):
            raise StepFailed(found)
        return found

    def chat(self, prompt: Prompt, schema: type[BaseModel], *, see: bool = True) -> BaseModel:
        """One strict JSON reply of the chat model, which sees the clip's frames. StepFailed where there is none."""
        self._check_calls()
        messages = _chat.messages(prompt, self._shown(see))
        request = {
            "role": prompt.role,
            "messages": messages,
            "schema": fingerprint(schema.model_json_schema()),
            "seed": self.seed,
        }
        reply = self.tape.do("chat", request, lambda: self._chat(messages, schema))
        return parse(reply["text"], schema)

    def choose(self, prompt: Prompt, options: Sequence[str]) -> list[float | None]:
        """The chat model's log-probabilities of options (single words or letters)."""
        self._check_calls()
        messages = _chat.messages(prompt, self._shown(True))
        request = {"role": prompt.role, "messages": messages, "options": list(options)}
        return self.tape.do("options", request, lambda: self._choose(messages, options))["logprobs"]

    def levels(self, question: str | None) -> list[float]:
        """Our model's level probabilities, best first."""
        return self._voice("levels", {"question": question}, lambda v, p, k: list(v.levels(p, k, question)))

    def options(self, question: str, replies: Sequence[str]) -> list[float]:
        """Our model's log-probability of each reply."""
        request = {"question": question, "replies": list(replies)}
        return self._voice("options", request, lambda v, p, k: list(v.options(p, k, question, replies)))

    def say(self, question: str) -> str:
        """Our model's reply in words."""
        return self._voice("say", {"question": question}, lambda v, p, k: v.say(p, k, question))

    def gate(self) -> Plain:
        """What the learned router says. StepFailed for an unreadable file, where it knows no usable expert, and after
        the budget's seconds."""
        experts = sorted(self.usable())

        def call() -> Plain:
            assert self.means is not None
            assert self.means.gate is not None
            return self.means.gate(self.asked.path, self.asked.kind, experts)

        self._check_seconds()
        return self.tape.do("gate", {"path": str(self.asked.path), "experts": experts}, call)

    def localize(self) -> Plain:
        """The evidence of tier 2. StepFailed for an unreadable file, and after the budget's seconds."""

        def call() -> Plain:
            assert self.means is not None
            assert self.means.localizer is not None
            return self.means.localizer(self.asked.path, self.asked.kind)

        self._check_seconds()
        return self.tape.do("localize", {"path": str(self.asked.path)}, call)

    def _probed(self, path: Path) -> Plain:
        kind = self.asked.kind
        return self.tape.do("probe", {"path": str(path), "kind": kind}, lambda: _media.facts(path, kind))

    def _tool(self, name: str, box: Box | None) -> Plain | str:
        left, request = self.seconds_left(), {"expert": name, "box": box}
        try:
            self._check_experts()
            self._check_seconds()
            return self.tape.do("tool", request, lambda: self._run(name, box, left))
        except StepFailed as err:
            return err.reason

    def _run(self, name: str, box: Box | None, left: float | None) -> Plain:
        assert self.means is not None
        assert self.means.pool is not None
        asked = self.asked
        reference = None if asked.reference is None else Media(path=asked.reference, kind=asked.kind)
        with tempfile.TemporaryDirectory() as folder:
            path = asked.path if box is None else _media.crop(asked.path, asked.kind, box, Path(folder))
            if box is not None and asked.reference is not None:
                reference = Media(path=_cropped(asked.reference, asked.kind, box, folder), kind=asked.kind)
            media = Media(path=path, kind=asked.kind, id=asked.id if box is None else "")
            (reading,) = self.means.pool.run([name], media, reference, asked.prompt, left)
        known = {"raw": reading.raw, "parts": reading.parts, "outside": reading.outside, "score": reading.score}
        if reading.failure is not None:
            raise StepFailed(f"{reading.failure}: {reading.reason}", known)
        return known

    def _check_experts(self) -> None:
        """StepFailed once as many experts as may have run."""
        most = self.budget.experts
        if most is not None and sum(step.kind == "tool" for step in self.tape.steps) >= most:
            raise StepFailed(f"budget: {most} experts have run")

    def _check_seconds(self) -> None:
        """StepFailed once the time is used up."""
        left = self.seconds_left()
        if left is not None and left <= 0:
            raise StepFailed(f"budget: {self.budget.seconds:g} s are used up")

    def _check_calls(self) -> None:
        """Nothing is asked that could need more tries than are left, or after the time is used up."""
        self._check_seconds()
        if self.budget.llm_calls is None:
            return
        left = self.budget.llm_calls - spending(self.tape.steps)["llm_calls"]
        if left < self.tries:
            raise StepFailed(f"budget: a reply may take {self.tries} tries, {max(0, left)} are left")

    def _shown(self, see: bool) -> list[Plain]:
        """What of the clip goes along with a prompt."""
        return _chat.shown(self.frames, self.asked.reference is not None, self.reads_files) if see else []

    def _sent(self, messages: list[Plain]) -> list[Plain]:
        asked = self.asked
        return _chat.sent(messages, asked.path, asked.reference, asked.kind, self.frames, self.content)

    def _chat(self, messages: list[Plain], schema: type[BaseModel]) -> Plain:
        llm = self._llm()
        try:
            reply = llm.chat(self._sent(messages), schema, self.seed)
        except BadReply as err:
            raise StepFailed(str(err), {"rejected": [list(r) for r in err.rejected]}) from None
        return {
            "text": reply.text,
            "rejected": [list(r) for r in reply.rejected],
            "cached": reply.cached,
            **_paid(llm, reply.usage),
        }

    def _choose(self, messages: list[Plain], options: Sequence[str]) -> Plain:
        llm = self._llm()
        made = llm.choose(self._sent(messages), options)
        return {"logprobs": list(made.logprobs), "cached": made.cached, **_paid(llm, made.usage)}

    def _llm(self) -> Llm:
        assert self.means is not None
        assert self.means.llm is not None
        return self.means.llm

    def _voice(self, kind: Any, request: Plain, call: Callable[[Voice, Path, Kind], Any]) -> Any:
        def ask() -> Plain:
            assert self.means is not None
            assert self.means.voice is not None
            return {kind: call(self.means.voice, self.asked.path, self.asked.kind)}

        self._check_seconds()
        return self.tape.do(kind, request, ask)[kind]


def _cropped(path: Path, kind: Kind, box: Box, folder: str) -> Path:
    inner = Path(folder) / "reference"
    inner.mkdir()
    return _media.crop(path, kind, box, inner)


def _paid(llm: Llm, usage: Usage) -> Plain:
    price = llm.backend.price
    cost = None
    if price.prompt is not None and price.completion is not None:
        cost = (usage.prompt_tokens * price.prompt + usage.completion_tokens * price.completion) / 1e6
    return {"usage": asdict(usage), "cost": cost}
