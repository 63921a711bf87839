"""Published figures of the package, value by value, against the folder they were copied from and against the tables of
the dossiers (`facts/*.md`): two transcriptions that must agree. Needs them beside the repository."""

import csv
import re
from pathlib import Path

import pytest

from vqa2.bench._paper import PUBLISHED, make_cells
from vqa2.core.config import decode
from vqa2.launch import composed
from vqa2.tables import TableRun

SHARED = Path(__file__).parents[2] / ".." / "shared"
pytestmark = pytest.mark.skipif(not (SHARED / "facts").is_dir(), reason="shared facts are not here")


def ours(name):
    """Values by (row, rest of the key), as numbers."""
    with (PUBLISHED / name).open(encoding="utf-8", newline="") as handle:
        rows = [list(r.values()) for r in csv.DictReader(handle)]
    return {(r[0], " ".join(r[1:-1])): float(r[-1]) for r in rows}


def rows_under(file, heading):
    """Rows of the first Markdown table after a line that holds `heading`, as plain texts without bold."""
    text = (SHARED / "facts" / file).read_text(encoding="utf-8")
    assert text.count(heading) == 1, f"{heading!r} stands {text.count(heading)} times in {file}"
    lines = text.partition(heading)[2].splitlines()
    start = next(n for n, line in enumerate(lines) if line.lstrip().startswith("|---"))
    rows = []
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.replace("**", "").strip() for cell in line.strip().strip("|").split("|")])
    return rows


def numbers(cell):
    return [float(n) for n in re.findall(r"(?<![\w.])\d*\.\d+", cell)]


def pairs(rows, sets, names=lambda text: text):
    """`.864/.861` under each set: SRCC and PLCC by (row, column); `-` is no value."""
    found = {}
    for label, *cells in rows:
        for dataset, cell in zip(sets, cells, strict=True):
            if numbers(cell):
                srcc, plcc = numbers(cell)[:2]
                found |= {(names(label), f"{dataset} srcc"): srcc, (names(label), f"{dataset} plcc"): plcc}
    return found


def test_files_are_those_of_the_shared_folder():
    """Table 1 of VQA² counts data, not results; docs/data.md has it."""
    theirs = {p.name: p for p in (SHARED / "published").glob("*.csv") if p.name != "vqa2_table1_dataset.csv"}
    assert len(theirs) == 9
    for name, path in theirs.items():
        assert (PUBLISHED / name).read_text(encoding="utf-8") == path.read_text(encoding="utf-8"), name


def test_vqathinker_table_1():
    inside = pairs(rows_under("vqathinker.md", "### Table 1 in-domain"),
                   ("lsvq-test", "lsvq-1080p", "konvid-1k", "live-vqc", "yt-ugc-1020"))  # fmt: skip
    outside = pairs(rows_under("vqathinker.md", "### Table 1 out-of-distribution"),
                    ("live-yt-gaming", "cgvds", "live-yt-hfr", "waterloo-ivc-4k", "vdpve"))  # fmt: skip
    assert inside.keys().isdisjoint(outside)
    assert len(inside) == 98
    assert len(outside) == 90
    assert ours("vqathinker_table1.csv") == inside | outside


def test_the_weighted_means_of_vqathinker_are_those_that_were_quoted():
    """.855/.866 over the five sets inside (W2S-VQA; .8555/.8655 recomputed), .661/.698 over those outside."""
    table = decode(TableRun, composed("table", ["table=vqathinker-1", "name=x"]), "table").table
    cells = make_cells(table, lambda run, b: None, lambda b: [])
    found = {(c.row, c.column): c.published for c in cells}
    inside, outside = "VQAThinker (LSVQ)", "VQAThinker"
    for row, column, value in (
        (inside, "in-domain mean srcc", 0.8555),
        (inside, "in-domain mean plcc", 0.8655),
        (outside, "out-of-domain mean srcc", 0.661),
        (outside, "out-of-domain mean plcc", 0.698),
    ):
        assert found[row, column] == pytest.approx(value, abs=0.0005), column


def test_qualirag_table_2():
    """Two dossiers quote it; the second has two rows that the first has not."""
    columns = ("binary", "multi", "open", "tech", "aes", "temp", "aigc", "overall")
    names = {"VQA^2": "VQA2", 'InternVL3 ("9B" in QualiRAG)': "InternVL3"}
    found = {}
    for rows in (
        rows_under("agentic.md", "as tabulated by QualiRAG Table 2"),
        rows_under("vqathinker.md", "(the paper's own understanding tables were not obtainable)"),
    ):
        for label, *cells in rows:
            name = names.get(label, label.partition(" (InternVL3-9B +")[0])
            for column, cell in zip(columns, cells, strict=True):
                value = float(cell)
                assert found.setdefault((name, f"dev {column}"), value) == value, (name, column)
    assert len(found) == 80
    assert ours("qualirag_qbench_video_dev.csv") == found


def test_agenticiqa_table_1():
    tracks = ("planner", "executor-distortion", "executor-tool", "summarizer", "overall")
    rows = rows_under("agentic.md", "Planner / Exec-Distortion / Exec-Tool / Summarizer / Overall")
    found = {(label, track): float(cell.split()[0]) for label, *cells in rows
             for track, cell in zip(tracks, cells, strict=True)}  # fmt: skip
    assert len(found) == 55
    assert ours("agenticiqa_table1_eval.csv") == found
    for label in dict(found):
        name = label[0]
        mean = sum(found[name, t] for t in tracks[:4]) / 4
        assert found[name, "overall"] == pytest.approx(mean, abs=0.051), "overall is the plain mean of the tracks"


def test_agenticiqa_table_2():
    first, *rows = rows_under("agentic.md", "Table 2, SRCC / PLCC")
    found = pairs(rows, ("tid2013", "bid", "agiqa-3k"))
    # The row of full-reference methods has one pair each; AGIQA-3K's doubtful cell names the value of table 4 as well.
    values = numbers(first[1])
    for n, name in enumerate(("LPIPS", "DISTS", "WaDIQaM", "TopIQ")):
        found |= {(name, "tid2013 srcc"): values[2 * n], (name, "tid2013 plcc"): values[2 * n + 1]}
    qwen = next(row for row in rows if row[0] == "AgenticIQA (Qwen2.5-VL*)")
    assert numbers(qwen[3]) == [0.7165, 0.7465, 0.7967]
    found["AgenticIQA (Qwen2.5-VL*)", "agiqa-3k plcc"] = 0.7967
    assert len(found) == 62
    assert ours("agenticiqa_table2_scoring.csv") == found


def test_agenticiqa_table_3():
    text = (SHARED / "facts" / "agentic.md").read_text(encoding="utf-8")
    line = text.partition("question types / concerns / overall %: ")[2].partition("\n\n")[0].replace("**", "")
    names = {"LLaVA-OV": "LLaVA-OneVision", "AgenticIQA Qwen*": "AgenticIQA (Qwen2.5-VL*)",
             "AgenticIQA GPT-4o": "AgenticIQA (GPT-4o)", "senior": "senior human"}  # fmt: skip
    found = {}
    for label, *values in re.findall(r"([^;\n]+?) (\d+\.\d+)/(\d+\.\d+)/(\d+\.\d+)", line):
        for column, value in zip(("question types", "concerns", "overall"), values):
            found[names.get(label.strip(), label.strip()), column] = float(value)
    assert len(found) == 39
    assert ours("agenticiqa_table3_qbench.csv") == found


def test_agenticiqa_table_4_and_figure_4():
    found = {}
    names = {"LLaVA-OV": "LLaVA-OneVision"}
    for label, *cells in rows_under("agentic.md", "Table 4 + Fig 4 combined"):
        name = names.get(label, label)
        for dataset, cell in zip(("tid2013 srcc", "bid srcc", "agiqa-3k srcc"), cells):
            for setting, text in zip(("VLM alone", "agent, uniform", "agent, weighted"), cell.split("->"), strict=True):
                found |= {(f"{name}: {setting}", dataset): n for n in numbers(text)}
        alone, agent = numbers(cells[3])
        found[f"{name}: VLM alone", "llvisionqa accuracy"] = alone
        found[f"{name}: agent, weighted", "llvisionqa accuracy"] = agent
    assert len(found) == 30
    assert ours("agenticiqa_table4_ablation.csv") == found
