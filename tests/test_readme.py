"""Commands, snippets and links of README and docs are true.

Every command is taken apart against what it names: make targets resolve, settings compose, `vqa2` and `curl` lines fit
the commands and routes that there are. Python snippets run, on a small trained model. What needs GPUs, downloads or a
key must say so in its comment. Commands that run for real, on small inputs: train, eval and score (test_entry.py,
test_chain.py), data_prep and its commands (data_prep/), serve (test_serve.py), convert (model/test_convert.py), route
and replay (agents/), experts (experts/).
"""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from data_prep.__main__ import COMMANDS
from vqa2.cli import app
from vqa2.launch import composed, options, split_arguments

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = "make|python|vqa2|torchrun|accelerate|srun|curl|pip"
LAUNCHERS = ("torchrun", "accelerate", "srun")
ROOTS = {"vqa2.experts": "experts", "vqa2.experts.localization": "localization", "vqa2.agents": "routing"}
COSTLY = re.compile(
    r"preset=paper|device=cuda|engine=(ddp|zero)(?!.*device=cpu)|llm=(http|local|vlm)|q-future/|llava-hf/"
)


def commands() -> list[tuple[str, str, str | None]]:
    """(page, command, its comment) of fenced or indented code, and (page, command, None) of inline code; lines that
    show a place to fill in, `<folder>` or `...`, are left out."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(rf"^(?: {{4}})?((?:{PROGRAMS}) .+)", text, re.M):
            command, _, comment = line.partition("#")
            if "`" not in command:
                found += [(page.name, part.strip(), comment) for part in command.split("&&")]
        found += [(page.name, line, None) for line in re.findall(rf"`((?:{PROGRAMS}) [^`\n]+)`", text)]
    return [row for row in found if "<" not in row[1] and "..." not in row[1]]


def snippets() -> list[tuple[str, str]]:
    return [
        (page.name, code)
        for page in PAGES
        if page.name != "CONTRIBUTING.md"  # tests/rewards/test_contributing.py
        for code in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    ]


def test_pages_have_commands_and_snippets():
    assert len(commands()) >= 60
    assert {command.split()[0] for _, command, _ in commands()} >= {"make", "python", "vqa2", "torchrun", "curl", "pip"}
    assert {"README.md", "rewards.md"} <= {page for page, _ in snippets()}


@pytest.mark.parametrize(("command", "page"), {command: page for page, command, _ in commands()}.items())
def test_a_documented_command_exists(command, page):
    words = shlex.split(command)
    tables = [word.partition("=")[2] for word in words if word.startswith("table=")]
    assert set(tables) <= set(options("table")), command
    if words[0] in LAUNCHERS:
        script = next((number for number, word in enumerate(words) if word.endswith(".py")), None)
        if script is None:
            return  # an option of the launcher is spoken of
        words = ["python", *words[script:]]
    {"make": made, "python": run_by_python, "vqa2": typed, "curl": asked, "pip": installed}[words[0]](words)


def made(words: list[str]) -> None:
    done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def run_by_python(words: list[str]) -> None:
    if words[1] != "-m":
        assert (ROOT / words[1]).is_file()
        if words[1] in ("train.py", "eval.py"):
            settings = [w for w in words[2:] if w not in ("--help", "--cfg", "job", "stage=all")]
            composed(words[1].removesuffix(".py"), split_arguments(settings))
        return
    module, rest = words[2], words[3:]
    if module == "vqa2.lmms":
        composed("eval", [w for w in split_arguments(rest) if not w.startswith("out=")])
    elif module in ROOTS:
        composed(ROOTS[module], split_arguments(rest))
    elif rest and rest[0] in COMMANDS:
        assert module == "data_prep"
        composed(rest[0], split_arguments(rest[1:], COMMANDS[rest[0]][1]))
    else:
        assert module == "data_prep"
        composed("data_prep", split_arguments(rest))


def typed(words: list[str]) -> None:
    """Options and arguments of a `vqa2` line, taken apart by the program's own parser; nothing runs."""
    program = typer.main.get_command(app)
    context = program.make_context("vqa2", words[1:])
    name, command, rest = program.resolve_command(context, words[1:])
    assert command is not None
    if not rest:
        return  # a command is spoken of
    parsed = command.make_context(name, rest, parent=context)
    if name == "doctor":
        composed("data_prep", [w.replace("data=", "source=", 1) for w in parsed.params["settings"]])


def asked(words: list[str]) -> None:
    """A `curl` line: the path is a route of the service and the form fields are its parameters."""
    from vqa2.serve import application

    url = next(word for word in words if word.startswith("http://"))
    route = next(r for r in application(None, None, 1, 1).routes if r.path == "/" + url.split("/", 3)[3])
    fields = {word.partition("=")[0] for flag, word in zip(words, words[1:]) if flag == "-F"}
    assert fields == {field.name for field in route.dependant.body_params}


def installed(words: list[str]) -> None:
    extra = re.fullmatch(r"vqa2\[(\w+)\]", words[-1])
    assert extra is None or f"\n{extra[1]} = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_what_is_costly_says_so():
    costly = [row for row in commands() if COSTLY.search(row[1]) and row[2] is not None]
    assert len(costly) >= 8
    assert [row for row in costly if not re.search("need", row[2])] == []


@pytest.mark.parametrize(("page", "code"), snippets())
def test_a_documented_snippet_runs(page, code, trained, data_root, tmp_path, monkeypatch):
    """Where its files would be lie a small trained model and a clip."""
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    (tmp_path / "runs" / "tiny" / "scoring").symlink_to(trained)
    shutil.copy(next((data_root / "media" / "test").glob("*.mp4")), tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "__main__"}
    exec(compile(code, page, "exec"), names)
    if "score" in names:
        assert 0 <= names["score"].score01 <= 1


def test_links_lead_to_files():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_make_help_lists_every_target():
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", text, re.M))
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = {line.split()[0] for line in done.stdout.splitlines() if line}
    assert targets <= listed | {"setup"}
    assert {"setup", "demo", "train", "eval", "table", "test", "test-all", "lint", "format", "bench", "clean"} <= listed
