"""Form `paired`: MaxWell. The opinions' CSV has no names: its row i belongs to line i of a list of names."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from data_prep._rows import Bad, Row, column, delimited, row_of
from vqa2.core.config import register
from vqa2.core.errors import DataError


@register("reader", "paired")
class Paired:
    """Files: the names (FAST-VQA lines), then the opinions; `mos` names columns of the latter. The MOS in the list of
    names is on another scale and not used."""

    columns: tuple[str, ...]
    id: str
    mos: tuple[str, ...]

    def read(self, files: Sequence[Path]) -> Iterator[Row | Bad]:
        if len(files) != 2:
            raise DataError(f"{files[0]}: two files are needed, the names and the opinions; {len(files)} given")
        names, opinions = delimited(files[0], ",", False, self.columns), delimited(files[1], ",", True, ())
        for name, opinion in zip_longest(names, opinions):
            if name is None or opinion is None:
                raise DataError(
                    f"{files[1]}: another number of rows than {files[0].name}; nothing says which belong together"
                )
            bad = [item for item in (name, opinion) if isinstance(item, Bad)]
            if bad:
                yield bad[0]
                continue
            where, cells = opinion
            yield row_of(name[1][self.id], [column(cells, key, where) for key in self.mos], where, {**name[1], **cells})
