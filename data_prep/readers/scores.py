"""Form `scores`: VQAThinker's label files, `{"annotations": [{"image_id", "score"}]}` or JSON lines `{"id", "image":
[path], "conversations": [question, {"value": MOS}]}`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep._rows import Bad, Row, json_items, row_of
from vqa2.core.config import register


@register("reader", "scores")
class Scores:
    """`key`: the list's name in the file; null for JSON lines and bare lists."""

    key: str | None

    def read(self, files: Sequence[Path]) -> Iterator[Row | Bad]:
        for path in files:
            for item in json_items(path, self.key):
                yield item if isinstance(item, Bad) else _row(*item)


def _row(where: str, item: Any) -> Row | Bad:
    match item:
        case {"image_id": str(name), "score": str() | int() | float() as score}:
            return row_of(name, [str(score)], where, {})
        case {"image": [str(name), *_] | str(name), "conversations": [*_, {"value": str() | int() | float() as score}]}:
            return row_of(name, [str(score)], where, {})
    return Bad(where=where, reason="broken row: neither image_id and score nor image and conversations")
