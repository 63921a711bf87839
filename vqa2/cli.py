"""The `vqa2` command: score, describe, ask, convert and doctor. Training and evaluation are train.py and eval.py."""

import csv
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from vqa2.core.errors import ConfigError, MediaError, UserError

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Video quality assessment with a trained model.")
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

MODEL = Annotated[str, typer.Option("--model", help="run or model folder")]
DEVICE = Annotated[str, typer.Option(help="cpu or cuda")]


@app.command()
def score(
    target: Annotated[Path, typer.Argument(help="a clip, an image or a folder of them")],
    csv_file: Annotated[Path | None, typer.Option("--out", help="CSV to write")] = None,
    model: MODEL = "runs/tiny/scoring",
    device: DEVICE = "cpu",
    reasoning: Annotated[bool, typer.Option("--reasoning", help="think in words first (models of stage grpo)")] = False,
) -> None:
    """Scores clips (0-100, larger is better). A file that cannot be read is listed with its reason, never scored."""
    from vqa2.core.scale import LEVELS
    from vqa2.model.predict import media_files

    files = media_files(target)
    loaded = _load(model, device, reasoning)
    extra = ["text"] if reasoning else [f"p_{level}" for level in LEVELS]
    rows, failed = [], []
    for path in track(files, "scoring", console=err):
        try:
            made = loaded.score(path)
        except MediaError as problem:
            failed.append(str(problem))
            rows.append([str(path), "", *[""] * len(extra), problem.reason])
            continue
        shown = [made.text] if reasoning else [f"{p:.4f}" for p in made.levels]
        rows.append([str(path), f"{made.score100:.3f}", *shown, ""])
        out.print(f"{made.score100:6.2f}  {path}", soft_wrap=True)
    if csv_file is not None:
        with csv_file.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(["path", "score_0_100", *extra, "error"])
            writer.writerows(rows)
    err.print(f"scored {len(files) - len(failed)} of {len(files)} files, scale 0-100, larger is better")
    for line in failed:
        err.print(f"not scored: {line}", markup=False, soft_wrap=True)
    if failed and len(failed) == len(files):
        raise UserError(f"{target}: none of the {len(files)} files could be read")


@app.command()
def describe(target: Path, model: MODEL = "runs/tiny/understanding", device: DEVICE = "cpu") -> None:
    """Describes the quality of one clip in words."""
    out.print(_load(model, device).describe(target), markup=False)


@app.command()
def ask(target: Path, question: str, model: MODEL = "runs/tiny/understanding", device: DEVICE = "cpu") -> None:
    """Answers a question about one clip."""
    out.print(_load(model, device).ask(target, question), markup=False)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="a released VQA², one of ours, or a stock LLaVA-OneVision (or hub id)")],
    target: Annotated[Path, typer.Argument(help="new folder to write")],
    slowfast: Annotated[Path | None, typer.Option(help="SlowFast-R50 weights, for a stock LLaVA-OneVision")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="folder of the tokenizer, where source has none")] = None,
    layout: Annotated[str, typer.Option(help="token layout of a model made from stock weights")] = "interleaved",
) -> None:
    """Converts a checkpoint; what becomes of every tensor is written to TARGET/conversion.json."""
    from vqa2.model.convert import convert as run

    report = run(source, target, slowfast, tokenizer, layout)
    for outcome, count in report.counts().items():
        out.print(f"{count:6d} {outcome}")
    out.print(f"written: {target}")


@app.command()
def doctor(
    settings: Annotated[
        list[str], typer.Argument(help="data=<source> and settings of data_prep, such as root=<folder>")
    ],
) -> None:
    """Says what of a data source is there, missing or broken, where it comes from, and the disk it needs. Exit code 2
    where anything is missing or broken."""
    from data_prep.doctor import diagnose, verdict
    from data_prep.run import DataPrepRun
    from vqa2.core.config import build, decode
    from vqa2.launch import composed, options, pop, split_arguments

    overrides = split_arguments(settings)
    name = pop(overrides, "data")
    if name is None:
        raise ConfigError(f"data: name a source: data=<{'|'.join(options('source'))}>")
    run = decode(DataPrepRun, composed("data_prep", [f"source={name}", *overrides]), "data_prep")
    found = diagnose(run, build("source", run.source, "source"))
    for file in found.missing:
        out.print(f"missing: {file}", markup=False, soft_wrap=True)
    for file, reason in found.broken:
        out.print(f"broken: {file}: {reason}", markup=False, soft_wrap=True)
    good = found.wanted - len(found.missing) - len(found.broken)
    for line in (*found.notes, f"{name}: {good} of {found.wanted} files are there and whole"):
        err.print(line, markup=False, soft_wrap=True)
    verdict(name, found)


def _load(folder: str, device: str, reasoning: bool = False):
    from vqa2 import load

    return load(folder, device, reasoning=reasoning)


def main() -> None:
    """Entry point: user errors are one line and exit code 2."""
    try:
        app(standalone_mode=True)
    except UserError as problem:
        sys.stderr.write(f"error: {' '.join(str(problem).split())}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
