"""A prompt as chat messages. In the trace the clip stands as a note of what is shown of it; when the prompt is sent,
frames (JPEG) or the file's name take the place of the note."""

from pathlib import Path

from vqa2.agents import _media
from vqa2.agents._media import FrameSpec
from vqa2.agents.roles import Prompt
from vqa2.agents.trace import Plain
from vqa2.core.records import Kind

_REFERENCE = "So far what is asked about; what follows is its undistorted reference."


def messages(prompt: Prompt, shown: list[Plain]) -> list[Plain]:
    """System and user turn, what is shown before the text."""
    content = [*shown, {"type": "text", "text": prompt.user}] if shown else prompt.user
    return [{"role": "system", "content": prompt.system}, {"role": "user", "content": content}]


def shown(frames: FrameSpec, reference: bool, reads_files: bool) -> list[Plain]:
    """The notes: the clip's frames and then its reference's, or, for a model that reads files, the clip alone."""
    if reads_files:
        return [{"type": "file"}]
    if not frames.count:
        return []
    note = {"type": "frames", "count": frames.count, "size": frames.size, "jpeg_quality": frames.jpeg_quality}
    return [note, {"type": "text", "text": _REFERENCE}, {**note, "of": "reference"}] if reference else [note]


def sent(
    told: list[Plain], path: Path, reference: Path | None, kind: Kind, frames: FrameSpec, content: str
) -> list[Plain]:
    """The messages with media in the place of notes. `content`, a hash of the clip, goes along with its name, so that
    an answer that is kept belongs to the file's content."""

    def put(part: Plain) -> list[Plain]:
        if part["type"] == "file":
            return [{"type": "file", "path": str(path), "kind": kind, "content": content}]
        if part["type"] != "frames":
            return [part]
        source = reference if part.get("of") == "reference" else path
        assert source is not None
        return _media.parts(source, kind, frames)

    return [
        {**m, "content": [new for part in m["content"] for new in put(part)]} if isinstance(m["content"], list) else m
        for m in told
    ]
