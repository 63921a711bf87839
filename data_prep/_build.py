"""From pristine frame sequences to media files with known degradations: what `synthetic` and `folder` share.

A `Shot` names a pristine sequence and can render it; jobs are independent and deterministic by seed, so they run in a
process pool and a second run reuses files whose recipe is unchanged.
"""

import ast
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from data_prep._degrade import SPATIAL, TEMPORAL_VARIANTS, degrade
from data_prep._encode import read_frames, write_video
from data_prep._files import read_record, write_whole
from data_prep._media import Facts, Probe, hashed
from data_prep._pseudo_mos import VMAF_VALID, from_strength, vmaf, with_stalls
from data_prep._recipe import Recipe
from vqa2.core.records import Clip, Distortion, Stall
from vqa2.core.run import sha256_of

SPLITS = ("train", "test")
MEDIA_CODE = ("_build", "_contents", "_degrade", "_encode", "_pseudo_mos", "_scene")
RECORD_EVERY = 256
"""Finished files between two writings of the media index."""


class Shot(Protocol):
    """A pristine sequence. `tags` describe it: origin (natural, CG), color (yes, no), and where known camera and
    foreground_content."""

    content: str
    tags: dict[str, str]

    def frames(self, recipe: Recipe, count: int, jitter: float) -> np.ndarray:
        """`count` frames, RGB uint8 `[T,H,W,3]`; `jitter` px shakes the camera."""


@dataclass(frozen=True)
class Job:
    """One media file to make: a shot, its degradation (None: clean) and its stalls in frames (start, length)."""

    id: str
    dataset: str
    split: str
    kind: str
    shot: Any
    variant: str | None
    strength: float
    stalls: tuple[tuple[int, int], ...]
    seed: int


def make_jobs(
    recipe: Recipe, shots: Callable[[str, np.random.Generator, str | None], Shot | None], seed: int, dataset: str
) -> tuple[list[Job], list[tuple[str, str]]]:
    """All jobs in a fixed order, and (file id, reason) of those that cannot be made.

    `shots(split, rng, variant)` draws a shot on which the degradation can be seen, None where the split has none.
    """
    jobs: list[Job] = []
    left_out: list[tuple[str, str]] = []
    for split_index, split in enumerate(SPLITS):
        plans: list[tuple[str, str, str | None, int]] = []
        plans += [("image", f"still-{n}", n, recipe.stills[split_index]) for n in SPATIAL]
        plans += [("video", n, n, recipe.spatial_videos[split_index]) for n in SPATIAL]
        plans += [("video", v, v, recipe.temporal_videos[split_index]) for v in TEMPORAL_VARIANTS]
        plans += [("video", "clean", None, recipe.clean_videos[split_index])]
        plans += [("video", "streaming", "compression artifact", recipe.streaming[split_index])]
        for kind, group, variant, count in plans:
            for number in range(count):
                name = f"{split}-{group.replace(' ', '_')}-{number:03d}"
                key = int(hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()[:12], 16)
                rng = np.random.default_rng(key)
                # Strengths are stratified, so that every group covers the whole range.
                lo, hi = recipe.still_strength if kind == "image" else recipe.strength
                strength = float(lo + (hi - lo) * (number + rng.random()) / count)
                stalls = _draw_stalls(recipe, rng) if group == "streaming" else ()
                shot = shots(split, rng, variant)
                if shot is None:
                    left_out.append((name, f"no content of the {split} split can show {variant}"))
                    continue
                jobs.append(Job(name, dataset, split, kind, shot, variant, strength, stalls, int(rng.integers(2**31))))
    return jobs, left_out


def _draw_stalls(recipe: Recipe, rng: np.random.Generator) -> tuple[tuple[int, int], ...]:
    """Up to three stalls as (frame of the pristine clip at which it starts, frames); 0 is initial buffering."""
    count = int(rng.integers(0, 4))
    starts = sorted(rng.choice(np.arange(0, recipe.frames, 4), count, replace=False).tolist())
    return tuple((int(s), int(rng.integers(2, recipe.max_stall_frames + 1))) for s in starts)


def run_jobs(
    root: Path, recipe: Recipe, jobs: Sequence[Job], workers: int, advance: Callable[[int, int], None]
) -> list[Clip]:
    """Makes (or reuses) the files of `jobs` under `root/media` and returns their clips, in order; `media/index.json`
    holds the clip, the making and the probe (data_prep/_media.py) of every file.

    The first call of `advance(done, total)` counts the reused files: those whose recipe, making code and content hash
    are the recorded ones. What is finished is recorded as it goes, so that a killed run continues.
    """
    path = root / "media" / "index.json"
    index = read_record(path) if path.is_file() else {}
    for split in SPLITS:
        (root / "media" / split).mkdir(parents=True, exist_ok=True)
    # In the order of contents, because a worker keeps the last pictures it read.
    todo = sorted((j for j in jobs if not _fresh(root, recipe, j, index.get(j.id))), key=lambda j: j.shot.content)
    done = len(jobs) - len(todo)
    advance(done, len(jobs))
    try:
        with _pool(workers if len(todo) >= 8 else 1) as mapped:
            for job, (clip, found) in zip(todo, mapped(_make, [root] * len(todo), [recipe] * len(todo), todo)):
                index[job.id] = {"key": _key(recipe, job), "clip": asdict(clip), **asdict(found)}
                done += 1
                advance(done, len(jobs))
                if done % RECORD_EVERY == 0:
                    _record(path, index)
    finally:
        _record(path, index)
    _record(path, {job.id: index[job.id] for job in jobs})
    return [_clip(index[job.id]["clip"]) for job in jobs]


def _fresh(root: Path, recipe: Recipe, job: Job, old: dict[str, Any] | None) -> bool:
    """Whether the recorded file of a job is still what the job would make."""
    if old is None or old["key"] != _key(recipe, job):
        return False
    path = root / old["clip"]["path"]
    return path.is_file() and sha256_of(path) == old["sha256"]


def _record(path: Path, index: dict[str, Any]) -> None:
    write_whole(path, json.dumps(index, sort_keys=True))


@contextmanager
def _pool(workers: int) -> Iterator[Callable[..., Iterable[tuple[Clip, Probe]]]]:
    """A `map` over worker processes (or in this one); work that has not started is dropped when the block is left."""
    if workers == 1:
        yield map
        return
    pool = ProcessPoolExecutor(workers)
    try:
        yield partial(pool.map, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def _make(root: Path, recipe: Recipe, job: Job) -> tuple[Clip, Probe]:
    """Renders, degrades, encodes and rates one job. Its file is not opened again to know what is in it."""
    rng = np.random.default_rng(job.seed)
    jitter = 0.0
    if job.variant == "shake":
        jitter = recipe.shake_px[0] + (recipe.shake_px[1] - recipe.shake_px[0]) * job.strength
    frames = pristine = job.shot.frames(recipe, 1 if job.kind == "image" else recipe.frames, jitter)
    suffix = "png" if job.kind == "image" else "mp4"
    path = root / "media" / job.split / f"{job.id}.{suffix}"
    if job.variant is not None:
        frames = degrade(frames, job.variant, job.strength, rng)
    qp = recipe.store_qp
    if job.variant == "compression artifact":
        low, high = recipe.compression_qp
        qp = round(low + (high - low) * job.strength)
    codec = "x265" if job.variant == "compression artifact" and job.seed % 2 else "x264"
    if job.kind == "image":
        _write_still(path, frames, codec, qp if job.variant == "compression artifact" else None)
        return _describe(job, path.relative_to(root), None, "", recipe), _written(path, frames, 0.0, "png")
    if job.stalls:
        frames = _stall(frames, job.stalls)
    write_video(path, frames, recipe.fps, codec, qp)
    mos, rule = _rate(path, pristine, job, recipe)
    found = _written(path, frames, float(recipe.fps), {"x264": "h264", "x265": "hevc"}[codec])
    return _describe(job, path.relative_to(root), mos, rule, recipe), found


def _written(path: Path, frames: np.ndarray, fps: float, codec: str) -> Probe:
    """What `probe` would find in the file just made of `frames`."""
    height, width = frames.shape[1:3]
    return hashed(path, Facts(frames=len(frames), fps=fps, width=width, height=height, rotation=0, codec=codec))


def _write_still(path: Path, frames: np.ndarray, codec: str, qp: int | None) -> None:
    """A PNG; compression artifacts come from a real intra frame of the codec."""
    if qp is not None:
        coded = path.with_suffix(".mp4")
        # x265 in mp4 refuses a single frame; the first of a few equal ones is the intra frame.
        write_video(coded, np.repeat(frames, 4, 0), 4, codec, qp)
        frames = read_frames(coded)
        coded.unlink()
    Image.fromarray(frames[0]).save(path)


def _stall(frames: np.ndarray, stalls: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Repeats the frame on screen for each stall (black during initial buffering)."""
    parts, last = [], 0
    for start, length in stalls:
        parts.append(frames[last:start])
        held = np.zeros_like(frames[:1]) if start == 0 else frames[start - 1 : start]
        parts.append(np.repeat(held, length, 0))
        last = start
    return np.concatenate([*parts, frames[last:]])


def _rate(path: Path, pristine: np.ndarray, job: Job, recipe: Recipe) -> tuple[float, str]:
    if job.variant is None:
        return recipe.clean_mos, "strength"
    name = TEMPORAL_VARIANTS.get(job.variant, job.variant)
    if name not in VMAF_VALID:
        return from_strength(job.strength, recipe.drop[job.variant]), "strength"
    shown = read_frames(path)
    if job.stalls:
        # The picture quality under the stalls is that of the played frames alone.
        score = vmaf(shown[_played(len(pristine), job.stalls)], pristine, recipe.vmaf_upscale)
        return with_stalls(score, _stalls(job, recipe.fps), len(shown) / recipe.fps,
                           recipe.stall_per_event, recipe.stall_per_percent), "vmaf"  # fmt: skip
    return min(100.0, vmaf(shown, pristine, recipe.vmaf_upscale)), "vmaf"


def _played(count: int, stalls: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Indices, in the stalled clip, of the frames that play."""
    shift = np.zeros(count, int)
    for start, length in stalls:
        shift[start:] += length
    return np.arange(count) + shift


def _stalls(job: Job, fps: int) -> tuple[Stall, ...]:
    """The job's stalls on the played timeline, in seconds."""
    out, delay = [], 0
    for start, length in job.stalls:
        out.append(Stall(start_s=(start + delay) / fps, length_s=length / fps))
        delay += length
    return tuple(out)


def _describe(job: Job, path: Path, mos: float | None, rule: str, recipe: Recipe) -> Clip:
    found = ()
    if job.variant is not None:
        name = TEMPORAL_VARIANTS.get(job.variant, job.variant)
        variant = job.variant if job.variant in TEMPORAL_VARIANTS else ""
        found = (Distortion(name=name, variant=variant, strength=job.strength),)
    tags = dict(job.shot.tags)
    if "-streaming-" in job.id:
        total = recipe.frames + sum(n for _, n in job.stalls)
        tags |= {"set": "streaming", "fps": str(recipe.fps), "frames": str(total)}
    return Clip(
        id=job.id, path=path.as_posix(), dataset=job.dataset, split=job.split, content=job.shot.content,
        kind=job.kind, mos=mos, mos_rule=rule, distortions=found, stalls=_stalls(job, recipe.fps), tags=tags,
    )  # fmt: skip


def _key(recipe: Recipe, job: Job) -> str:
    return hashlib.sha256(repr((recipe, job, making())).encode()).hexdigest()[:20]


@cache
def making() -> str:
    """Fingerprint of what turns a job into a file besides its recipe: this package's media code and the codecs."""
    # Of the syntax trees: a new line break makes no new media.
    texts = [(Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8") for name in MEDIA_CODE]
    found = [*(ast.dump(ast.parse(text)) for text in texts), version("av"), version("imageio-ffmpeg")]
    return hashlib.sha256(" ".join(found).encode()).hexdigest()[:20]


def _clip(values: dict) -> Clip:
    distortions = tuple(Distortion(**d) for d in values["distortions"])
    stalls = tuple(Stall(**s) for s in values["stalls"])
    return Clip(**{**values, "distortions": distortions, "stalls": stalls})
