"""Expert `command`: another program's own command line, in its own folder and Python, read by a pattern.

The way to use DOVER, COVER, FAST-VQA, UVQ and the like as released, each with the dependencies that it pins: one
process per call, so that nothing of it enters ours. conf/expert/{dover,cover,fast_vqa,uvq,q_align}.yaml hold released
calls; MaxVQA, ModularBVQA and T2VQA, which have none for one video, are called through vqa2/experts/adapters.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

from annotated_types import Gt

from vqa2.core.config import register
from vqa2.core.errors import ConfigError, DataError
from vqa2.experts.base import Info, Media, Raw, files_hash

ADAPTERS = Path(__file__).resolve().parents[1] / "adapters"


@register("expert", "command")
class Command:
    """`folder`: a checkout of the program; `python`: its interpreter (empty: this one); `arguments` after it, with the
    places {media}, {reference}, {prompt} and {adapters} (the folder of ours); `pattern`: a regular expression on what
    it prints, group `value` is the score, other named groups are sub-scores; `files`: weights that must be there;
    `get`: where to get it, in one line; `timeout_s`."""

    info: Info
    folder: str
    python: str
    arguments: tuple[str, ...]
    pattern: str
    files: tuple[str, ...]
    get: str
    timeout_s: Annotated[float, Gt(0)]

    def __post_init__(self) -> None:
        try:
            groups = re.compile(self.pattern).groupindex
        except re.error as err:
            raise ValueError(f"pattern: no regular expression: {err}") from None
        if "value" not in groups:
            raise ValueError("pattern: a group (?P<value>...) is needed")

    def missing(self) -> str:
        for path in (Path(self.folder), *(Path(self.folder) / f for f in self.files)):
            if not path.exists():
                return f"{path}: not there; {self.get}"
        return ""

    def content(self) -> str:
        ours = [Path(a.format(adapters=ADAPTERS)) for a in self.arguments if "{adapters}" in a]
        return files_hash([*ours, *(Path(self.folder) / f for f in self.files)])

    def open(self) -> "Called":
        if self.missing():
            raise ConfigError(self.missing())
        return Called(self)


class Called:
    """Starts the program for every media."""

    def __init__(self, made: Command) -> None:
        self._made = made

    def score(self, media: Media, reference: Media | None, prompt: str | None) -> Raw:
        """What the pattern finds last. DataError with the program's last line where it fails, hangs or prints no
        score."""
        places = {
            "adapters": str(ADAPTERS),
            "media": str(media.path.resolve()),
            "reference": str(reference.path.resolve()) if reference else "",
            "prompt": prompt or "",
        }
        arguments = [argument.format(**places) for argument in self._made.arguments]
        try:
            done = subprocess.run(
                [self._made.python or sys.executable, *arguments],
                cwd=self._made.folder,
                capture_output=True,
                text=True,
                timeout=self._made.timeout_s,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except (subprocess.TimeoutExpired, OSError) as err:
            raise DataError(f"{self._made.folder}: {' '.join(str(err).split())[:200]}") from None
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
            raise DataError(f"{self._made.folder}: exit code {done.returncode}, last said: {said[:200]}")
        found = list(re.finditer(self._made.pattern, done.stdout))
        if not found:
            raise DataError(f"{self._made.folder}: no score in what it printed: {done.stdout.strip()[-120:]!r}")
        parts = {key: float(text) for key, text in found[-1].groupdict().items()}
        return Raw(value=parts.pop("value"), parts=parts)
