"""Progress bars of long jobs, of one look everywhere, on standard error."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Bars:
    """A bar per name, made when it is first told of."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, int] = {}

    def at(self, name: str, done: int, total: int | None = None) -> None:
        """`done` of `total` (None: not known, or as said before)."""
        self._progress.update(self._task(name), completed=done, total=total)

    def add(self, name: str, count: int, total: int | None = None) -> None:
        """`count` more of `total` (None: not known, or as said before)."""
        self._progress.update(self._task(name), advance=count, total=total)

    def _task(self, name: str) -> int:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=None)
        return self._tasks[name]


@contextmanager
def bars(show: bool = True) -> Iterator[Bars]:
    """Bars while the block runs; nothing is drawn unless `show`."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not show) as progress:
        yield Bars(progress)
