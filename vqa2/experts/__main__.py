"""`python -m vqa2.experts [experts=commercial_safe] [key=value ...]`: measure, calibrate and tabulate the experts."""

from pathlib import Path

from rich.console import Console

from vqa2.core.config import decode
from vqa2.core.progress import bars
from vqa2.core.records import Metric
from vqa2.launch import composed, guarded


def main(overrides: list[str]) -> None:
    from vqa2.experts.measure import ExpertsRun, Row, run

    made = decode(ExpertsRun, composed("experts", overrides), "experts")
    with bars() as shown:
        rows, left_out = run(made, shown.at)

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


def _cell(metric: Metric) -> str:
    if metric.value is None:
        return f"- ({metric.note})"
    return f"{metric.value:.3f} [{metric.lo:.2f}, {metric.hi:.2f}] ({metric.n})" if metric.lo is not None else "-"


if __name__ == "__main__":
    guarded(main, "experts")
