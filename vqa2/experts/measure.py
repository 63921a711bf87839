"""What each expert is worth on rated media: raw scores (kept on disk), calibrations, and a table with intervals.

A reading is kept under the expert's identity and the media's content, so that a second run asks nothing again and a
changed expert, clip or reference is asked anew. Experts that need a reference are asked where clips have one, and
those that need a prompt are listed as left out: rated sets bring none.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated

from annotated_types import Ge
from pydantic import TypeAdapter

from vqa2.core.config import spec
from vqa2.core.errors import DataError
from vqa2.core.records import Instruction, Metric, inside, read_jsonl
from vqa2.core.scale import quality_metric
from vqa2.experts.base import Info, Media, Reading, files_hash
from vqa2.experts.calibration import Calibration, Fitted, Material, Subject, fit, save
from vqa2.experts.pool import Pool, PoolSpec

READINGS, TABLE = "readings.jsonl", "experts.json"
Read = tuple[dict[str, str], list[Reading]]
"""Of one media: the keys of all experts, and what was read anew."""


@spec
class ExpertsRun:
    """`root`: a data root; `fit` and `test`: files of instruction rows with MOS in it. At most `fit_limit` rows are
    fitted on, evenly spread over the file. The first of `forms` that fits is taken. Everything is written to `out`, the
    calibrations to the pool's folder."""

    experts: PoolSpec
    root: str
    fit: str
    test: str
    fit_limit: Annotated[int, Ge(8)]
    forms: tuple[Fitted, ...]
    bootstrap: Annotated[int, Ge(0)]
    seed: Annotated[int, Ge(0)]
    out: str


@spec
class ExpertsCommand(ExpertsRun):
    """`made_by`: the data_prep command of `root`, whose settings render the undistorted clips. `workers`: clips that
    are measured side by side, each by a process of its own."""

    made_by: str
    workers: Annotated[int, Ge(1)]


@dataclass(frozen=True, kw_only=True)
class Rated:
    """A media with its MOS (0-100), the distortion it is known for (`none`: clean, empty: unknown), the undistorted
    media where there is one, and the `rule` that made an embedded target (data_prep/_pseudo_mos.py)."""

    media: Media
    mos: float
    distortion: str
    reference: Media | None = None
    rule: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One expert on the test media. `srcc` of the raw score in its declared direction, `plcc` of the calibrated score,
    both over what it answered; `own`: SRCC on the distortions among its strengths and clean clips. `seconds` per media,
    `failures` by reason."""

    expert: str
    info: Info
    form: str
    srcc: Metric
    plcc: Metric
    own: Metric
    seconds: float
    failures: dict[str, int]


def rated(root: Path, file: str, limit: int | None) -> list[Rated]:
    """Media of instruction rows, once each; of more than `limit`, evenly spread ones. DataError for a row without
    MOS."""
    rows: dict[str, Instruction] = {}
    for row in read_jsonl(root / file, Instruction):
        if row.mos is None or row.media is None:
            raise DataError(f"{root / file}: {row.id}: a rated media is needed")
        rows.setdefault(row.clip_id, row)
    chosen = list(rows.values())
    if limit is not None and len(chosen) > limit:
        chosen = [chosen[round(i * (len(chosen) - 1) / (limit - 1))] for i in range(limit)]
    return [
        Rated(
            media=Media(path=inside(root, r.media), kind=r.kind, id=r.clip_id),
            mos=r.mos,
            distortion=r.tags.get("variant", r.tags.get("distortion", "")),
            rule=r.tags.get("mos_rule", ""),
        )
        for r in chosen
    ]


def rows_of(made: ExpertsRun) -> tuple[list[Rated], list[Rated]]:
    """What is fitted on, and what is tested on."""
    root = Path(made.root)
    return rated(root, made.fit, made.fit_limit), rated(root, made.test, None)


def measure(
    pool: Pool, items: Sequence[Rated], kept: Path, advance: Callable[[int, int], None], workers: int = 1
) -> dict[str, list[Reading]]:
    """Readings by expert, in the order of `items`: of every usable no-reference expert, and where an item has a
    reference also of those that need one."""
    known = {key: r for key, r in _known(kept).items() if r.failure not in ("timeout", "crash", "budget")}
    names = _asked(pool, items)
    found: dict[str, list[Reading]] = {name: [] for name in names}

    def read(own: Pool, item: Rated) -> Read:
        keys = _keys(own, names, item)
        wanted = [n for n in names if (n, keys[n]) not in known]
        # All experts on one media, then the next: they share its decoded frames. A machine's failure is asked again.
        return keys, own.run(wanted, item.media, item.reference, None, None)

    kept.parent.mkdir(parents=True, exist_ok=True)
    with kept.open("a", encoding="utf-8") as handle:
        for done, (keys, readings) in enumerate(_side_by_side(pool, read, items, workers), 1):
            for reading in readings:
                raw = replace(reading, score=None, outside=0.0)
                if raw.failure == "uncalibrated":
                    raw = replace(raw, failure=None, reason="")
                known[raw.expert, keys[raw.expert]] = raw
                handle.write(json.dumps({"key": keys[raw.expert], **asdict(raw)}) + "\n")
            for name in names:
                found[name].append(known[name, keys[name]])
            advance(done, len(items))
    return found


def _side_by_side(
    pool: Pool, read: Callable[[Pool, Rated], Read], items: Sequence[Rated], workers: int
) -> Iterator[Read]:
    """`read` of every item, in order, by `workers` pools: this one and its twins."""
    if workers == 1:
        yield from (read(pool, item) for item in items)
        return
    free: SimpleQueue[Pool] = SimpleQueue()

    def answer(item: Rated) -> Read:
        own = free.get()
        try:
            return read(own, item)
        finally:
            free.put(own)

    with ExitStack() as stack:
        team = [pool, *(stack.enter_context(pool.twin()) for _ in range(workers - 1))]
        for one in team:
            free.put(one)
        threads = stack.enter_context(ThreadPoolExecutor(workers))
        try:
            yield from threads.map(answer, items)
        except BaseException:
            # Clips that wait are dropped, and an expert that is at work, perhaps for minutes, is killed.
            threads.shutdown(wait=False, cancel_futures=True)
            for one in team:
                one.close()
            raise


def recorded(pool: Pool, items: Sequence[Rated], kept: Path) -> dict[str, list[Reading]]:
    """What `measure` gave before, failures of the machine included; no expert runs. DataError where a reading is not
    there."""
    known, found, names = _known(kept), {}, _asked(pool, items)
    keyed = [_keys(pool, names, item) for item in items]
    for name in names:
        keys = [(name, one[name]) for one in keyed]
        missing = sum(key not in known for key in keys)
        if missing:
            raise DataError(
                f"{kept}: no reading by {name} of {missing} of {len(items)} clips; several processes ask no "
                f"expert, so run `python -m vqa2.experts` on them first (root, fit, fit_limit={len(items)})"
            )
        found[name] = [known[key] for key in keys]
    return found


def _asked(pool: Pool, items: Sequence[Rated]) -> list[str]:
    """The experts that rated media suffice for, with references where there are any."""
    referenced = any(item.reference for item in items)
    return [n for n in pool.experts if (referenced or not pool.info(n).reference) and not pool.info(n).prompt]


def _keys(pool: Pool, names: Sequence[str], item: Rated) -> dict[str, str]:
    """What a reading of the item is kept under, by expert."""
    content, pristine = (
        files_hash([media.path]) if media is not None and media.path.is_file() else ""
        for media in (item.media, item.reference)
    )
    against = {True: f"/{pristine}", False: ""}
    return {n: f"{pool.subject(n).identity}/{content}{against[pool.info(n).reference]}" for n in names}


def _known(kept: Path) -> dict[tuple[str, str], Reading]:
    """What was read before, the newest of each; a line that a killed run left unfinished is dropped. Failures of the
    machine (time, crash) are among it."""
    adapter, known = TypeAdapter(Reading), {}
    for line in kept.read_text(encoding="utf-8").splitlines() if kept.is_file() else []:
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            continue
        key = values.pop("key")
        reading = adapter.validate_python(values)
        known[reading.expert, key] = reading
    return known


def calibrate(
    subject: Subject, forms: Sequence[Fitted], dataset: str, items: Sequence[Rated], readings: Sequence[Reading]
) -> Calibration:
    """The first form that fits; DataError with every form's reason where none does."""
    pairs = [(i, r) for i, r in zip(items, readings, strict=True) if r.raw is not None]
    material = Material(
        dataset=dataset,
        ids=tuple(i.media.key for i, _ in pairs),
        raw=tuple(r.raw for _, r in pairs),
        mos=tuple(i.mos for i, _ in pairs),
    )
    reasons = []
    for form in forms:
        try:
            return fit(subject, form, material)
        except DataError as err:
            reasons.append(str(err))
    raise DataError("; ".join(reasons))


def run(
    made: ExpertsCommand, references: Mapping[str, Path], advance: Callable[[str, int, int], None]
) -> tuple[list[Row], dict[str, str]]:
    """Measures, calibrates, writes; returns the rows, best first, and what has no row with the reason. `references`:
    undistorted media by clip id."""
    out = Path(made.out)
    to_fit, to_test = ([_beside(item, references) for item in items] for items in rows_of(made))
    with made.experts.open() as pool:
        fitted = measure(pool, to_fit, out / READINGS, lambda d, n: advance("fit", d, n), made.workers)
        tested = measure(pool, to_test, out / READINGS, lambda d, n: advance("test", d, n), made.workers)
        left_out = dict(pool.left_out)
        asked = [name for name in tested if name in fitted]
        for name in (name for name in pool.experts if name not in asked):
            left_out[name] = "needs a prompt" if pool.info(name).prompt else "needs a reference, and no clip has one"
        rows = []
        for name in asked:
            tool = made.experts.tools[name]["name"]
            readings = _independent(tool, to_test, tested[name])
            try:
                sure = _independent(tool, to_fit, fitted[name])
                curve = calibrate(pool.subject(name), made.forms, f"{made.root}/{made.fit}", to_fit, sure)
                save(curve, Path(made.experts.calibration))
            except DataError as err:
                curve, left_out[name] = None, f"not calibrated: {err}"
            rows.append(_row(made, pool.info(name), name, curve, to_test, readings))
    rows.sort(key=lambda row: (-(row.srcc.value if row.srcc.value is not None else -2), row.expert))
    values = {"rows": [asdict(row) for row in rows], "left_out": left_out, "n": len(to_test)}
    (out / TABLE).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return rows, left_out


def _beside(item: Rated, references: Mapping[str, Path]) -> Rated:
    """The item with its reference, where it has one."""
    path = references.get(item.media.id)
    return item if path is None else replace(item, reference=replace(item.media, path=path))


def _independent(tool: str, items: Sequence[Rated], readings: Sequence[Reading]) -> list[Reading]:
    """The readings; those whose target is the tool's own score say nothing about it and are taken out, counted."""
    out = {"raw": None, "failure": "not applicable", "reason": "its own score is the target"}
    return [replace(r, **out) if i.rule == tool else r for i, r in zip(items, readings, strict=True)]


def _row(
    made: ExpertsRun,
    info: Info,
    name: str,
    curve: Calibration | None,
    items: Sequence[Rated],
    readings: Sequence[Reading],
) -> Row:
    pairs = [(i, r.raw) for i, r in zip(items, readings, strict=True) if r.raw is not None]
    sign = 1 if info.higher_is_better else -1

    def metric(kind: str, chosen: Sequence[tuple[Rated, float]], scores: Callable[[float], float]) -> Metric:
        x, y = [scores(raw) for _, raw in chosen], [i.mos for i, _ in chosen]
        return quality_metric(kind, x, y, bootstrap=made.bootstrap, seed=made.seed)

    failures = Counter(f"{r.failure}: {r.reason}" for r in readings if r.raw is None)
    own = [(i, raw) for i, raw in pairs if i.distortion in (*info.strengths, "none")]
    none = Metric(name="PLCC raw", value=None, n=0, note="not calibrated")
    return Row(
        expert=name,
        info=info,
        form=curve.form if curve else "-",
        srcc=metric("SRCC", pairs, lambda raw: sign * raw),
        plcc=metric("PLCC raw", pairs, curve) if curve else none,
        own=metric("SRCC", own, lambda raw: sign * raw),
        seconds=sum(r.seconds for r in readings) / max(1, len(readings)),
        failures=dict(failures),
    )
