"""Our benchmarks as lmms-eval tasks, so that others' models are asked the same questions and graded by the same code:
`python -m vqa2.lmms benchmark=qbench-video-dev benchmarks.qbench-video-dev.prompt=official`, then
`accelerate launch -m lmms_eval --include_path data/lmms --tasks vqa2_qbench_video_dev --model ...`.

An entry-point module. Writes, per benchmark, a JSONL of questions, the benchmark's settings, a task YAML and the
functions it names. A clip is rated by a number on 0-100 that the reply must consist of: other models have no level
tokens that a harness could read. The report goes to `<out>/<task>.report.json`, in the form of our own.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from vqa2.bench._items import Item
from vqa2.bench._origin import origin
from vqa2.bench._runner import write_report
from vqa2.core.config import build
from vqa2.core.errors import ConfigError
from vqa2.core.prompts import with_counts
from vqa2.core.records import Answer, Report
from vqa2.core.run import environment, say
from vqa2.launch import composed, guarded, pop, pop_count

RATE = "Rate the quality of this video from 0 (worst) to 100 (best). Answer with the number only."
_NUMBER = re.compile(r"\s*(\d{1,3}(?:\.\d+)?)\s*\.?\s*")
_MARKS = re.compile(r"<video>\s*|<motion>\s*")
_UTILS = '''"""Functions of the lmms-eval task {task}; written by vqa2.lmms."""

from pathlib import Path

from vqa2.lmms import Task

_TASK = Task(Path(__file__).parent, "{task}")
text, visual, messages, process = _TASK.text, _TASK.visual, _TASK.messages, _TASK.process
'''


class Task:
    """One exported benchmark: what lmms-eval asks, and what it makes of the replies."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        values = json.loads((folder / f"{name}.settings.json").read_text(encoding="utf-8"))
        self.benchmark = build("benchmark", values, name)
        self._reports: dict[str, Report] = {}

    def visual(self, doc: dict[str, Any]) -> list[str] | list[Image.Image]:
        """The paths of the clips, or the images: the harness's models take a path for a clip whatever it is."""
        if doc["kind"] == "video":
            return doc["media"]
        return [Image.open(path).convert("RGB") for path in doc["media"]]

    def messages(self, doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> list[Any]:
        """The same for chat models. Each medium says what it is, since the harness would guess by the file's name (and
        take a .webm for sound)."""
        media = [{"type": doc["kind"], "url": one} for one in self.visual(doc)]
        text = {"type": "text", "text": self.text(doc, lmms_eval_specific_kwargs)}
        return [{"role": "user", "content": [*media, text]}]

    def text(self, doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
        """The question without our marks; `frames` of the model's settings is the number that the prompt names."""
        frames = int((lmms_eval_specific_kwargs or {}).get("frames", 0))
        return with_counts(doc["question"], frames, frames // 2, frames) if frames else doc["question"]

    def process(self, doc: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
        """The reply under every metric, for the sums of `aggregate`."""
        reply = {"id": doc["id"], "text": results[0]}
        return dict.fromkeys(doc["metrics"], reply)

    def aggregate(self, metric: str) -> Callable[[Sequence[dict[str, str]]], float]:
        """A function that gives one headline metric over all replies; nan where it is undefined."""

        def value(replies: Sequence[dict[str, str]]) -> float:
            made = {m.name: m for m in self.report(replies).metrics}
            # What grades open answers is part of that metric's name once there are grades.
            graded = (m for name, m in made.items() if name.startswith(f"{metric} ("))
            found = made.get(metric) or next(graded, None)
            return float("nan") if found is None or found.value is None else found.value

        return value

    def report(self, replies: Sequence[dict[str, str]]) -> Report:
        """Our report over the replies, also written beside the task. An item without a reply is a failure."""
        key = json.dumps(sorted((r["id"], r["text"]) for r in replies))
        if key not in self._reports:
            texts = {r["id"]: r["text"] for r in replies}
            items = self.benchmark.items()
            answers = [answer_of(item, texts.get(item.query.id)) for item in items]
            session = {"predictor": {"name": "lmms-eval"}, "environment": environment(self.benchmark.seed)}
            made = origin(self.benchmark, items) | {"sessions": [session]}
            self._reports[key] = replace(self.benchmark.report(items, answers, "lmms-eval"), provenance=made)
            write_report(self.folder / f"{self.name}.report.json", self._reports[key])
        return self._reports[key]


def answer_of(item: Item, text: str | None) -> Answer:
    """A reply as the benchmark wants it; a rating that is no number on 0-100 is a failure."""
    if text is None:
        return Answer(id=item.query.id, error="not asked")
    if item.mode == "answer":
        return Answer(id=item.query.id, text=text)
    found = _NUMBER.fullmatch(text)
    if found is None or float(found[1]) > 100:
        return Answer(id=item.query.id, error=f"no number on 0-100: {text[:80]!r}")
    return Answer(id=item.query.id, score01=float(found[1]) / 100)


def question_of(item: Item) -> str:
    """What others' models are asked: our text without the marks, or the rating question with the row's stall text."""
    if item.mode == "answer":
        return _MARKS.sub("", item.query.question or "").strip()
    return RATE if item.query.question is None else f"{_MARKS.sub('', item.query.question).strip()} {RATE}"


def export(values: dict[str, Any], out: Path, key: str, max_new_tokens: int) -> str:
    """Writes the task of one benchmark; its name."""
    benchmark, task = build("benchmark", values, f"benchmarks.{key}"), f"vqa2_{key.replace('-', '_')}"
    items = benchmark.items()
    failed = [Answer(id=i.query.id, error="not asked") for i in items]
    metrics = [m.name for m in benchmark.report(items, failed, "lmms-eval").metrics]
    rows = [_row(item, metrics) for item in items]
    out.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (out / f"{task}.jsonl").write_text(lines, encoding="utf-8")
    settings = {"name": values["name"], **json.loads(json.dumps(asdict(benchmark)))}
    (out / f"{task}.settings.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    names = [f"metric_{number}" for number in range(len(metrics))]
    made = "".join(f"{name} = _TASK.aggregate({metric!r})\n" for name, metric in zip(names, metrics))
    (out / f"{task}_utils.py").write_text(_UTILS.format(task=task) + made, encoding="utf-8")
    (out / f"{task}.yaml").write_text(_yaml(task, out, metrics, names, max_new_tokens), encoding="utf-8")
    return task


def _row(item: Item, metrics: Sequence[str]) -> dict[str, Any]:
    query = item.query
    media = [str(p) for p in (query.path, query.second) if p is not None]
    return {"id": query.id, "kind": query.kind, "media": media, "question": question_of(item), "answer": "",
            "metrics": metrics}  # fmt: skip


def _yaml(task: str, out: Path, metrics: Sequence[str], names: Sequence[str], max_new_tokens: int) -> str:
    plain = {
        "task": task,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str((out / f"{task}.jsonl").resolve())}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_target": "answer",
        "generation_kwargs": {"max_new_tokens": max_new_tokens, "temperature": 0, "do_sample": False, "num_beams": 1},
        "lmms_eval_specific_kwargs": {"default": {"frames": 16}},
        "metadata": {"version": 1.0},
    }
    functions = {"doc_to_visual": "visual", "doc_to_text": "text", "doc_to_messages": "messages",
                 "process_results": "process"}  # fmt: skip
    lines = [f"{key}: !function {task}_utils.{name}\n" for key, name in functions.items()]
    lines.append("metric_list:\n")
    for metric, name in zip(metrics, names):
        better = "false" if metric.startswith("RMSE") else "true"
        lines.append(f"  - metric: {json.dumps(metric)}\n    aggregation: !function {task}_utils.{name}\n"
                     f"    higher_is_better: {better}\n")  # fmt: skip
    return yaml.safe_dump(plain, sort_keys=False) + "".join(lines)


def main(overrides: list[str]) -> None:
    """Exports the benchmarks that `benchmark=` chooses to `out=` (data/lmms)."""
    out, tokens = Path(pop(overrides, "out") or "data/lmms"), pop_count(overrides, "max_new_tokens", 1024)
    for key, values in composed("eval", overrides)["benchmarks"].items():
        if values.get("prompt") == "vqa2":
            raise ConfigError(f"benchmarks.{key}.prompt: vqa2 speaks of motion features; use official for other models")
        say(f"written: {out / export(values, out, key, tokens)}.yaml")


if __name__ == "__main__":
    guarded(main, "eval")
