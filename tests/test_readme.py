"""The commands of README and docs exist: make targets resolve, settings compose, linked files are there."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from data_prep.__main__ import COMMANDS
from vqa2.launch import composed, options, split_arguments

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[tuple[str, str]]:
    """Commands of fenced or indented code, comments cut off; inline ones between back-quotes too."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines = re.findall(r"^(?: {4})?((?:make|python) [^\n#`]*)", text, re.M)
        lines += re.findall(r"`((?:make|python) [^`]+)`", text)
        found += [(page.name, part.strip()) for line in lines for part in line.split("&&") if "<" not in part]
    return found


def test_pages_have_commands():
    assert len(commands()) >= 8


@pytest.mark.parametrize(("page", "command"), commands())
def test_a_documented_command_exists(page, command):
    words = shlex.split(command)
    tables = [word.partition("=")[2] for word in words if word.startswith("table=")]
    assert set(tables) <= set(options("table")), command
    if words[0] == "make":
        done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return
    script = words[1]
    if script == "-m":
        if words[2] == "vqa2.lmms":
            composed("eval", [w for w in split_arguments(words[3:]) if not w.startswith("out=")])
            return
        roots = {"vqa2.experts": "experts", "vqa2.experts.localization": "localization", "vqa2.agents": "routing"}
        if words[2] in roots:
            composed(roots[words[2]], split_arguments(words[3:]))
            return
        assert words[2] == "data_prep"
        if words[3:] and words[3] in COMMANDS:
            composed(words[3], split_arguments(words[4:], COMMANDS[words[3]][1]))
        else:
            composed("data_prep", split_arguments(words[3:]))
        return
    assert (ROOT / script).is_file()
    if script in ("train.py", "eval.py"):
        composed(script.removesuffix(".py"), [w for w in split_arguments(words[2:]) if w != "stage=all"])


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
