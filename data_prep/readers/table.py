"""Form `table`: one item a line. FAST-VQA lists (`path, duration, fps, MOS`), CSV files with a header, KADID's tabs,
T2VQA-DB's `name|prompt|MOS`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep._rows import Bad, Row, column, delimited, row_of
from vqa2.core.config import register


@register("reader", "table")
class Table:
    """`separator` of cells; `quoted`: cells may stand in quotation marks; `columns` in order, or empty where the first
    line names them; `id` and `mos` name columns (several opinions are averaged); `suffix` completes the name."""

    separator: str
    quoted: bool
    columns: tuple[str, ...]
    id: str
    mos: tuple[str, ...]
    suffix: str

    def read(self, files: Sequence[Path]) -> Iterator[Row | Bad]:
        for path in files:
            for item in delimited(path, self.separator, self.quoted, self.columns):
                if isinstance(item, Bad):
                    yield item
                    continue
                where, cells = item
                name = column(cells, self.id, where)
                opinions = [column(cells, name, where) for name in self.mos]
                yield row_of(name + self.suffix if name else "", opinions, where, cells)
