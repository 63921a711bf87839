"""The files of a GRPO run, and completions to look at: the clip, its MOS, and every answer with its reward parts.

`completions.jsonl` holds every completion, `broken.jsonl` every prompt that was lost because its clip cannot be read.
`shown.jsonl` holds one line per prompt of the shown steps, `completions.html` is made from it after each of them (one
page, images inlined, nothing loaded from elsewhere), and wandb gets the same rows as a table where it is on. The stage
adds `held_out_before.jsonl` and `held_out_after.jsonl`.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from jinja2 import Environment, StrictUndefined
from PIL import Image
from transformers import TrainerCallback

from vqa2.core.config import spec
from vqa2.train._grpo_log import TABLE, StepFile, table_rows
from vqa2.train._grpo_step import Judged

BROKEN = "broken.jsonl"
SHOWN, PAGE, TEMPLATE = "shown.jsonl", "completions.html", "completions.html.j2"
PAGE_STEPS = 50


@spec
class Show:
    """Step 1 and every `every`-th step are shown (0: none), with `prompts` prompts each."""

    every: Annotated[int, Ge(0)]
    prompts: Annotated[int, Ge(1)]

    def wants(self, step: int) -> bool:
        """Whether a step is shown."""
        return self.every > 0 and (step == 1 or step % self.every == 0)


class RunFiles(TrainerCallback):
    """The files of a run folder, written by the main process; at the start they go back to the checkpoint's step."""

    def __init__(self, folder: Path, show: Show) -> None:
        self.folder, self.show = folder, show
        self.table, self.broken, self.shown = (StepFile(folder / name) for name in (TABLE, BROKEN, SHOWN))

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero:
            for file in (self.table, self.broken, self.shown):
                file.rewind(state.global_step)

    def add(self, step: int, judged: Judged, pictures: Sequence[Mapping[str, bytes]], wandb: bool) -> None:
        """One step; `pictures`: thumbnails by prompt id, where the step is shown."""
        rows = _rows(step, judged)
        self.table.add(rows)
        self.broken.add({"step": step, **asdict(broken)} for broken in judged.broken)
        if self.show.wants(step) and rows:
            thumbnails = {prompt: picture for some in pictures for prompt, picture in some.items()}
            prompts = {r.prompt_id: r.prompt for r in judged.everyone}
            chosen = shown_rows(rows, prompts, thumbnails, self.show.prompts)
            self.shown.add(chosen)
            write_page(self.folder)
            if wandb:
                log_to_wandb(chosen)


def write_table(path: Path, step: int, judged: Judged) -> None:
    """The completions of an evaluation, in a file of their own."""
    path.unlink(missing_ok=True)
    StepFile(path).add(_rows(step, judged))


def _rows(step: int, judged: Judged) -> list[dict[str, Any]]:
    return table_rows(step, judged.everyone, judged.verdict.parts, judged.scored, judged.verdict.extras)


def shown_rows(
    rows: Sequence[Mapping[str, Any]], prompts: Mapping[str, str], thumbnails: Mapping[str, bytes], count: int
) -> list[dict[str, Any]]:
    """The first `count` prompts of a step's `table_rows`, each with its completions; `prompts`: id -> question."""
    chosen = list(dict.fromkeys(row["prompt_id"] for row in rows))[:count]
    made = []
    for prompt in chosen:
        own = [row for row in rows if row["prompt_id"] == prompt]
        made.append(
            {
                **{key: own[0][key] for key in ("step", "prompt_id", "mos", "target")},
                "prompt": prompts[prompt],
                "thumbnail": base64.b64encode(thumbnails.get(prompt, b"")).decode(),
                "completions": own,
            }
        )
    return made


def write_page(folder: Path) -> None:
    """`completions.html` of a run folder: the last `PAGE_STEPS` shown steps, newest first."""
    rows = StepFile(folder / SHOWN).read()
    steps = [(step, list(prompts)) for step, prompts in groupby(rows, key=lambda row: row["step"])]
    env = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = env.from_string(resources.files("vqa2.train").joinpath(TEMPLATE).read_text(encoding="utf-8"))
    part = folder / f"{PAGE}.part"
    part.write_text(template.render(title=folder.name, steps=steps[: -PAGE_STEPS - 1 : -1]), encoding="utf-8")
    part.replace(folder / PAGE)


def log_to_wandb(shown: Sequence[Mapping[str, Any]]) -> None:
    """The shown completions as the wandb table `completions` of the run that transformers.Trainer has started."""
    import wandb  # slow to import, and absent from many runs

    if wandb.run is not None:
        wandb.log({"completions": wandb.Table(*wandb_table(shown, wandb.Image))}, commit=False)


def wandb_table(shown: Sequence[Mapping[str, Any]], image) -> tuple[list[str], list[list]]:
    """Column names and rows; `image` wraps a PIL image."""
    parts = list(dict.fromkeys(name for prompt in shown for c in prompt["completions"] for name in c["rewards"]))
    names = ["step", "prompt_id", "clip", "mos", "target", "answer", *parts, "reward", "advantage", "completion"]
    rows = []
    for prompt in shown:
        picture = base64.b64decode(prompt["thumbnail"])
        clip = image(Image.open(io.BytesIO(picture))) if picture else None
        for c in prompt["completions"]:
            head = [prompt["step"], prompt["prompt_id"], clip, prompt["mos"], str(prompt["target"]), str(c["answer"])]
            tail = [c["reward"], c["advantage"], c["completion"]]
            rows.append([*head, *(c["rewards"][name] for name in parts), *tail])
    return names, rows
