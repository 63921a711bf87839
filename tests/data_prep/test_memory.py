"""The memory of data preparation does not hold the rows: more of them cost what is kept of a row's name."""

import json
import tracemalloc
from pathlib import Path

import pytest

from data_prep import _output, _scan, labels
from data_prep.run import DataPrepRun, prepare
from vqa2.core.config import decode
from vqa2.launch import composed

CLIPS = 100
TEXT = "Is it sharp? " * 300
"""3,900 characters: rows that are held are seen."""


def clips(root: Path, rows: int) -> None:
    listed = root / "LSVQ" / "LSVQ_train_labels.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("".join(f"b/{k}.mp4, -1, -1, {3 + k % 88}\n" for k in range(rows)))


def questions(root: Path, rows: int) -> list[str]:
    """So many rows of `extend` about a hundred clips, of which all but one are drawn."""
    clips(root, CLIPS)
    row = {"kind": "video", "task": "binary", "turns": [{"user": f"<video>\n{TEXT}", "assistant": "Yes"}]}
    with (root / "rows.jsonl").open("w") as out:
        for k in range(rows):
            about = {"clip_id": f"lsvq_train/b/{k % CLIPS}.mp4", "media": f"LSVQ/b/{k % CLIPS}.mp4"}
            out.write(json.dumps({**row, **about, "id": str(k)}) + "\n")
    quota = f"sets.understanding.quotas=[{{sources: [lsvq_train], rows: {rows - 1}}}]"
    return ["set=understanding_extended", f"sets.understanding.file={root / 'rows.jsonl'}", quota]


def peak(root: Path, rows: int) -> int:
    """Bytes that Python holds at most while it writes the set."""
    options = [*questions(root, rows), "source=lsvq_train", f"root={root}", f"out={root}", "media=skip", "workers=1"]
    run = decode(DataPrepRun, composed("data_prep", options), "data_prep")
    tracemalloc.start()
    try:
        prepare(run, progress=False)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_a_row_more_costs_less_than_its_text(tmp_path, monkeypatch):
    # Few rows at a time, so that few rows show what is held beyond them.
    for module, name in ((_scan, "WINDOW"), (labels, "WINDOW"), (_output, "BATCH")):
        monkeypatch.setattr(module, name, 50)
    few, many = 300, 1500
    peak(tmp_path / "first", 10)
    grown = peak(tmp_path / "many", many) - peak(tmp_path / "few", few)
    assert grown < 300 * (many - few)
