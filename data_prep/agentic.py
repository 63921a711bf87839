"""Depictions -> instruction rows for AgenticIQA's roles (AgenticIQA-200K, sections 3.3 and B): planner, executor
(detection, analysis, tool selection) and summarizer, in the agent's own prompts and reply forms.

Departs from the paper, which has GPT-4o write everything and publishes no rows: a writer gives issues and queries with
answers, which are checked; plans and tool choices follow from rules (data_prep/_plans.py), rows from both
(data_prep/_role_rows.py). Nothing runs a tool here: tool scores come from a file, and a query that names a tool without
a known score gets no summary. Planner and tool-selection rows are text alone, because neither reads the picture.
"""

import json
from collections import Counter
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Interval
from rich.console import Console

from data_prep._depictions import FAILED, Job, told, write_all
from data_prep._files import Parts, write_whole
from data_prep._lexicon import Lexicon
from data_prep._pairs import Limits, plain
from data_prep._plans import Library
from data_prep._role_rows import ROLES, Recipe, RoleRows, Scores
from data_prep._trace_rules import TraceRules, Wording
from data_prep._traces import Traces, issue_refusal, query_refusal
from data_prep._write import rng_of
from vqa2.core.config import spec
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.llm import BadReply, Reply, Request, open_llm
from vqa2.core.records import Depiction
from vqa2.core.run import fingerprint, git_state, sha256_of

FILES = tuple(f"{role}.{split}.jsonl" for role in dict.fromkeys(ROLES.values()) for split in ("train", "test"))
"""What is written: sets of a data root, where `out` is the folder `agent` in it."""


@spec
class Prompt:
    """What a language model is asked; `user` is a format, see conf/agentic.yaml."""

    system: str
    user: str


@spec
class AgenticRun:
    """`depictions` -> `out`/{planner,executor,summarizer}.{train,test}.jsonl and a manifest; see conf/agentic.yaml."""

    depictions: str
    out: str
    cache: str
    seed: Annotated[int, Ge(0)]
    llm: dict[str, Any]
    lexicon: Lexicon
    tools: Library
    queries: Annotated[int, Ge(1)]
    reference_share: Annotated[float, Interval(ge=0, le=1)]
    bare_share: Annotated[float, Interval(ge=0, le=1)]
    test_share: Annotated[float, Interval(ge=0, lt=1)]
    scores: str | None
    limits: Limits
    wording: Wording
    max_cost: Annotated[float, Ge(0)] | None
    give_up_after: Annotated[int, Ge(1)]
    tolerate: Annotated[int, Ge(0)]
    prompt: Prompt

    def __post_init__(self) -> None:
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
    files = (*FILES, "rejected.jsonl", FAILED)
    with Parts(Path(run.out), files) as parts:
        rows = _Rows(run, scores, parts)
        total, failed = write_all(job, parts, rows.add, console)
        parts.keep(*files)
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
    """Checks what was written about a depiction, writes its rows and counts what becomes of it."""

    def __init__(self, run: AgenticRun, scores: Scores, parts: Parts) -> None:
        self.run, self.parts = run, parts
        recipe = Recipe(
            lexicon=run.lexicon, tools=run.tools, wording=run.wording, reference_share=run.reference_share,
            bare_share=run.bare_share, seed=run.seed, writer=run.llm["name"],
        )  # fmt: skip
        self.made = RoleRows(recipe, scores)
        self.got: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.lacking = 0

    def add(self, depiction: Depiction, outcome: Reply | BadReply) -> None:
        """Rows of one depiction; refused replies, issues and queries go to rejected.jsonl."""
        for text, reason in outcome.rejected:
            self._refuse(depiction, "reply", text, f"not the schema: {reason}")
        if isinstance(outcome, BadReply):
            return
        self.tokens.update({"prompt": outcome.usage.prompt_tokens, "completion": outcome.usage.completion_tokens})
        told = replace(depiction, tags={**depiction.tags, "split": self._split(depiction)})
        for row in self.made.of(told, self._checked(told, outcome.parsed)):
            name = f"{row.task}.{row.tags['split']}.jsonl"
            self.got[name] += 1
            self.parts.write(name, asdict(row))

    def _split(self, depiction: Depiction) -> str:
        """The depiction's own split, or one that is drawn for its clip."""
        rng = rng_of(self.run.seed, "agentic", "split", depiction.clip_id)
        return depiction.tags.get("split") or ("test" if rng.random() < self.run.test_share else "train")

    def _checked(self, depiction: Depiction, traces: Traces) -> Traces:
        """The issues and queries that may be used."""
        issues, queries = [], []
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
            queries.append(asked)
        self.lacking += self.run.queries - len(queries)
        return Traces(issues=tuple(issues), queries=tuple(queries))

    def _refuse(self, depiction: Depiction, kind: str, what: Any, reason: str) -> None:
        self.refused[reason.split("'")[0].split(":")[0].strip()] += 1
        self.parts.write("rejected.jsonl", {"depiction": depiction.id, "kind": kind, "what": what, "reason": reason})

    def manifest(self) -> dict[str, Any]:
        """Counts of everything; no times, so that equal runs give equal files."""
        run, made = self.run, self.made
        values = [run.queries, run.reference_share, run.bare_share, run.test_share, asdict(run.lexicon),
                  asdict(run.tools), asdict(run.limits), asdict(run.wording), asdict(run.prompt)]  # fmt: skip
        without = {"queries": self.lacking, **made.without}
        return {
            "set": "agentic",
            "rows": {name: self.got[name] for name in FILES},
            "subtasks": dict(made.got),
            "not written": {what: count for what, count in without.items() if count},
            "refused": dict(self.refused),
            "right answers at": dict(made.places),
            "yes-or-no answers": dict(made.yes_no),
            "tokens": dict(self.tokens),
            "tool scores": len(made.scores),
            "llm": {key: value for key, value in run.llm.items() if key not in ("concurrency", "timeout_s")},
            "seed": run.seed,
            "config": fingerprint(values),
            "git": git_state(),
            "depictions_sha256": sha256_of(Path(run.depictions)),
            "sha256": {name: sha256_of(Path(run.out) / name) for name in FILES},
        }
