"""Set `extended`: quality understanding (VQA² stage 3) about labelled clips, from the rows that `data_prep extend`
writes."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge
from pydantic import TypeAdapter, ValidationError

from data_prep._rows import Bad, json_items
from data_prep._sample import ranked
from data_prep.sources.labelled import Excluded, key_of
from vqa2.core.config import register, spec
from vqa2.core.errors import DataError
from vqa2.core.prompts import open_prompt
from vqa2.core.records import Clip, Instruction, Turn

_FORM = TypeAdapter(Instruction)


@spec
class Quota:
    """So many rows about the clips of these datasets, drawn by seed."""

    sources: tuple[str, ...]
    rows: Annotated[int, Ge(1)]


@register("set", "extended")
class Extended:
    """`file`: JSON lines of instructions whose clip_id and media are those of clips of this set. `wrapper` stands
    around the first question of a row, in place of its `<video>` and line break; null: nothing does. `quotas` per
    group of datasets; without any, all rows are used."""

    file: str | None
    wrapper: str | None
    quotas: tuple[Quota, ...]

    def inputs(self) -> list[Path]:
        """The file of rows; DataError where none is named."""
        if self.file is None:
            raise DataError("sets.understanding.file: required, the rows that `python -m data_prep extend` wrote")
        return [Path(self.file)]

    def stream(self, clips: Iterable[Clip], seed: int) -> Iterator[Instruction | Excluded]:
        """The rows in the order of the file; what is not used is Excluded. Holds the clips' names, not the rows."""
        (path,) = self.inputs()
        known = {clip.id: (clip.path, clip.split) for clip in clips}
        drawn = self._drawn(path, known, seed)
        for item in self._items(path, known):
            if isinstance(item, Instruction) and key_of(item.id) not in drawn:
                reason = f"not drawn: {len(drawn)} rows fill the quotas"
                item = Excluded(source="extended", where=path.name, id=item.id, reason=reason)
            yield item

    def _drawn(self, path: Path, known: dict[str, tuple[str, str]], seed: int) -> set[int]:
        """Keys of the rows that are used."""
        keys: dict[str, list[int]] = {}
        for item in self._items(path, known):
            if isinstance(item, Instruction):
                keys.setdefault(item.clip_id.partition("/")[0], []).append(key_of(item.id))
        if not self.quotas:
            return {key for members in keys.values() for key in members}
        out: set[int] = set()
        for quota in self.quotas:
            pool = np.array([key for name in quota.sources for key in keys.get(name, [])], np.uint64)
            if len(pool) < quota.rows:
                raise DataError(
                    f"{path}: {quota.rows} rows about {', '.join(quota.sources)} wanted, {len(pool)} usable; "
                    "write more questions per depiction (extend.counts) or set sets.understanding.quotas"
                )
            out |= set(pool[ranked(pool, seed)[: quota.rows]].tolist())
        return out

    def _items(self, path: Path, known: dict[str, tuple[str, str]]) -> Iterator[Instruction | Excluded]:
        """Every line of the file, as a row of its clip's split or as what is wrong with it."""
        seen: set[int] = set()
        for item in json_items(path, None):
            if isinstance(item, Bad):
                yield Excluded(source="extended", where=item.where, id="", reason=item.reason)
                continue
            where, values = item
            row, reason = _decoded(values)
            ident = str(values.get("id", "")) if isinstance(values, dict) else ""
            if row is not None:
                reason = _misfit(row, known, seen) or self._unwrappable(row)
                seen.add(key_of(row.id))
            if reason or row is None:
                yield Excluded(source="extended", where=where, id=ident, reason=reason)
            else:
                turns = self._wrapped(row.turns)
                yield replace(row, turns=turns, tags={**row.tags, "split": known[row.clip_id][1]})

    def _unwrappable(self, row: Instruction) -> str:
        plain = row.turns[0].user.startswith(open_prompt(""))
        return (
            "" if plain or self.wrapper is None else "broken row: the question does not begin with <video>, line break"
        )

    def _wrapped(self, turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
        if self.wrapper is None:
            return turns
        question = turns[0].user.removeprefix(open_prompt(""))
        return (replace(turns[0], user=self.wrapper.format(question=question)), *turns[1:])


def _misfit(row: Instruction, known: dict[str, tuple[str, str]], seen: set[int]) -> str:
    """Why a row cannot be used, or nothing."""
    if key_of(row.id) in seen:
        return "duplicated id: an earlier row has it"
    if row.clip_id not in known:
        return f"unknown clip: {row.clip_id} is not among the {len(known)} clips of this set"
    path = known[row.clip_id][0]
    return "" if row.media == path else f"other media: the row names {row.media}, its clip is {path}"


def _decoded(values: object) -> tuple[Instruction | None, str]:
    try:
        row = _FORM.validate_python(values)
    except ValidationError as err:
        first = err.errors()[0]
        return None, f"broken row: {'.'.join(map(str, first['loc'])) or 'row'}: {first['msg'].lower()}"
    if not row.turns or not all(turn.assistant.strip() for turn in row.turns):
        return None, "broken row: no answer"
    return row, ""
