"""Form `records`: a JSON list (or JSON lines) of records with named fields: VQA²'s test lists, VideoFeedback."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep._rows import Bad, Row, json_items, row_of
from vqa2.core.config import register


@register("reader", "records")
class Records:
    """`key`: the list's name in the file; null for JSON lines and bare lists. `id` and `mos` name fields (several
    opinions are averaged); `suffix` completes the name."""

    key: str | None
    id: str
    mos: tuple[str, ...]
    suffix: str

    def read(self, files: Sequence[Path]) -> Iterator[Row | Bad]:
        for path in files:
            for item in json_items(path, self.key):
                yield item if isinstance(item, Bad) else self._row(*item)

    def _row(self, where: str, item: Any) -> Row | Bad:
        if not isinstance(item, dict):
            return Bad(where=where, reason="broken row: no record")
        name, missing = item.get(self.id), [field for field in self.mos if field not in item]
        if not isinstance(name, str) or missing:
            known = name if isinstance(name, str) else ""
            return Bad(where=where, reason=f"broken row: no {', '.join(missing) or self.id}", id=known)
        return row_of(name + self.suffix, [str(item[field]) for field in self.mos], where, {})
