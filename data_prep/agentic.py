"""Depictions -> instruction rows for AgenticIQA's roles (AgenticIQA-200K, sections 3.3 and B): planner, executor
(detection, analysis, tool selection) and summarizer, in the JSON of the paper's inference prompts.

Departs from the paper, which has GPT-4o write everything and publishes no rows: a writer gives issues and queries with
answers, which are checked; plans and tool choices follow from rules (data_prep/_plans.py). Nothing runs a tool here:
tool scores come from a file, and a query that names a tool without a known score gets no summary. Planner and
tool-selection rows are text alone, because neither reads the picture.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Interval
from rich.console import Console

from data_prep._dealer import Dealer
from data_prep._depictions import FAILED, Job, told, write_all
from data_prep._files import Parts, sha256_of, write_whole
from data_prep._lexicon import Lexicon
from data_prep._pairs import Limits, plain
from data_prep._plans import Library, by_object, plan_of, selected
from data_prep._trace_rules import TraceRules, Wording
from data_prep._traces import UNSTATED, Asked, Issue, Seen, Traces, issue_refusal, query_of, query_refusal, relevant
from data_prep._write import rng_of
from vqa2.core.config import spec
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.llm import BadReply, Reply, Request, open_llm
from vqa2.core.prompts import LETTERS
from vqa2.core.records import Depiction, Instruction, Turn
from vqa2.core.run import fingerprint, git_state

ROLES = {"planner": "planner", "detection": "executor", "analysis": "executor", "selection": "executor",
         "summarizer": "summarizer"}  # fmt: skip
"""Subtask -> role."""
SPLITS = ("train", "test")
Scores = dict[tuple[str, str], float]
"""(clip id, tool) -> score on 1-5."""


@spec
class Prompt:
    """What a language model is asked; `user` is a format, see conf/agentic.yaml."""

    system: str
    user: str


@spec
class AgenticRun:
    """`depictions` -> `out`/{planner,executor,summarizer}.<split>.jsonl and a manifest; see conf/agentic.yaml."""

    depictions: str
    out: str
    cache: str
    seed: Annotated[int, Ge(0)]
    llm: dict[str, Any]
    lexicon: Lexicon
    tools: Library
    queries: Annotated[int, Ge(1)]
    reference_share: Annotated[float, Interval(ge=0, le=1)]
    scores: str | None
    limits: Limits
    wording: Wording
    roles: dict[str, str]
    max_cost: Annotated[float, Ge(0)] | None
    give_up_after: Annotated[int, Ge(1)]
    tolerate: Annotated[int, Ge(0)]
    prompt: Prompt

    def __post_init__(self) -> None:
        if set(self.roles) != set(ROLES):
            raise ConfigError(f"agentic.roles: needs exactly {', '.join(ROLES)}, got {', '.join(self.roles)}")
        unknown = sorted(set(self.tools.known_as) - set(self.lexicon.attributes))
        if unknown:
            raise ConfigError(f"agentic.tools.known_as.{unknown[0]}: no attribute of the lexicon")


def agentic(run: AgenticRun, console: Console) -> dict[str, Any]:
    """Writes rows, what was refused and the manifest, which it returns. DataError where depictions stay without an
    answer."""
    rules = TraceRules(run.lexicon, run.tools, run.wording, run.queries, run.seed)
    job = Job(
        depictions=Path(run.depictions),
        llm=open_llm(run.llm, Path(run.cache), "llm"),
        request_of=partial(request_of, run),
        by_rules=rules.write,
        max_cost=run.max_cost,
        give_up_after=run.give_up_after,
        tolerate=run.tolerate,
    )
    scores = read_scores(Path(run.scores), run.tools) if run.scores is not None else {}
    out, sets = Path(run.out), [f"{role}.{split}.jsonl" for role in dict.fromkeys(ROLES.values()) for split in SPLITS]
    with Parts(out, [*sets, "rejected.jsonl", FAILED]) as parts:
        rows = _Rows(run, scores, parts)
        total, failed = write_all(job, parts, rows.add, console)
        parts.keep(*rows.written, "rejected.jsonl", FAILED)
    for name in set(sets).difference(rows.written):
        (out / name).unlink(missing_ok=True)
    manifest = {**rows.manifest(), "depictions": total, "failed": failed}
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    write_whole(Path(run.out) / "agentic.manifest.json", text)
    return manifest


def request_of(run: AgenticRun, depiction: Depiction) -> Request:
    """What a language model is asked about one depiction."""
    user = run.prompt.user.format(
        **told(depiction),
        queries=run.queries,
        attributes=", ".join(run.lexicon.attributes),
        tools=", ".join(run.tools.tools),
    )
    system = run.prompt.system.format(kind=depiction.kind)
    messages = ({"role": "system", "content": system}, {"role": "user", "content": user})
    return Request(messages=messages, schema=Traces, seed=run.seed)


def read_scores(path: Path, library: Library) -> Scores:
    """Tool scores by clip and tool. DataError names file and line of the first bad one."""
    found: Scores = {}
    if not path.is_file():
        raise DataError(f"{path}: no such file of tool scores")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                clip, tool, score = str(row["clip_id"]), str(row["tool"]), float(row["score"])
            except (ValueError, KeyError, TypeError):
                raise DataError(f"{path}:{number}: clip_id, tool and score are needed") from None
            if tool not in library.tools or not 1 <= score <= 5:
                raise DataError(f"{path}:{number}: {tool} {score}: a tool of the library and a score on 1-5 are needed")
            found[clip, tool] = score
    return found


class _Rows:
    """Writes the rows of every depiction and counts what becomes of issues, queries and subtasks."""

    def __init__(self, run: AgenticRun, scores: Scores, parts: Parts) -> None:
        self.run, self.scores, self.parts = run, scores, parts
        self.dealer = Dealer(run.seed, "agentic")
        self.got: Counter[str] = Counter()
        self.written: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.without: Counter[str] = Counter()
        self.places: Counter[str] = Counter()
        self.yes_no: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()

    def add(self, depiction: Depiction, outcome: Reply | BadReply) -> None:
        """Rows of one depiction; refused replies, issues and queries go to rejected.jsonl."""
        for text, reason in outcome.rejected:
            self._refuse(depiction, "reply", text, f"not the schema: {reason}")
        if isinstance(outcome, BadReply):
            return
        self.tokens.update({"prompt": outcome.usage.prompt_tokens, "completion": outcome.usage.completion_tokens})
        traces: Traces = outcome.parsed
        issues = []
        for issue in traces.issues:
            reason = issue_refusal(issue, self.run.limits, self.run.lexicon)
            if reason:
                self._refuse(depiction, "issue", issue.model_dump(), reason)
            else:
                issues.append(issue)
        seen: set[str] = set()
        for asked in traces.queries:
            reason = query_refusal(asked, self.run.limits, self.run.lexicon, self.run.tools)
            if not reason and plain(asked.query) in seen:
                reason = "the query was asked already"
            if not reason and len(seen) == self.run.queries:
                reason = f"more than the {self.run.queries} asked for"
            if reason:
                self._refuse(depiction, "query", asked.model_dump(), reason)
                continue
            seen.add(plain(asked.query))
            self._trace(depiction, asked, issues, len(seen))
        self.without["queries"] += self.run.queries - len(seen)

    def _trace(self, depiction: Depiction, asked: Asked, issues: Sequence[Issue], number: int) -> None:
        """All rows of one query."""
        query, told = query_of(asked, self.run.lexicon), self.run.roles
        rng = rng_of(self.run.seed, "agentic", depiction.id, str(number), "reference")
        modes = [self.run.tools.tools[name].reference for name in asked.tools]
        reference = any(modes) if modes else bool(rng.random() < self.run.reference_share)
        made = plan_of(query, reference)
        given = "given" if reference else "not given"
        row = partial(self._row, depiction, number)
        row("planner", told["planner"].format(query=query.text, reference=given), made, text=True)
        about = relevant(asked, issues, self.run.lexicon) if query.kind == "IQA" else []
        there = [seen for seen in about if seen.severity != "none"]
        if made["plan"]["distortion_detection"] and there:
            categories = ", ".join(dict.fromkeys(a.category for a in self.run.lexicon.attributes.values()))
            user = told["detection"].format(query=query.text, categories=categories)
            row("detection", user, {"distortion_set": _grouped(there)})
        analysis = self._analysis(about)
        if analysis is not None:
            user = told["analysis"].format(query=query.text, distortions=_json(_grouped(about)))
            row("analysis", user, {"distortion_analysis": analysis})
        if made["plan"]["tool_selection"]:
            self._selection(row, there, reference)
        self._summary(row, depiction, asked, analysis, about)

    def _analysis(self, about: Sequence[Seen]) -> dict[str, Any] | None:
        """None where there is nothing to analyze or a severity is not stated."""
        if not about:
            return None
        if any(seen.severity == UNSTATED for seen in about):
            self.without["analysis: a severity is not stated"] += 1
            return None
        made: dict[str, list[dict[str, str]]] = {}
        for seen in about:
            entry = {"type": seen.category, "severity": seen.severity, "explanation": seen.explanation}
            made.setdefault(seen.object, []).append(entry)
        return made

    def _selection(self, row: Any, there: Sequence[Seen], reference: bool) -> None:
        library = self.run.tools
        tools = selected({seen.attribute: seen.category for seen in there}, library, reference)
        if not tools:
            self.without["selection: no tool is said to suit"] += bool(there)
            return
        listed = "\n".join(f"- {name}: {library.describe(name)}" for name in library.mode(reference))
        # With what strengths call them: a category has several distortions that other tools are best at.
        named = [f"{s.category} ({library.known_as[s.attribute]})" for s in there if s.category in tools]
        user = self.run.roles["selection"].format(distortions=_json(by_object((), named)), tools=listed)
        row("selection", user, {"selected_tools": {"Global": tools}}, text=True)

    def _summary(
        self, row: Any, depiction: Depiction, asked: Asked, analysis: dict[str, Any] | None, about: Sequence[Seen]
    ) -> None:
        if not asked.answer:
            self.without["summarizer: the answer is not known"] += 1
            return
        if about and analysis is None:
            self.without["summarizer: a severity is not stated"] += 1
            return
        tools = selected({s.attribute: s.category for s in about if s.severity != "none"}, self.run.tools, False)
        wanted = dict.fromkeys(asked.tools or tools.values())
        known = {
            tool: self.scores[depiction.clip_id, tool] for tool in wanted if (depiction.clip_id, tool) in self.scores
        }
        if asked.tools and len(known) < len(wanted):
            self.without["summarizer: no score of the named tool is known"] += 1
            return
        query, answer = asked.query, asked.answer
        if asked.distractors:
            query, answer = self._dealt(asked)
        user = self.run.roles["summarizer"].format(query=query, analysis=_json(analysis or {}), scores=_json(known))
        row("summarizer", user, {"final_answer": answer, "quality_reasoning": asked.reasoning})

    def _dealt(self, asked: Asked) -> tuple[str, str]:
        """The query with lettered options, and the right letter. Grades keep their order, as in the paper."""
        options = (asked.answer, *asked.distractors)
        grades = tuple(reversed(self.run.wording.grades))
        if set(options) == set(grades):
            dealt, place = grades, grades.index(asked.answer)
        else:
            dealt, place = self.dealer.deal("query", options)
            self.places[f"{len(options)} options, {LETTERS[place]}"] += 1
        if set(options) == {"Yes", "No"}:
            self.yes_no[asked.answer] += 1
        listed = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, dealt))
        return f"{asked.query}\n{listed}", LETTERS[place]

    def _row(
        self, depiction: Depiction, number: int, subtask: str, user: str, reply: dict[str, Any], *, text: bool = False
    ) -> None:
        role, split = ROLES[subtask], depiction.tags.get("split", "train")
        if split not in SPLITS:
            raise DataError(
                f"{self.run.depictions}: {depiction.id}: tags.split {split!r} is none of {', '.join(SPLITS)}"
            )
        name = f"{role}.{split}.jsonl"
        self.got[subtask] += 1
        self.written[name] += 1
        made = Instruction(
            id=f"{depiction.id}-{number}-{subtask}",
            clip_id=depiction.clip_id,
            kind="text" if text else depiction.kind,
            media=None if text else depiction.media,
            task=role,
            turns=(Turn(user=user if text else f"<video>\n{user}", assistant=_json(reply)),),
            mos=depiction.mos,
            tags={**depiction.tags, "subtask": subtask, "writer": self.run.llm["name"]},
        )
        self.parts.write(name, asdict(made))

    def _refuse(self, depiction: Depiction, kind: str, what: Any, reason: str) -> None:
        self.refused[reason.split("'")[0].split(":")[0].strip()] += 1
        self.parts.write("rejected.jsonl", {"depiction": depiction.id, "kind": kind, "what": what, "reason": reason})

    def manifest(self) -> dict[str, Any]:
        """Counts of everything; no times, so that equal runs give equal files."""
        run = self.run
        roles: Counter[str] = Counter()
        for subtask, count in self.got.items():
            roles[ROLES[subtask]] += count
        values = [run.queries, run.reference_share, asdict(run.lexicon), asdict(run.tools), asdict(run.limits),
                  asdict(run.wording), run.roles, asdict(run.prompt)]  # fmt: skip
        files = {name: sha256_of(Path(run.out) / name) for name in sorted(self.written)}
        return {
            "set": "agentic",
            "rows": dict(roles),
            "subtasks": dict(self.got),
            "not written": {what: count for what, count in self.without.items() if count},
            "refused": dict(self.refused),
            "right answers at": dict(self.places),
            "yes-or-no answers": dict(self.yes_no),
            "tokens": dict(self.tokens),
            "tool scores": len(self.scores),
            "llm": {key: value for key, value in run.llm.items() if key not in ("concurrency", "timeout_s")},
            "seed": run.seed,
            "config": fingerprint(values),
            "git": git_state(),
            "depictions_sha256": sha256_of(Path(run.depictions)),
            "sha256": files,
        }


def _grouped(about: Sequence[Seen]) -> dict[str, list[str]]:
    """Region -> categories, each once."""
    made: dict[str, dict[str, None]] = {}
    for seen in about:
        made.setdefault(seen.object, {})[seen.category] = None
    return {name: list(found) for name, found in made.items()}


def _json(values: Any) -> str:
    return json.dumps(values, ensure_ascii=False)
