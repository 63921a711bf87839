"""Expert reward: how near the answer is to what quality experts say of the clip, for example the router (Q-Router names
a reward model as a use of its scores; no training with it is published).

No expert is asked while training: a command records scores of all clips beforehand (docs/rewards.md), so that the
reward is a table look-up and the same in every run. It needs no MOS; beside `regression` it is a second target.
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt

from vqa2.core.config import register
from vqa2.core.errors import DataError
from vqa2.core.records import json_object
from vqa2.core.scale import mos_to_acr
from vqa2.rewards._answer import read_answer
from vqa2.rewards._scoring import bell


@register("reward", "expert")
class Expert:
    """exp(-(answer - recorded)² / 2 sigma²), `sigma` in points of the 1-5 scale. `file`: JSON lines with `id` (of the
    clip) and `score01`, as an evaluation's answers.jsonl has them."""

    weight: Annotated[float, Ge(0)]
    file: str
    sigma: Annotated[float, Gt(0)]

    def __post_init__(self) -> None:
        # Before an earlier stage is trained for this one.
        if not self.recorded:
            raise DataError(f"{self.file}: holds no score01")

    @cached_property
    def recorded(self) -> dict[str, float]:
        """Scores on 1-5 by clip; clips that were not scored are not in it. DataError for a file that is none."""
        path, found = Path(self.file), {}
        if not path.is_file():
            raise DataError(f"{path}: no recorded scores; docs/rewards.md has the command that makes them")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            row = json_object(line, f"{path}:{number}")
            if (number == 1 and "fingerprint" in row) or row.get("score01") is None:
                continue  # the header, and clips that were not scored
            clip, score = row.get("id"), row["score01"]
            if not isinstance(clip, str) or not isinstance(score, float | int) or not 0 <= score <= 1:
                raise DataError(f"{path}:{number}: an id and a score01 in [0, 1] are needed")
            if found.setdefault(clip, score) != score:
                raise DataError(f"{path}:{number}: {clip}: two different scores")
        return {clip: mos_to_acr(100 * score) for clip, score in found.items()}

    def __call__(
        self,
        completions: list[str],
        *,
        clip_id: list[str],
        choice: list[str | None],
        log_metric: Callable[[str, float], None] | None = None,
        **_: object,
    ) -> list[float | None]:
        """One reward in [0, 1] per completion, 0 for an unreadable answer; None for multiple-choice prompts and for
        clips without a recorded score, whose completions are counted."""
        recorded = [None if c is not None else self.recorded.get(clip) for clip, c in zip(clip_id, choice, strict=True)]
        if log_metric is not None:
            missing = sum(r is None and c is None for r, c in zip(recorded, choice))
            log_metric("expert_not_recorded", float(missing))
        return bell([read_answer(c) for c in completions], recorded, self.sigma)
