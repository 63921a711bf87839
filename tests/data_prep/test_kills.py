"""Every writer, killed by SIGKILL at random calls of functions again and again, ends in the bytes of a straight run."""

import io
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from labels_form import write_form
from media import write_clip
from PIL import Image
from rich.console import Console
from test_extend import depictions

from data_prep.agentic import AgenticRun, agentic
from data_prep.agentic_eval import AgenticEvalRun, agentic_eval
from data_prep.check import CheckRun, check
from data_prep.extend import ExtendRun, extend
from data_prep.leaks import LeaksRun, leaks
from data_prep.run import DataPrepRun, prepare
from vqa2.core.config import decode
from vqa2.core.records import write_jsonl
from vqa2.launch import composed

KILLS = 4


def _quiet() -> Console:
    return Console(file=io.StringIO())


def _decoded(spec: type, config: str, words: list[str]):
    return decode(spec, composed(config, words), config)


def _labels(root: Path, *, media: str) -> Callable[[], object]:
    """Two sets of two datasets; with media, the clips are probed, and stills are degraded and written."""
    for name in ("koniq_10k", "lsvq_train"):
        write_form(root, name)
    for k in range(1, 6):
        path = root / f"KonIQ-10k/1024x768/{k}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(_picture(k)).save(path)
    shown = composed("data_prep", ["source=vqa2", "set=vqa2", f"out={root}", f"media={media}", "workers=1"])
    take = {"count": 4, "distortion": "made", "names": ["noise", "low contrast"], "cuts": 0, "without": []}
    plain = {**take, "count": None, "distortion": "none", "names": []}
    shown["source"]["sets"] = {"distortion_spatial": {"train": {"koniq_10k": take}}}
    if media == "skip":
        shown["source"]["sets"] |= {key: {"train": {"lsvq_train": plain}} for key in ("scoring_ugc", "grpo")}
    shown["sets"] = {key: shown["sets"][key] for key in shown["source"]["sets"]}
    run = decode(DataPrepRun, shown, "data_prep")
    return lambda: prepare(run, progress=False)


def _embedded(root: Path) -> Callable[[], object]:
    empty = [
        f"source.recipe.{name}=[0,0]" for name in ("temporal_videos", "clean_videos", "spatial_videos", "streaming")
    ]
    words = ["source=synthetic", "set=distortion_spatial", f"out={root}", "workers=1", "source.recipe.stills=[1,1]"]
    run = _decoded(DataPrepRun, "data_prep", [*words, *empty])
    return lambda: prepare(run, progress=False)


def _extended(root: Path) -> Callable[[], object]:
    write_jsonl(root / "depictions.jsonl", depictions(12))
    run = _decoded(ExtendRun, "extend", [f"depictions={root / 'depictions.jsonl'}", f"out={root}"])
    return lambda: extend(run, _quiet())


def _agentic(root: Path) -> Callable[[], object]:
    write_jsonl(root / "depictions.jsonl", depictions(12))
    run = _decoded(AgenticRun, "agentic", [f"depictions={root / 'depictions.jsonl'}", f"out={root}"])
    return lambda: agentic(run, _quiet())


def _agentic_eval(root: Path) -> Callable[[], object]:
    words = [f"out={root}", "images=4", *(f"items.{track}=2" for track in ("planner", "summarizer"))]
    words += [f"items.{track}=2" for track in ("executor-distortion", "executor-tool")]
    run = _decoded(AgenticEvalRun, "agentic_eval", words)
    return lambda: agentic_eval(run, _quiet())


def _leaks(root: Path) -> Callable[[], object]:
    for side in "ab":
        (root / side).mkdir()
        for k in range(3):
            frames = np.stack([np.roll(_picture(k + 10 * (side == "b" and k == 2)), 3 * t, 1) for t in range(8)])
            write_clip(root / side / f"{side}{k}.mp4", frames, 8, "libx264", "yuv420p")
    words = [f"a={root / 'a'}", f"b={root / 'b'}", f"out={root / 'out'}", f"video.cache={root / '.cache.sqlite'}"]
    run = _decoded(LeaksRun, "leaks", [*words, "workers=1"])
    return lambda: leaks(run, _quiet())


def _picture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(40, 220, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)


WRITERS: dict[str, Callable[[Path], Callable[[], object]]] = {
    "labels": lambda root: _labels(root, media="skip"),
    "labels and media": lambda root: _labels(root, media="probe"),
    "embedded": _embedded,
    "extend": _extended,
    "agentic": _agentic,
    "agentic_eval": _agentic_eval,
    "leaks": _leaks,
}
"""Writer -> makes its inputs in a folder and returns what writes there."""


@dataclass
class _Counter:
    """A profile function: counts calls, and kills the process at one of them."""

    limit: int
    calls: int = 0

    def __call__(self, frame, event: str, arg) -> None:
        if event in ("call", "c_call"):
            self.calls += 1
            if self.calls == self.limit:
                os.kill(os.getpid(), signal.SIGKILL)


def _in_child(action: Callable[[], object], limit: int, told: Path) -> bool:
    """Whether the action came to its end in a process of its own; then `told` holds how many calls it made."""
    child = os.fork()
    if child == 0:
        counter, code = _Counter(limit), 1
        try:
            sys.setprofile(counter)
            action()
            sys.setprofile(None)
            told.write_text(str(counter.calls))
            code = 0
        except Exception:  # noqa: BLE001 - the parent sees the code alone
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), code
    return code == 0


def _result(root: Path) -> dict[str, bytes]:
    """Everything but what is kept for the next run, whose names begin with a dot."""
    found = (p for p in sorted(root.rglob("*")) if p.is_file())
    return {name: p.read_bytes() for p in found if "/." not in f"/{(name := p.relative_to(root).as_posix())}"}


SLOW = {"embedded"}


@pytest.mark.parametrize("writer", [pytest.param(w, marks=pytest.mark.slow if w in SLOW else ()) for w in WRITERS])
def test_killed_at_random_calls_it_ends_in_the_bytes_of_a_straight_run(writer, tmp_path):
    root, kept, told = tmp_path / "root", tmp_path / "kept", tmp_path / "calls"
    root.mkdir()
    action = WRITERS[writer](root)
    shutil.copytree(root, kept)
    assert _in_child(action, 0, told)
    expected, calls = _result(root), int(told.read_text())
    assert expected != _result(kept)
    shutil.rmtree(root)
    kept.rename(root)
    points = np.random.default_rng(len(writer)).integers(1, calls, KILLS)
    finished = [_in_child(action, int(point), told) for point in points]
    assert not all(finished)
    assert _in_child(action, 0, told)
    assert _result(root) == expected
    if writer != "leaks":
        assert check(CheckRun(out=str(root), root=None, workers=1), _quiet()) > 0
