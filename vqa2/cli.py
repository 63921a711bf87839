"""The `vqa2` command: score, timeline, describe, ask, route, localize, replay, serve, convert, push, doctor."""

import csv
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vqa2.core.errors import ConfigError, MediaError, UserError
from vqa2.core.progress import bars
from vqa2.launch import exit_code

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

MODEL = Annotated[str, typer.Option("--model", help="run or model folder")]
# `--set llm=http` chooses a component of a group; other settings are values of the predictor.
_GROUPS = {name: name for name in ("llm", "experts", "voice", "decider", "localize")} | {"priors": "router.priors"}
DEVICE = Annotated[str, typer.Option(help="cpu or cuda")]


def _version(asked: bool) -> None:
    if asked:
        out.print(f"vqa2 {version('vqa2')}")
        raise typer.Exit


@app.callback()
def about(
    show: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")] = False,
) -> None:
    """Video quality assessment with a trained model."""


@app.command()
def score(
    targets: Annotated[list[Path], typer.Argument(help="clips, images, or folders of them (with the folders inside)")],
    csv_file: Annotated[Path | None, typer.Option("--out", help="CSV to write, row by row")] = None,
    model: MODEL = "runs/tiny/scoring",
    device: DEVICE = "cpu",
    reasoning: Annotated[bool, typer.Option("--reasoning", help="think in words first (models of stage grpo)")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="files a pass; bounds memory")] = 8,
) -> None:
    """Scores clips (0-100, larger is better). A file that cannot be read is listed with its reason, never scored."""
    from vqa2.core.scale import LEVELS
    from vqa2.model.predict import media_files

    files = [file for target in targets for file in media_files(target)]
    loaded = _load(model, device, reasoning)
    extra = ["text"] if reasoning else [f"p_{level}" for level in LEVELS]
    failed = []
    with _rows(csv_file, ["path", "score_0_100", *extra, "error"]) as write, bars() as shown:
        for start in range(0, len(files), batch_size):
            shown.at("scoring", start, len(files))
            for made in loaded.scores(files[start : start + batch_size]):
                if isinstance(made, MediaError):
                    failed.append(str(made))
                    write([made.path, "", *[""] * len(extra), made.reason])
                    continue
                cells = [made.text] if reasoning else [f"{p:.4f}" for p in made.levels]
                write([made.path, f"{made.score100:.3f}", *cells, ""])
                out.print(f"{made.score100:6.2f}  {made.path}", soft_wrap=True, markup=False)
        shown.at("scoring", len(files))
    err.print(f"scored {len(files) - len(failed)} of {len(files)} files, scale 0-100, larger is better")
    for line in failed:
        err.print(f"not scored: {line}", markup=False, soft_wrap=True)
    if failed and len(failed) == len(files):
        raise UserError(f"none of the {len(files)} files could be read")


@contextmanager
def _rows(path: Path | None, head: list[str]) -> Iterator[Callable[[list], None]]:
    """A function that appends a row to a new CSV, at once on the disk: what is scored survives a kill. Without a path
    it does nothing."""
    if path is None:
        yield lambda row: None
        return
    try:
        handle = path.open("w", newline="", encoding="utf-8")
    except OSError as problem:
        raise ConfigError(f"{path}: {problem.strerror}") from None
    with handle:
        writer = csv.writer(handle)

        def write(row: list) -> None:
            writer.writerow(row)
            handle.flush()

        write(head)
        yield write


@app.command()
def timeline(
    target: Annotated[Path, typer.Argument(help="a clip")],
    csv_file: Annotated[Path | None, typer.Option("--out", help="CSV to write")] = None,
    model: MODEL = "runs/tiny/scoring",
    device: DEVICE = "cpu",
) -> None:
    """Scores every second of a clip by itself (0-100, larger is better): where does quality fall?"""
    scores = _load(model, device).seconds(target)
    with _rows(csv_file, ["path", "second", "score_0_100"]) as write:
        for second, made in enumerate(scores):
            write([made.path, second, f"{made.score100:.3f}"])
            out.print(f"{second:4d} s  {made.score100:6.2f}")


@app.command()
def describe(target: Path, model: MODEL = "runs/tiny/understanding", device: DEVICE = "cpu") -> None:
    """Describes the quality of one clip in words."""
    out.print(_load(model, device).describe(target), markup=False)


SET = Annotated[
    list[str] | None, typer.Option("--set", help="setting of conf/predictor, as key=value; may be repeated")
]
HTML = Annotated[Path | None, typer.Option(help="page of the trace to write")]


@app.command()
def ask(
    target: Path,
    question: str,
    model: MODEL = "runs/tiny/understanding",
    device: DEVICE = "cpu",
    agent: Annotated[bool, typer.Option("--agent", help="let the agent answer, with experts and evidence")] = False,
    settings: SET = None,
    html: HTML = None,
) -> None:
    """Answers a question about one clip: a trained model, or with --agent planner, experts and summarizer."""
    if agent:
        _program("agent", target, question, settings or [], html)
    else:
        out.print(_load(model, device).ask(target, question), markup=False)


@app.command()
def route(
    target: Path,
    tier: Annotated[int, typer.Option(help="0: one expert, 1: several, 2: with localization")] = 1,
    reference: Annotated[Path | None, typer.Option(help="pristine clip, for full-reference experts")] = None,
    settings: SET = None,
    html: HTML = None,
) -> None:
    """Scores one clip by experts that are chosen and weighted for it (0-100, larger is better)."""
    _program("router", target, None, [f"router.tier={tier}", *(settings or [])], html, reference)


@app.command()
def localize(
    target: Path,
    folder: Annotated[Path, typer.Option("--out", help="folder to write to")] = Path("runs/localized"),
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="setting of conf/localize, as key=value; may be repeated")
    ] = None,
) -> None:
    """Says where and when one clip is damaged: as JSON, as a clip with heat and boxes, and as one strip of frames."""
    from vqa2.core.config import decode
    from vqa2.experts.base import Media
    from vqa2.experts.localization.localize import LocalizeSpec
    from vqa2.experts.localization.render import overlay, strip
    from vqa2.launch import composed
    from vqa2.model.predict import kind_of

    values = composed("localization", [f"localize.{item}" for item in settings or []])["localize"]
    media = Media(path=target, kind=kind_of(target))
    found = decode(LocalizeSpec, values, "localize").open()(media)
    folder.mkdir(parents=True, exist_ok=True)
    written = {suffix: folder / f"{target.name}.{suffix}" for suffix in ("json", "mp4", "png")}
    written["json"].write_text(found.to_json() + "\n", encoding="utf-8")
    overlay(media, found, written["mp4"])
    strip(media, found, written["png"])
    for f in found.findings:
        place = f.note or f"{f.boxes[0]}, severity {f.severity:.2f}"
        out.print(f"{f.start_s:.2f} to {f.end_s:.2f} s: {f.kind} ({f.kind_p:.2f}), {place}", markup=False)
    err.print(f"{len(found.findings)} damaged stretches; {', '.join(map(str, written.values()))}", soft_wrap=True)


@app.command()
def replay(
    trace: Path,
    html: HTML = None,
) -> None:
    """Repeats a router's or agent's run from its trace alone and checks that every byte is the same."""
    from vqa2.agents.run import check
    from vqa2.agents.trace import read_trace
    from vqa2.agents.view import write_page

    stored = read_trace(trace)
    check(stored)
    out.print(f"identical: {len(stored.steps)} steps, no model and no expert asked")
    if html is not None:
        write_page(html, stored)


@app.command()
def serve(
    model: Annotated[str, typer.Option(help="run or model folder that scores")] = "runs/tiny/scoring",
    assistant: Annotated[str, typer.Option(help="run or model folder that answers")] = "runs/tiny/understanding",
    device: DEVICE = "cpu",
    host: Annotated[str, typer.Option(help="0.0.0.0 is every network; there is no password")] = "127.0.0.1",
    port: int = 8000,
    max_mb: Annotated[int, typer.Option(min=1, help="largest request in MiB")] = 512,
    batch_size: Annotated[int, typer.Option(min=1, help="files a pass; bounds memory")] = 8,
) -> None:
    """Scores and answers over HTTP, and a page to try it in a browser."""
    try:
        import uvicorn

        from vqa2.serve import application
    except ImportError as missing:
        raise ConfigError(f"serve: {missing.name} is not installed; pip install 'vqa2[serve]'") from None
    service = application(_load(model, device), _load(assistant, device), max_mb, batch_size)
    err.print(f"http://{host}:{port} is the page, /docs the interface; Ctrl-C ends it")
    uvicorn.run(service, host=host, port=port, log_level="warning")


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
def push(
    run: Annotated[Path, typer.Argument(help="a finished stage, such as runs/tiny/scoring")],
    repo: Annotated[str, typer.Argument(help="user/name on the Hugging Face hub")],
    license: Annotated[str, typer.Option(help="of the weights: what base model and data allow, such as apache-2.0")],
    public: Annotated[bool, typer.Option("--public", help="make a new repository public")] = False,
) -> None:
    """Uploads a trained model and its card: training sets, results with counts, limits. Log in with `hf auth login`."""
    from vqa2.train.card import push as run_push

    out.print(run_push(run, repo, license, public), markup=False)


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
    # A source's own sets have files, too (vqa2_released).
    own = [f"set={name}"] if name in options("set") and not any(o.startswith("set=") for o in overrides) else []
    run = decode(DataPrepRun, composed("data_prep", [f"source={name}", *own, *overrides]), "data_prep")
    found = diagnose(run, build("source", run.source, "source"), progress=True)
    for file in found.missing:
        out.print(f"missing: {file}", markup=False, soft_wrap=True)
    for file, reason in found.broken:
        out.print(f"broken: {file}: {reason}", markup=False, soft_wrap=True)
    good = found.wanted - len(found.missing) - len(found.broken)
    for line in (*found.notes, f"{name}: {good} of {found.wanted} files are there and whole"):
        err.print(line, markup=False, soft_wrap=True)
    verdict(name, found)


def _program(
    name: str, target: Path, question: str | None, settings: list[str], html: Path | None, reference: Path | None = None
) -> None:
    """Runs the router or the agent as conf/predictor has it, prints the answer, what it cost and where its trace is."""
    from vqa2.agents.view import write_page
    from vqa2.agents.world import Asked
    from vqa2.core.config import build
    from vqa2.launch import composed
    from vqa2.model.predict import kind_of

    groups, values = [], []
    for item in settings:
        key, _, value = item.partition("=")
        if key in _GROUPS:
            groups.append(f"{key}@predictor.{_GROUPS[key]}={value}")
        else:
            values.append(f"predictor.{item}")
    made = build("predictor", composed("eval", [f"predictor={name}", *groups, *values])["predictor"], "predictor")
    if not any(Path(made.experts.calibration).glob("*.json")):
        raise ConfigError(f"{made.experts.calibration}: no expert is calibrated; run `python -m vqa2.experts` first")
    predictor = made.open()
    asked = Asked(id=target.name, path=target.resolve(), kind=kind_of(target), question=question, reference=reference)
    trace, path = predictor.trace(asked)
    left_out = [f"{tool} is left out: {reason}" for tool, reason in trace.config["left_out"].items()]
    for note in (*left_out, *trace.notes):
        err.print(f"note: {note}", markup=False, soft_wrap=True)
    if html is not None:
        write_page(html, trace)
    spent = trace.spending
    cost = f"{spent['seconds']:.2f} s, {spent['experts']} experts, {spent['llm_calls']} chat tries"
    err.print(f"{cost}; trace: {path}", soft_wrap=True)
    if "error" in trace.result:
        reason = trace.result["error"]
        raise UserError(reason if reason.startswith(str(asked.path)) else f"{target}: {reason}")
    result = trace.result
    out.print(f"{100 * result['score01']:.2f}" if "score01" in result else result["text"], markup=False)


def _load(folder: str, device: str, reasoning: bool = False):
    from vqa2 import load

    return load(folder, device, reasoning=reasoning)


def main() -> None:
    """Entry point: user errors are one line and exit code 2."""
    sys.exit(exit_code(app))


if __name__ == "__main__":
    main()
