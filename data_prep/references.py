"""Undistorted clips beside the embedded ones, for experts that need a reference (`python -m vqa2.experts`).

Opt-in: nothing else reads them, so that data roots do without. The pristine sequence of a clip's own job, without
stalls and camera jitter, stored lossless. `references.json` names them by clip id; where people bring rated clips of
their own, they can write that file themselves.
"""

import json
from collections.abc import Callable, Collection
from pathlib import Path

from PIL import Image

from data_prep._build import Job, making
from data_prep._encode import write_video
from data_prep._files import read_record, write_whole
from data_prep._recipe import Recipe
from data_prep.run import DataPrepRun
from data_prep.sources.labelled import Labelled
from data_prep.sources.mixture import Mixture
from vqa2.core.config import build
from vqa2.core.errors import DataError
from vqa2.core.records import inside
from vqa2.core.run import fingerprint

FILE = "references.json"
"""Clip id -> undistorted file, relative to the data root."""


def make(run: DataPrepRun, ids: Collection[str], advance: Callable[[int, int], None]) -> None:
    """Writes the references of clips that `run` made, and FILE anew; files of the same settings and code are kept.

    DataError for a source that makes no clips, and for an id that is none of its clips.
    """
    root, source = Path(run.out), build("source", run.source, "source")
    if isinstance(source, Labelled | Mixture):
        raise DataError(f"{root}: the source {run.source['name']} makes no clips, so it has no references of them")
    known = {job.id: job for job in source.jobs(run.seed)[0]}
    if missing := sorted(set(ids) - set(known)):
        raise DataError(f"{root}: {missing[0]}: no clip of the source {run.source['name']}")
    folder = root / "media" / "references" / fingerprint([run.source, run.seed, making()])
    folder.mkdir(parents=True, exist_ok=True)
    # In the order of contents, whose pictures are kept in memory.
    jobs = sorted((known[name] for name in ids), key=lambda job: job.shot.content)
    found = {}
    for done, job in enumerate(jobs, 1):
        found[job.id] = _one(folder, source.recipe, job).relative_to(root).as_posix()
        advance(done, len(jobs))
    write_whole(root / FILE, json.dumps(found, indent=1, sort_keys=True) + "\n")


def read(root: Path) -> dict[str, Path]:
    """The references of a data root by clip id; none where it has no FILE. DataError for a file that is not there."""
    if not (root / FILE).is_file():
        return {}
    found = {name: inside(root, path) for name, path in read_record(root / FILE).items()}
    for name, path in found.items():
        if not path.is_file():
            raise DataError(f"{root / FILE}: {name}: {path}: no such file")
    return found


def _one(folder: Path, recipe: Recipe, job: Job) -> Path:
    """One reference, rendered anew only where it is not there."""
    path = folder / f"{job.id}.{'png' if job.kind == 'image' else 'mp4'}"
    if not path.is_file():
        frames = job.shot.frames(recipe, 1 if job.kind == "image" else recipe.frames, 0.0)
        if job.kind == "image":
            part = path.with_name(f".{path.stem}.part.png")
            Image.fromarray(frames[0]).save(part)
            part.replace(path)
        else:
            write_video(path, frames, recipe.fps, "x264", 0)
    return path
