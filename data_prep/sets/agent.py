"""Set `agent`: rows for the agent's roles about embedded clips, whose known distortions stand where
`python -m data_prep agentic` has a person's depiction. Files agent/planner, agent/executor and agent/summarizer."""

from typing import Annotated

from annotated_types import Ge, Interval

from data_prep._known import Sentences, depictions
from data_prep._lexicon import Lexicon
from data_prep._plans import Library
from data_prep._role_rows import ROLES, Recipe, RoleRows
from data_prep._trace_rules import TraceRules, Wording
from data_prep._write import by_split
from vqa2.core.config import register
from vqa2.core.records import Clip, Instruction


@register("set", "agent")
class Agent:
    """`queries` per clip; `sentences`: what a clip is described by. The others are those of conf/agentic.yaml."""

    lexicon: Lexicon
    tools: Library
    wording: Wording
    sentences: Sentences
    queries: Annotated[int, Ge(1)]
    reference_share: Annotated[float, Interval(ge=0, le=1)]
    bare_share: Annotated[float, Interval(ge=0, le=1)]

    def write(self, clips: list[Clip], seed: int) -> dict[str, list[Instruction]]:
        recipe = Recipe(
            lexicon=self.lexicon, tools=self.tools, wording=self.wording, reference_share=self.reference_share,
            bare_share=self.bare_share, seed=seed, writer="rules",
        )  # fmt: skip
        rows = RoleRows(recipe, {})
        rules = TraceRules(self.lexicon, self.tools, self.wording, self.queries, seed)
        told = depictions(clips, self.sentences, self.lexicon, seed)
        made = [row for depiction in told for row in rows.of(depiction, rules.write(depiction))]
        return {
            f"{role}.{split}": found
            for role in dict.fromkeys(ROLES.values())
            for split, found in by_split([row for row in made if row.task == role]).items()
        }
