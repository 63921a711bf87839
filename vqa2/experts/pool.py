"""The pool: runs named experts on one media in a worker process, under time limits, and calibrates what they say.

A tool that hangs is killed with its children at its limit, one that crashes takes only its worker along: both become
a `Reading` with `failure`, and the next expert runs in a fresh worker. `isolation: none` runs in this process, for
experts that are known to behave (time limits are then not enforced).
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Gt

from vqa2.core.config import build, spec, suggest
from vqa2.core.errors import ConfigError
from vqa2.core.run import fingerprint
from vqa2.experts import calibration
from vqa2.experts._worker import Local, Worker
from vqa2.experts.base import Expert, Info, Media, Raw, Reading, applicable
from vqa2.experts.calibration import Calibration, Subject


@spec
class PoolSpec:
    """`tools`: components by the name they have in this pool. `commercial_only` leaves out what may not be used
    commercially. `timeout_s` bounds one expert on one media (its first call may load weights). `calibration`: folder of
    `<expert>.json`."""

    tools: dict[str, dict[str, Any]]
    commercial_only: bool
    isolation: Literal["process", "none"]
    timeout_s: Annotated[float, Gt(0)]
    calibration: str

    def open(self) -> "Pool":
        return Pool(self)


class Pool:
    """`experts` are the usable ones by name; `left_out` names the others with the reason."""

    def __init__(self, made: PoolSpec) -> None:
        self._made, self._timeout_s, self._folder = made, made.timeout_s, Path(made.calibration)
        self._values = made.tools
        self.experts: dict[str, Expert] = {}
        self.left_out: dict[str, str] = {}
        for name, values in made.tools.items():
            expert = build("expert", values, f"experts.tools.{name}")
            reason = expert.missing()
            if made.commercial_only and not expert.info.commercial:
                reason = f"license {expert.info.license}: not for commercial use"
            if reason:
                self.left_out[name] = reason
            else:
                self.experts[name] = expert
        self._runner = Worker(made.tools) if made.isolation == "process" else Local(made.tools)
        self._content: dict[str, str] = {}
        self._calibrations: dict[str, Calibration | str] = {}

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def twin(self) -> "Pool":
        """The same experts in a worker process of their own."""
        return Pool(self._made)

    def close(self) -> None:
        """Ends the worker process."""
        self._runner.close()

    def info(self, name: str) -> Info:
        """What expert `name` declares. ConfigError for a name that the pool does not have, or left out."""
        if name in self.left_out:
            raise ConfigError(f"experts.tools.{name}: left out: {self.left_out[name]}")
        if name not in self.experts:
            raise ConfigError(f"experts.tools.{name}: no such expert{suggest(name, sorted(self._values))}")
        return self.experts[name].info

    def subject(self, name: str) -> Subject:
        """Whose calibration is looked for. Its identity is made of the values that can change a score, so that another
        cost or wording leaves a calibration valid and other weights make it stale."""
        info = self.info(name)
        if name not in self._content:
            self._content[name] = self.experts[name].content()
        values = {key: value for key, value in self._values[name].items() if key != "info"}
        return Subject(
            expert=name,
            identity=fingerprint([values, info.weights, self._content[name]]),
            higher_is_better=info.higher_is_better,
        )

    def calibration_of(self, name: str) -> Calibration | str:
        """The expert's calibration, or in one line why it has none."""
        if name not in self._calibrations:
            try:
                self._calibrations[name] = calibration.load(self._folder, name, self.subject(name).identity)
            except ConfigError as err:
                self._calibrations[name] = str(err)
        return self._calibrations[name]

    def bound(self, name: str) -> str:
        """Changes whenever a calibrated score of this expert could. ConfigError where it has no calibration."""
        curve = self.calibration_of(name)
        if isinstance(curve, str):
            raise ConfigError(curve)
        return fingerprint([self.subject(name).identity, curve.form, curve.parameters, curve.raw_range])

    def run(
        self, names: Sequence[str], media: Media, reference: Media | None, prompt: str | None, seconds: float | None
    ) -> list[Reading]:
        """One reading per name, in order. `seconds` bounds all of them together: what does not fit is cut off
        (`timeout`) or not started (`budget`); None is no bound."""
        end = None if seconds is None else time.monotonic() + seconds
        return [self._one(name, media, reference, prompt, end) for name in names]

    def _one(self, name: str, media: Media, reference: Media | None, prompt: str | None, end: float | None) -> Reading:
        reading = Reading(expert=name, media=media.key)
        if name in self.left_out:
            return replace(reading, failure="unavailable", reason=self.left_out[name])
        reason = applicable(self.info(name), media, reference, prompt)
        if reason:
            return replace(reading, failure="not applicable", reason=reason)
        left = self._timeout_s if end is None else min(self._timeout_s, end - time.monotonic())
        if left <= 0:
            return replace(reading, failure="budget", reason="no time was left")
        start = time.monotonic()
        outcome = self._runner.ask(name, media, reference, prompt, left)
        reading = replace(reading, seconds=time.monotonic() - start)
        if not isinstance(outcome, Raw):
            return replace(reading, failure=outcome[0], reason=outcome[1])
        return self.calibrated(replace(reading, raw=outcome.value, parts=outcome.parts))

    def calibrated(self, reading: Reading) -> Reading:
        """A raw reading with its calibrated score, or why it has none."""
        curve = self.calibration_of(reading.expert)
        if isinstance(curve, str):
            return replace(reading, failure="uncalibrated", reason=curve)
        return replace(reading, score=curve(reading.raw), outside=curve.outside(reading.raw))
