"""Expert `vmaf`: VMAF (full reference) by the FFmpeg that the imageio-ffmpeg wheel carries, libvmaf's built-in model.

Frames are paired by number, whatever their time stamps; the distorted clip is scaled to the reference's size. The model
assumes large pictures, so small ones are enlarged (`min_side_px`).
"""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated

import imageio_ffmpeg
from annotated_types import Ge, Gt

from vqa2.core.config import register
from vqa2.core.errors import MediaError
from vqa2.experts._frames import check_lengths, sampled
from vqa2.experts.base import Info, Media, Raw

_POOLED = {"mean": "mean", "harmonic mean": "harmonic_mean", "worst": "min"}


@register("expert", "vmaf")
class Vmaf:
    """Pictures whose shorter side is below `min_side_px` are enlarged by a whole factor (0: never); every `every`-th
    frame is rated; `threads` of libvmaf; `timeout_s` ends FFmpeg."""

    info: Info
    min_side_px: Annotated[int, Ge(0)]
    every: Annotated[int, Ge(1)]
    threads: Annotated[int, Ge(1)]
    timeout_s: Annotated[float, Gt(0)]

    def missing(self) -> str:
        return ""

    def content(self) -> str:
        return ""

    def open(self) -> "VmafScorer":
        return VmafScorer(self)


class VmafScorer:
    """Runs FFmpeg once per media."""

    def __init__(self, made: Vmaf) -> None:
        self._made = made

    def score(self, media: Media, reference: Media | None, prompt: str | None) -> Raw:
        """Mean VMAF; `parts`: harmonic mean and worst frame."""
        assert reference is not None
        check_lengths(media, reference)
        height, width = sampled(reference, 1).shape[1:3]
        factor = max(1, -(-self._made.min_side_px // min(height, width)))
        scale = f"setpts=N/25/TB,scale={width * factor}:{height * factor}:flags=bicubic,format=yuv420p"
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log.json"
            graph = (
                f"[0:v]{scale}[d];[1:v]{scale}[r];[d][r]libvmaf=log_fmt=json:log_path={log}"
                f":n_threads={self._made.threads}:n_subsample={self._made.every}"
            )
            command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-i", str(media.path)]
            command += ["-i", str(reference.path), "-lavfi", graph, "-f", "null", "-"]
            limit = self._made.timeout_s
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
            except subprocess.TimeoutExpired:
                raise MediaError(media.path, f"VMAF: no score within {limit:g} s") from None
            if done.returncode or not log.is_file():
                said = done.stderr.strip().splitlines()
                raise MediaError(media.path, f"VMAF failed: {said[-1] if said else f'exit code {done.returncode}'}")
            pooled = json.loads(log.read_text(encoding="utf-8"))["pooled_metrics"]["vmaf"]
        parts = {name: float(pooled[key]) for name, key in _POOLED.items()}
        return Raw(value=parts.pop("mean"), parts=parts)
