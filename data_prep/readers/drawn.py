"""Form `drawn`: a table without splits, whose two splits its authors' code draws (T2VQA-DB)."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from data_prep._rows import Bad, Row
from data_prep.readers.table import Table
from vqa2.core.config import register


@register("reader", "drawn")
class Drawn(Table):
    """The lines are shuffled by Python's `random` with `seed`; the first `share` of them are `splits[0]`, the others
    `splits[1]`. A file with more, fewer or other lines is drawn otherwise."""

    seed: int
    share: Annotated[float, Interval(ge=0, le=1)]
    splits: tuple[str, str]

    def read(self, files: Sequence[Path]) -> Iterator[Row | Bad]:
        """The rows in the order of the file; holds a number a line."""
        order = list(range(sum(1 for _ in super().read(files))))
        random.Random(self.seed).shuffle(order)
        first = set(order[: int(self.share * len(order))])
        for number, row in enumerate(super().read(files)):
            split = self.splits[number not in first]
            yield replace(row, split=split) if isinstance(row, Row) else row
