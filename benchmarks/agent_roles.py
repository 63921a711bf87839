"""What models of ours do in the agent's roles: held-out rows, before and after stage=agent.

    python benchmarks/agent_roles.py 40 runs/tiny/understanding/model runs/tiny/agent/model

40 rows of each kind, drawn by seed from data/synthetic/agent/*.test.jsonl (contents that no training set shows).
`valid`: replies that are the JSON that the agent asks for; `right`: those that say the same as the row, but for its
free texts. A letter is the likeliest of those that are offered, and always valid; its chance is 1 / options.
"""

import json
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from vqa2.agents import schemas
from vqa2.core.config import decode
from vqa2.core.llm import parse
from vqa2.core.prompts import LETTERS
from vqa2.core.records import Instruction, Query, inside, read_jsonl
from vqa2.core.scale import accuracy
from vqa2.data.video import VideoSpec
from vqa2.launch import composed
from vqa2.model.predict import Inference, ModelPredictor

ROOT = Path("data/synthetic")
SCHEMAS = {"planner": schemas.Plan, "detection": schemas.Detection, "analysis": schemas.Analysis,
           "selection": schemas.Selection, "words": schemas.Summary}  # fmt: skip
FREE = {"explanation", "quality_reasoning", "claims", "final_answer"}


def kind(row: Instruction) -> str:
    """The subtask; of the summarizer by what it replies and whether it is told evidence."""
    subtask, user = row.tags["subtask"], row.turns[0].user
    if subtask != "summarizer":
        return subtask
    if len(row.turns[0].assistant) > 1:
        return "words"
    form = "choice" if "\nOptions:\n" in user else "score"
    return form + (", no evidence" if "Evidence:\nnone" in user else ", evidence")


def letters(row: Instruction) -> str:
    """Those that are offered."""
    options = row.turns[0].user.partition("\nOptions:\n")[2]
    return LETTERS[: len(options.splitlines()) or 5]


def without_texts(values):
    """The values that can be compared."""
    if isinstance(values, dict):
        return {k: without_texts(v) for k, v in values.items() if k not in FREE}
    return [without_texts(v) for v in values] if isinstance(values, list) else values


def judged(model: ModelPredictor, name: str, row: Instruction) -> tuple[bool, bool]:
    """(valid, right) of the model's reply to a row."""
    path = Path() if row.media is None else inside(ROOT, row.media)
    query = Query(id=row.id, path=path, kind=row.kind, question=row.turns[0].user)
    if name not in SCHEMAS:
        found = model.options(query, letters(row))
        return True, LETTERS[int(np.argmax(found))] == row.turns[0].assistant
    (answer,) = model.answer([query])
    try:
        reply = parse(answer.text or "", SCHEMAS[name])
    except ValueError:
        return False, False
    want = parse(row.turns[0].assistant, SCHEMAS[name])
    return True, without_texts(json.loads(reply.model_dump_json())) == without_texts(json.loads(want.model_dump_json()))


def main(count: int, folders: list[str]) -> None:
    video = decode(VideoSpec, composed("eval", [])["predictor"]["video"], "video")
    made = Inference(video=video, device="cpu", max_new_tokens=400, workers=0)
    models = {folder: ModelPredictor.load(Path(folder), made) for folder in folders}
    rows: dict[str, list[Instruction]] = {}
    for role in ("planner", "executor", "summarizer"):
        for row in read_jsonl(ROOT / "agent" / f"{role}.test.jsonl", Instruction):
            rows.setdefault(kind(row), []).append(row)
    console, table = (
        Console(width=150),
        Table("row", "n", "chance", *(f"{f}: {w}" for f in folders for w in ("valid", "right"))),
    )
    for name, found in rows.items():
        drawn = [found[i] for i in np.random.default_rng(0).permutation(len(found))[:count]]
        chance = "" if name in SCHEMAS else f"{np.mean([1 / len(letters(r)) for r in drawn]):.2f}"
        cells = []
        for model in models.values():
            marks = [judged(model, name, row) for row in drawn]
            for k in (0, 1):
                m = accuracy([float(mark[k]) for mark in marks], name, bootstrap=1000, seed=0)
                cells.append(f"{m.value:.2f} [{m.lo:.2f}, {m.hi:.2f}]")
        table.add_row(name, str(len(drawn)), chance, *cells)
        console.print(name, *cells)
    console.print(table)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
