"""The logistic parameters that AgenticIQA prints (its table 5), as data, with what is wrong in them.

They map the raw scores of IQA-PyTorch's default checkpoints to 1-5, in the standard form: as printed, the equation
lacks `1 +` and most rows leave [1, 5] altogether. Nominal raw ranges and notes are ours. They were fitted on KADID-10k,
on which two of the tools were trained. A row that turns back over its range is refused.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from vqa2.core.config import suggest
from vqa2.core.errors import ConfigError
from vqa2.experts.calibration import Form, curve, monotone

SCALE = (1.0, 5.0)


@dataclass(frozen=True, kw_only=True)
class Published:
    """One row. `anomalies` are recomputed from the numbers when the table is read; `note` is ours."""

    tool: str
    parameters: tuple[float, ...]
    raw_range: tuple[float, float]
    higher_is_better: bool
    note: str
    anomalies: tuple[str, ...]

    def acr(self, raw: float, form: Form) -> float:
        """The 1-5 score, clipped. ConfigError for a row that turns back in the standard form."""
        if "not monotone" in self.anomalies and form != "logistic5_printed":
            raise ConfigError(f"{self.tool}: the published parameters are not monotone over {list(self.raw_range)}")
        return float(np.clip(curve(form, self.parameters, np.array([raw]))[0], *SCALE))


@cache
def table() -> dict[str, Published]:
    """All 24 rows by the paper's tool name."""
    rows = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
    seen: dict[str, tuple[float, ...]] = {}
    made = {}
    for row in rows:
        parameters, raw_range = tuple(row["parameters"]), tuple(row["raw_range"])
        found = _anomalies(parameters, raw_range, row["higher_is_better"])
        twins = [tool for tool, other in seen.items() if np.allclose(parameters, other, rtol=1e-3)]
        found = (*found, *(f"same parameters as {tool}" for tool in twins))
        seen[row["tool"]] = parameters
        made[row["tool"]] = Published(
            tool=row["tool"],
            parameters=parameters,
            raw_range=raw_range,
            higher_is_better=row["higher_is_better"],
            note=row["note"],
            anomalies=found,
        )
    return made


def published(tool: str) -> Published:
    """One row. ConfigError for a tool that the table does not have."""
    if tool not in table():
        raise ConfigError(f"{tool}: no published parameters{suggest(tool, list(table()))}")
    return table()[tool]


def _anomalies(parameters: tuple[float, ...], raw_range: tuple[float, float], increasing: bool) -> tuple[str, ...]:
    y = curve("logistic5", parameters, np.linspace(*raw_range, 512))
    found = []
    if not monotone("logistic5", parameters, raw_range, increasing):
        found.append("not monotone")
    if y.min() < SCALE[0] - 1 or y.max() > SCALE[1] + 1:
        found.append(f"leaves 1-5 by more than a point: {y.min():.1f} to {y.max():.1f}")
    if y.max() < 3.5:
        found.append(f"never above {y.max():.1f}")
    return tuple(found)
