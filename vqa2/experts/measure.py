"""What each expert is worth on rated media: raw scores (kept on disk), calibrations, and a table with intervals.

A reading is kept under the expert's identity and the media's content, so that a second run asks nothing again and a
changed expert or clip is asked anew. Experts that need a reference or a prompt are listed as left out: rated sets bring
neither.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

from annotated_types import Ge
from pydantic import TypeAdapter

from vqa2.core.config import spec
from vqa2.core.errors import DataError
from vqa2.core.records import Instruction, Metric, inside, read_jsonl
from vqa2.core.scale import quality_metric
from vqa2.experts.base import Info, Media, Reading, files_hash
from vqa2.experts.calibration import Calibration, Form, Material, Subject, fit, save
from vqa2.experts.pool import Pool, PoolSpec

READINGS, TABLE = "readings.jsonl", "experts.json"


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
    forms: tuple[Form, ...]
    bootstrap: Annotated[int, Ge(0)]
    seed: Annotated[int, Ge(0)]
    out: str


@dataclass(frozen=True, kw_only=True)
class Rated:
    """A media with its MOS (0-100) and the distortion it is known for (`none`: clean, empty: unknown)."""

    media: Media
    mos: float
    distortion: str


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
        )
        for r in chosen
    ]


def measure(
    pool: Pool, items: Sequence[Rated], kept: Path, advance: Callable[[int, int], None]
) -> dict[str, list[Reading]]:
    """Readings of every usable no-reference expert on every media, by expert, in the order of `items`."""
    known = {key: r for key, r in _known(kept).items() if r.failure not in ("timeout", "crash", "budget")}
    names = _asked(pool)
    found: dict[str, list[Reading]] = {name: [] for name in names}
    kept.parent.mkdir(parents=True, exist_ok=True)
    with kept.open("a", encoding="utf-8") as handle:
        for done, item in enumerate(items):
            content = files_hash([item.media.path]) if item.media.path.is_file() else ""
            keys = {name: f"{pool.subject(name).identity}/{content}" for name in names}
            # One media after the other: experts share its decoded frames. A machine's failure is asked again.
            for reading in pool.run([n for n in names if (n, keys[n]) not in known], item.media, None, None, None):
                raw = replace(reading, score=None, outside=0.0)
                if raw.failure == "uncalibrated":
                    raw = replace(raw, failure=None, reason="")
                known[raw.expert, keys[raw.expert]] = raw
                handle.write(json.dumps({"key": keys[raw.expert], **asdict(raw)}) + "\n")
            for name in names:
                found[name].append(known[name, keys[name]])
            advance(done + 1, len(items))
    return found


def recorded(pool: Pool, items: Sequence[Rated], kept: Path) -> dict[str, list[Reading]]:
    """What `measure` gave before, failures of the machine included; no expert runs. DataError where a reading is not
    there."""
    known, found = _known(kept), {}
    contents = [files_hash([i.media.path]) if i.media.path.is_file() else "" for i in items]
    for name in _asked(pool):
        keys = [(name, f"{pool.subject(name).identity}/{content}") for content in contents]
        missing = sum(key not in known for key in keys)
        if missing:
            raise DataError(
                f"{kept}: no reading by {name} of {missing} of {len(items)} clips; several processes ask no "
                f"expert, so run `python -m vqa2.experts` on them first (root, fit, fit_limit={len(items)})"
            )
        found[name] = [known[key] for key in keys]
    return found


def _asked(pool: Pool) -> list[str]:
    """The experts that rated media alone suffice for."""
    return [n for n in pool.experts if not pool.info(n).reference and not pool.info(n).prompt]


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
    subject: Subject, forms: Sequence[Form], dataset: str, items: Sequence[Rated], readings: Sequence[Reading]
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


def run(made: ExpertsRun, advance: Callable[[str, int, int], None]) -> tuple[list[Row], dict[str, str]]:
    """Measures, calibrates, writes; returns the rows, best first, and what has no row with the reason."""
    root, out = Path(made.root), Path(made.out)
    with made.experts.open() as pool:
        left_out = dict(pool.left_out)
        for name in pool.experts:
            if pool.info(name).reference or pool.info(name).prompt:
                left_out[name] = "needs a reference" if pool.info(name).reference else "needs a prompt"
        to_fit, to_test = rated(root, made.fit, made.fit_limit), rated(root, made.test, None)
        fitted = measure(pool, to_fit, out / READINGS, lambda d, n: advance("fit", d, n))
        tested = measure(pool, to_test, out / READINGS, lambda d, n: advance("test", d, n))
        rows = []
        for name, readings in tested.items():
            try:
                curve = calibrate(pool.subject(name), made.forms, f"{made.root}/{made.fit}", to_fit, fitted[name])
                save(curve, Path(made.experts.calibration))
            except DataError as err:
                curve, left_out[name] = None, f"not calibrated: {err}"
            rows.append(_row(made, pool.info(name), name, curve, to_test, readings))
    rows.sort(key=lambda row: -(row.srcc.value if row.srcc.value is not None else -2))
    values = {"rows": [asdict(row) for row in rows], "left_out": left_out, "n": len(to_test)}
    (out / TABLE).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return rows, left_out


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
