"""Human depictions -> question-answer rows (VQA², section 3.4): binary, choice, open, temporal, causal, conversation.

Departs from the paper, which used GPT and publishes no prompts: a pair is checked before it is used
(data_prep/_pairs.py), letters are dealt evenly, and without a language model (`llm=rules`, the default) word lists
write the pairs. Closed rows are answered "B. text", as the released rows are. Causal rows are the depiction and the
level, as in the paper's figure.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Interval
from rich.console import Console

from data_prep._dealer import Dealer
from data_prep._depictions import FAILED, Job, told, write_all
from data_prep._files import Parts, write_whole
from data_prep._lexicon import Lexicon
from data_prep._pairs import KINDS, Limits, Pair, Pairs, pairs_of, plain, refusal
from data_prep._rules import RulesWriter
from vqa2.core.config import spec
from vqa2.core.errors import ConfigError
from vqa2.core.llm import BadReply, Reply, Request, open_llm
from vqa2.core.prompts import LETTERS, open_prompt
from vqa2.core.records import Depiction, Instruction, Turn
from vqa2.core.run import fingerprint, git_state, sha256_of
from vqa2.core.scale import level_of

ALL_KINDS = (*KINDS, "causal")


@spec
class Causal:
    """`answer` is a format of overall and level."""

    question: str
    answer: str


@spec
class Prompt:
    """`user` is a format of overall, in_context, level, distractors and the counts of the kinds."""

    system: str
    user: str


@spec
class ExtendRun:
    """`depictions` -> `out`/extended.jsonl and a manifest; see conf/extend.yaml."""

    depictions: str
    out: str
    cache: str
    seed: Annotated[int, Ge(0)]
    llm: dict[str, Any]
    lexicon: Lexicon
    counts: dict[str, Annotated[int, Ge(0)]]
    distractors: Annotated[int, Interval(ge=1, le=7)]
    limits: Limits
    causal: Causal
    max_cost: Annotated[float, Ge(0)] | None
    give_up_after: Annotated[int, Ge(1)]
    tolerate: Annotated[int, Ge(0)]
    prompt: Prompt

    def __post_init__(self) -> None:
        if set(self.counts) != set(ALL_KINDS):
            raise ConfigError(f"extend.counts: needs exactly {', '.join(ALL_KINDS)}, got {', '.join(self.counts)}")
        if self.counts["conversation"] > 1:
            raise ConfigError("extend.counts.conversation: 0 or 1 per depiction")


def extend(run: ExtendRun, console: Console) -> dict[str, Any]:
    """Writes rows, refused pairs and the manifest, which it returns. DataError where depictions stay without an
    answer."""
    rules = RulesWriter(run.lexicon, run.counts, run.distractors, run.limits.turns, run.seed)
    job = Job(
        depictions=Path(run.depictions),
        llm=open_llm(run.llm, Path(run.cache), "llm"),
        request_of=partial(request_of, run),
        by_rules=rules.write,
        max_cost=run.max_cost,
        give_up_after=run.give_up_after,
        tolerate=run.tolerate,
    )
    files = ("extended.jsonl", "rejected.jsonl", FAILED)
    with Parts(Path(run.out), files) as parts:
        tally = _Tally(run, parts)
        total, failed = write_all(job, parts, tally.add, console)
        parts.keep(*files)
    manifest = tally.manifest(total, failed)
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    write_whole(Path(run.out) / "extended.manifest.json", text)
    return manifest


def request_of(run: ExtendRun, depiction: Depiction) -> Request:
    """What a language model is asked about one depiction."""
    counts = {kind: run.counts[kind] for kind in KINDS}
    user = run.prompt.user.format(**told(depiction), distractors=run.distractors, **counts)
    messages = ({"role": "system", "content": run.prompt.system}, {"role": "user", "content": user})
    return Request(messages=messages, schema=Pairs, seed=run.seed)


class _Tally:
    """Writes rows and counts what becomes of every pair."""

    def __init__(self, run: ExtendRun, parts: Parts) -> None:
        self.run, self.parts = run, parts
        self.dealer = Dealer(run.seed, "extend")
        self.got: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.without: Counter[str] = Counter()
        self.places: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()

    def add(self, depiction: Depiction, outcome: Reply | BadReply) -> None:
        """Rows of one depiction; refused replies and pairs go to rejected.jsonl."""
        for text, reason in outcome.rejected:
            self._refuse(depiction, "reply", text, f"not the schema: {reason}")
        if isinstance(outcome, Reply):
            self.tokens.update({"prompt": outcome.usage.prompt_tokens, "completion": outcome.usage.completion_tokens})
            self._pairs(depiction, outcome.parsed)
        self._causal(depiction)

    def _pairs(self, depiction: Depiction, reply: Pairs) -> None:
        taken: Counter[str] = Counter()
        asked: set[str] = set()
        for pair in pairs_of(reply):
            reason = refusal(pair, self.run.limits, self.run.lexicon)
            if not reason and pair.kind != "conversation" and plain(pair.question) in asked:
                reason = "the question was asked already"
            if not reason and taken[pair.kind] == self.run.counts[pair.kind]:
                reason = f"more than the {self.run.counts[pair.kind]} asked for"
            if reason:
                self._refuse(depiction, pair.kind, asdict(pair), reason)
                continue
            taken[pair.kind] += 1
            asked.add(plain(pair.question))
            self._write(depiction, pair, taken[pair.kind])
        for kind in KINDS:
            self.without[kind] += self.run.counts[kind] - taken[kind]

    def _write(self, depiction: Depiction, pair: Pair, number: int) -> None:
        if pair.turns:
            first, *rest = (Turn(user=question, assistant=answer) for question, answer in pair.turns)
            turns = (Turn(user=open_prompt(first.user), assistant=first.assistant), *rest)
        elif pair.options:
            options, place = self.dealer.deal(pair.kind, pair.options)
            self.places[f"{len(options)} options, {LETTERS[place]}"] += 1
            self.answers[pair.answer] += pair.kind == "binary"
            listed = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, options))
            turns = (
                Turn(user=f"{open_prompt(pair.question)}\n{listed}", assistant=f"{LETTERS[place]}. {options[place]}"),
            )
        else:
            turns = (Turn(user=open_prompt(pair.question), assistant=pair.answer),)
        self._row(depiction, pair.kind, number, turns)

    def _causal(self, depiction: Depiction) -> None:
        if not self.run.counts["causal"]:
            return
        if depiction.mos is None:
            self.without["causal"] += 1
            return
        answer = self.run.causal.answer.format(overall=depiction.overall.strip(), level=level_of(depiction.mos))
        turn = Turn(user=open_prompt(self.run.causal.question), assistant=answer)
        self._row(depiction, "causal", 1, (turn,))

    def _row(self, depiction: Depiction, kind: str, number: int, turns: tuple[Turn, ...]) -> None:
        self.got[kind] += 1
        made = Instruction(
            id=f"{depiction.id}-{kind}-{number}",
            clip_id=depiction.clip_id,
            kind=depiction.kind,
            media=depiction.media,
            task="understanding",
            turns=turns,
            mos=depiction.mos,
            tags={**depiction.tags, "question_type": kind, "writer": self.run.llm["name"]},
        )
        self.parts.write("extended.jsonl", asdict(made))

    def _refuse(self, depiction: Depiction, kind: str, what: Any, reason: str) -> None:
        self.refused[_class_of(reason)] += 1
        row: Mapping[str, Any] = {"depiction": depiction.id, "kind": kind, "what": what, "reason": reason}
        self.parts.write("rejected.jsonl", row)

    def manifest(self, total: int, failed: int) -> dict[str, Any]:
        """Counts of everything; no times, so that equal runs give equal files."""
        shape = {key: value for key, value in self.run.llm.items() if key not in ("concurrency", "timeout_s")}
        return {
            "set": "extended",
            "depictions": total,
            "failed": failed,
            "rows": sum(self.got.values()),
            "kinds": dict(self.got),
            "expected": {kind: count * (total - failed) for kind, count in self.run.counts.items()},
            "not written": {kind: count for kind, count in self.without.items() if count},
            "refused": dict(self.refused),
            "right answers at": dict(self.places),
            "binary answers": dict(self.answers),
            "tokens": dict(self.tokens),
            "llm": shape,
            "seed": self.run.seed,
            "config": fingerprint([self.run.counts, asdict(self.run.lexicon), asdict(self.run.limits),
                                   asdict(self.run.prompt), asdict(self.run.causal)]),
            "git": git_state(),
            "depictions_sha256": sha256_of(Path(self.run.depictions)),
            "sha256": {"extended.jsonl": sha256_of(Path(self.run.out) / "extended.jsonl")},
        }  # fmt: skip


def _class_of(reason: str) -> str:
    """A reason without what is particular to one pair."""
    return reason.split("'")[0].split(":")[0].strip()
