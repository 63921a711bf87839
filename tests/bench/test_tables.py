"""table.py itself: files and terminal, choice by preset, unknown names, arms that it makes, what it may import."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from vqa2.bench._runner import run, write_report
from vqa2.core.config import build
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.prompts import SCORE_QUESTION
from vqa2.launch import composed
from vqa2.tables import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tables(tmp_path, capsys):
    """Runs table.py on the run folders of `tmp_path`; what it prints."""

    def show(*overrides):
        main([*overrides, f"runs={tmp_path}"])
        return capsys.readouterr().out

    return show


def test_four_files_from_reports_on_disk(konvid, tables, tmp_path):
    write_report(tmp_path / "paper" / "eval" / "konvid-1k" / "report.json", konvid())
    shown = tables("table=vqa2-2")
    assert {p.suffix for p in (tmp_path / "tables").iterdir()} == {".csv", ".html", ".md", ".tex"}
    text = (tmp_path / "tables" / "vqa2-2.md").read_text()
    assert shown == text
    assert text.startswith("# VQA², table 2")
    assert "| UGC-scorer | konvid-1k srcc | 0.894 | 0.988 | +0.094 |" in text
    assert re.search(r"^- UGC-scorer: run paper: scripted(, commit \w+( with changes)?)?$", text, re.MULTILINE)
    first = (
        "## Not run: UGC-scorer\n\nMissing here: checkpoints/start, data/vqa2/distortion_spatial.train.jsonl, "
        "data/vqa2/scoring_ugc.train.jsonl. First:\n\n```bash\n"
        "vqa2 convert llava-hf/llava-onevision-qwen2-7b-ov-chat-hf checkpoints/start --slowfast SLOWFAST_8x8_R50.pyth\n"
        "python -m data_prep source=vqa2_leakfree set=vqa2 out=data/vqa2\n"
        "torchrun --nproc_per_node 8 train.py stage=distortion preset=paper stage.init_from=checkpoints/start "
        f"out={tmp_path}\n"
        f"torchrun --nproc_per_node 8 train.py stage=scoring preset=paper out={tmp_path}\n```\n"
    )
    assert first in text
    assert (
        "| lsvq-test srcc, lsvq-test plcc | data/lsvq-test/scoring_ugc.test.jsonl | "
        "`python -m data_prep source=vqathinker_lsvq_test set=scoring_ugc out=data/lsvq-test && "
        f"python eval.py run=paper benchmark=lsvq-test predictor.device=cuda train_preset=paper runs={tmp_path}` |"
    ) in text


def test_questions_of_our_own_do_not_rank_beside_the_papers(tables, tmp_path, write_json, scripted, quiet):
    """As many as AgenticIQA-Eval has, in its form, all answered rightly."""
    tracks = ("planner", "executor-distortion", "executor-tool", "summarizer")
    record = {"image": "a.png", "question": "Sharp?", "answers": ["Yes", "No"], "correct_choice": "A"}
    values = composed("eval", ["benchmark=agenticiqa-eval"])["benchmarks"]["agenticiqa-eval"]
    file = write_json([{**record, "track": tracks[n % 4]} for n in range(values["published_n"])])
    made = build("benchmark", {**values, "file": str(file), "bootstrap": 0}, "b")
    right = scripted({i.query.id: "A" for i in made.items()})
    run(made, right, tmp_path / "agent" / "eval" / "agenticiqa-eval", quiet)
    shown = tables("table=agenticiqa-1")
    assert "| Agent (ours, rules) | (100.00) | (100.00) | (100.00) | (100.00) | (100.00) |" in shown
    assert "not the paper's questions, which are not released" in shown
    assert "**100.00**" not in shown


def test_a_report_that_breaks_off_is_one_line(tables, tmp_path):
    path = tmp_path / "paper" / "eval" / "konvid-1k" / "report.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"benchmark": "konvid-1k", "predic')
    with pytest.raises(DataError, match=rf"{re.escape(str(path))}: no report"):
        tables("table=vqa2-2")


NEAREST = {"2": "vqa2-2", "vqa-2": "vqa2-2", "vqa2_7": "vqa2-7", "qbench": "qrouter-qbench"}


@pytest.mark.parametrize("name", NEAREST)
def test_an_unknown_table_is_answered_with_the_nearest(tables, name):
    nearest = NEAREST[name]
    with pytest.raises(ConfigError, match=rf"table={name}: no such table \(did you mean '{nearest}'\?\); known: agent"):
        tables(f"table={name}")


def test_unknown_settings_stop(tables):
    with pytest.raises(ConfigError, match=r"preset=papr: no such preset \(did you mean 'paper'\?\)"):
        tables("table=vqa2-7", "preset=papr")
    with pytest.raises(ConfigError, match="table: name one, for example table=vqa2-2; known: agenticiqa-1"):
        tables()
    with pytest.raises(ConfigError, match=r"benchmark=\[agenticiqa-eval,tid\]: no such benchmark"):
        tables("table=agenticiqa-1", "table.columns.overall.benchmark=tid")


def test_the_preset_chooses_between_embedded_and_published(tables, tmp_path):
    assert tables("table=vqa2-7", "preset=paper").startswith("# VQA², table 7")
    assert (tmp_path / "tables" / "vqa2-7.md").is_file()
    embedded = tables("table=vqa2-7", "table.produce=false")
    assert embedded.startswith("# Embedded data: VQA², table 7")
    assert "not the published setting: nothing here is comparable with the paper" in embedded
    assert (tmp_path / "tables" / "vqa2-7-tiny.md").is_file()
    assert tables("table=vqa2-2", "preset=tiny").startswith("# VQA², table 2"), "no embedded one: the published table"


def test_published_figures_are_shown_at_once(tmp_path):
    """No model, no scipy.stats: `table.py` of published figures alone answers in a second."""
    heavy = ("torch", "transformers", "scipy.stats", "matplotlib", "pandas", "datasets")
    code = (
        "import sys; from vqa2.tables import main; "
        f"main(['table=vqathinker-1', 'runs={tmp_path}']); "
        f"sys.exit(str([m for m in {heavy} if m in sys.modules]) if set({heavy}) & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# VQAThinker, table 1")


@pytest.mark.slow
def test_arms_are_made_by_the_table_s_commands(tables, tmp_path, write_set, make_row):
    """Two predictions files of known SRCC through eval.py itself: an ablation's table from nothing."""
    root = write_set("scoring_ugc.test.jsonl", [make_row(n, SCORE_QUESTION, mos=10.0 * n, distortion="noise",
                                                         mos_rule="vmaf") for n in range(6)])  # fmt: skip
    commands = []
    saved = f"{tmp_path}/right/eval/synthetic/answers.jsonl"
    for name, order in (("right", [0, 1, 2, 3, 4, 5]), ("swapped", [1, 0, 2, 3, 4, 5])):
        rows = [f'{{"id": "c{n}", "score01": {0.1 * order[n]}}}\n' for n in range(6)]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
        commands.append(
            f"python eval.py benchmark=synthetic benchmarks.synthetic.root={root} predictor=saved "
            f"predictor.answers={tmp_path / name}.jsonl run={name} samples=0"
        )
    commands[1] += f" against={saved}"
    arms = [f'{row}: {{run: {run}, of: null, minus: {minus}, model: null, commands: []}}'
            for row, run, minus in (("right", "right", "null"), ("swapped", "swapped", "null"),
                                    ("difference", "swapped", saved))]  # fmt: skip
    made = ["table=vqa2-6", "~table.measured", "~table.commands"]
    shown = tables(*made, f"+table.measured={{{', '.join(arms)}}}", f"+table.commands={commands}")
    assert "swapped | synthetic srcc | – | 0.943 | – |" in shown
    assert "- right: run right: " in shown
    difference = next(line for line in shown.splitlines() if line.startswith("| difference | synthetic srcc |"))
    assert re.search(r"\| – \| -0\.057 \| – \| .+ … .+ \| 6 \| measured \| p = .+ \(paired bootstrap", difference)
    assert (tmp_path / "tables" / "vqa2-6-tiny.csv").is_file()
    with pytest.raises(DataError, match=r"`python no-such-file.py` failed \(exit code 2\)"):
        tables(*made, f"+table.measured={{{arms[0]}}}", "+table.commands=[python no-such-file.py]")
