"""`python -m vqa2.experts [experts=commercial_safe] [key=value ...]`: measure, calibrate and tabulate the experts."""

import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console

from vqa2.core.config import decode
from vqa2.core.progress import bars
from vqa2.core.records import Metric
from vqa2.core.run import say
from vqa2.launch import composed, guarded


def main(overrides: list[str]) -> None:
    from vqa2.experts.measure import ExpertsCommand, Row, run

    made = decode(ExpertsCommand, composed("experts", overrides), "experts")
    with bars() as shown:
        rows, left_out = run(made, _references(made, shown.at), shown.at)

    def line(row: Row) -> str:
        failed = sum(row.failures.values())
        cells = (
            row.expert, _cell(row.srcc), _cell(row.plcc), row.form, _cell(row.own), f"{row.srcc.n}+{failed}",
            f"{row.seconds:.3f}", row.info.license, ", ".join(row.info.trained_on) or "-",
        )  # fmt: skip
        return "| " + " | ".join(cells) + " |"

    head = "| expert | SRCC | PLCC, calibrated | form | SRCC on its strengths | n + failed | s | license | trained on |"
    lines = [head, "|" + "---|" * 9, *map(line, rows)]
    lines += ["", *(f"- {name}: {reason}" for name, reason in sorted(left_out.items()))]
    path = Path(made.out) / "experts.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    console = Console(highlight=False, soft_wrap=True)
    console.print("\n".join(lines), markup=False)
    console.print(f"written: {path}; calibrations: {made.experts.calibration}", markup=False)


def _references(made, advance: Callable[[str, int, int], None]) -> dict[str, Path]:
    """Undistorted clips by id: made where `made_by` made the data root, else those that the root names itself; none,
    said so, where it names none. Nothing is made where no expert needs them."""
    from data_prep.references import FILE, make, read
    from data_prep.run import DataPrepRun, standing
    from vqa2.experts.measure import rows_of

    if not any(tool["info"]["reference"] for tool in made.experts.tools.values()):
        return {}
    chosen = [*shlex.split(made.made_by)[3:], f"out={made.root}"]
    run = decode(DataPrepRun, composed("data_prep", chosen), "data_prep")
    if standing(run) in ("complete", "incomplete"):
        ids = {item.media.id for items in rows_of(made) for item in items}
        make(run, ids, partial(advance, "references"))
    elif not (Path(made.root) / FILE).is_file():
        say(f"{made.root}: not made by `{made.made_by}` (made_by=...), and no {FILE} in it: no clip has a reference")
    return read(Path(made.root))


def _cell(metric: Metric) -> str:
    if metric.value is None:
        return f"- ({metric.note})"
    return f"{metric.value:.3f} [{metric.lo:.2f}, {metric.hi:.2f}] ({metric.n})" if metric.lo is not None else "-"


if __name__ == "__main__":
    guarded(main, "experts")
