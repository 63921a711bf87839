"""pseudo_mos: the stand-in for a mean opinion score on the embedded clips, 0-100, larger is better. It is not a MOS.

Two rules, named on every clip (`mos_rule`): `vmaf` where VMAF is meant to be used (compression, blur, blockiness),
against the pristine clip; `strength` elsewhere (noise, exposure, contrast, color, time), a monotone map of the known
strength. Limits: docs/data.md.
"""

import re
import subprocess
import tempfile
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from vqa2.core.errors import DataError
from vqa2.core.records import Stall

VMAF_VALID = ("compression artifact", "spatial blur", "motion blur", "block effect")


def vmaf(distorted: np.ndarray, pristine: np.ndarray, upscale: int) -> float:
    """VMAF (libvmaf's built-in model) of RGB uint8 clips `[T,H,W,3]`, both enlarged `upscale` times (bicubic): the
    model assumes large pictures."""
    frames, height, width = pristine.shape[:3]
    with tempfile.TemporaryDirectory() as folder:
        inputs = []
        for name, clip in (("d", distorted), ("r", pristine)):
            path = Path(folder) / name
            path.write_bytes(clip[:frames].tobytes())
            inputs += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", "25", "-i", str(path)]
        scale = f"scale={width * upscale}:{height * upscale}:flags=bicubic,format=yuv420p"
        graph = f"[0]{scale}[d];[1]{scale}[r];[d][r]libvmaf=n_threads=1"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-threads", "1", *inputs,
                   "-lavfi", graph, "-f", "null", "-"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r"VMAF score: ([0-9.]+)", done.stderr)
    if found is None:
        raise DataError(f"libvmaf: no score; ffmpeg said: {done.stderr.strip().splitlines()[-1:]}")
    return float(found.group(1))


def from_strength(strength: float, drop: float) -> float:
    """100 at strength 0, falling linearly by `drop` at strength 1."""
    return 100 - drop * strength


def with_stalls(base: float, stalls: tuple[Stall, ...], duration_s: float, per_event: float, per_share: float) -> float:
    """Base quality minus a penalty per stall and per percent of the played time that is stalled; never below 0."""
    share = sum(s.length_s for s in stalls) / duration_s
    return max(0.0, base - per_event * len(stalls) - per_share * 100 * share)
