"""The architecture's rules, read from the source: imports point one way, files stay short, nothing is swallowed."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(p for d in ("vqa2", "data_prep") for p in (ROOT / d).rglob("*.py"))
ENTRY = {
    "vqa2/launch.py",
    "vqa2/evaluate.py",
    "vqa2/lmms.py",
    "vqa2/tables.py",
    "vqa2/api.py",
    "vqa2/cli.py",
    "vqa2/programs.py",
    "vqa2/serve.py",
    "vqa2/__init__.py",
    "vqa2/experts/__main__.py",
    "vqa2/agents/__main__.py",
    "vqa2/experts/localization/__main__.py",
    "data_prep/__main__.py",
}
OURS = {
    "vqa2/core": {"vqa2.core"},
    "vqa2/data": {"vqa2.core", "vqa2.data"},
    "vqa2/model": {"vqa2.core", "vqa2.data", "vqa2.model"},
    "vqa2/rewards": {"vqa2.core", "vqa2.rewards"},
    "vqa2/bench": {"vqa2.core", "vqa2.bench"},
    # llm=vqa2 is a model of ours.
    "vqa2/llms": {"vqa2.core", "vqa2.data", "vqa2.llms", "vqa2.model"},
    "vqa2/agents": {"vqa2.core", "vqa2.data", "vqa2.experts", "vqa2.agents"},
    "vqa2/experts": {"vqa2.core", "vqa2.data", "vqa2.experts"},
    "vqa2/predictors": {
        f"vqa2.{part}" for part in ("core", "data", "experts", "agents", "model", "rewards", "predictors")
    },
    # vqa2.bench is torch-free: a Trainer callback asks benchmarks of the model in training.
    # vqa2.experts: the learned router is trained on what they say.
    # The model in training may be asked to rate in words.
    "vqa2/train": {f"vqa2.{part}" for part in ("bench", "core", "data", "experts", "model", "rewards", "train")}
    | {"data_prep.run", "data_prep.overlap", "vqa2.predictors.reasoning"},
    # Of the agent, what it asks models and how they reply: training rows are made of it.
    "data_prep": {"vqa2.core", "data_prep"}
    | {f"vqa2.agents.{part}" for part in ("roles", "schemas", "evidence", "_names", "_tasks")},
}
TORCH_FREE = (
    "vqa2/llms/http.py",
    "vqa2/llms/_schema.py",
    "vqa2/core",
    "vqa2/rewards",
    "vqa2/bench",
    "vqa2/agents",
    "data_prep",
)
ONE_PLACE = {
    "hydra": ("vqa2/launch.py",),
    "omegaconf": ("vqa2/launch.py",),
    "peft": ("vqa2/model/tune.py",),
    "trl": ("vqa2/train",),
    "openai": ("vqa2/llms/http.py",),
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_layers(path):
    where = path.relative_to(ROOT).as_posix()
    names = imported(path)
    if where not in ENTRY:
        layer = next(k for k in OURS if where.startswith(f"{k}/"))
        ours = {n for n in names if n.startswith(("vqa2.", "data_prep"))}
        wrong = {n for n in ours if not any(n == a or n.startswith(f"{a}.") for a in OURS[layer])}
        assert not wrong, f"{where} imports {sorted(wrong)}"
        if layer in TORCH_FREE:
            assert not {n for n in names if n.split(".")[0] in ("torch", "transformers", "peft", "trl")}, where
    for library, places in ONE_PLACE.items():
        used = any(n.split(".")[0] == library for n in names)
        assert not used or where.startswith(places), f"{where} imports {library}, which belongs to {places}"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350, f"{where} is longer than 350 lines"


@pytest.mark.parametrize("name", ["train.py", "eval.py", "table.py"])
def test_entry_points_stay_short(name):
    assert len((ROOT / name).read_text().splitlines()) < 60
