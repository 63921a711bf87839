"""`vqa2 serve`: a trained model over HTTP, for other programs (`POST /score`) and for people (`GET /`, one page).

Files of one request are one batch. One request at a time uses the model; the others wait.
"""

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.responses import HTMLResponse, JSONResponse, Response

from vqa2.api import Model
from vqa2.core.errors import MediaError, UserError
from vqa2.core.scale import LEVELS

_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,5}")


def application(scorer: Model, assistant: Model, max_mb: int, batch_size: int) -> FastAPI:
    """The service. `max_mb`: the largest request; `batch_size`: files a pass."""
    service = FastAPI(title="vqa2", description="Video quality: scores 0-100, larger is better, and answers.")
    lock = threading.Lock()

    @service.middleware("http")
    async def bounded(request: Request, then: Callable) -> Response:
        size = request.headers.get("content-length")
        if request.method == "POST" and size is None:
            return _refusal(411, "a Content-Length is needed")
        if size is not None and int(size) > max_mb * 2**20:
            return _refusal(413, f"{int(size) / 2**20:.1f} MiB, {max_mb} are the most (--max-mb)")
        return await then(request)

    @service.exception_handler(UserError)
    async def refused(_: Request, problem: UserError) -> JSONResponse:
        return _refusal(422, str(problem))

    @service.get("/", response_class=HTMLResponse)
    def page() -> str:
        return resources.files("vqa2").joinpath("serve.html").read_text(encoding="utf-8")

    @service.get("/health")
    def health() -> dict[str, Any]:
        """What answers here: models, hashes of their weights, settings."""
        return {"scorer": scorer.identity, "assistant": assistant.identity}

    @service.post("/score")
    def score(files: Annotated[list[UploadFile], File()]) -> dict[str, Any]:
        """Scores of clips or images, in order; a file that cannot be scored has an `error` instead."""
        results: list[dict[str, Any]] = []
        for start in range(0, len(files), batch_size):
            batch = files[start : start + batch_size]
            with _on_disk(batch) as paths, lock:
                made = scorer.scores(paths)
            results += [_result(file, one) for file, one in zip(batch, made, strict=True)]
        return {"scale": "0-100, larger is better", "model": scorer.identity["checkpoint"], "results": results}

    @service.post("/ask")
    def ask(file: Annotated[UploadFile, File()], question: Annotated[str, Form(min_length=1)]) -> dict[str, str]:
        """The answer to a free question about one clip."""
        with _on_disk([file]) as (path,), lock:
            try:
                text = assistant.ask(path, question)
            except MediaError as problem:
                raise UserError(f"{_name(file)}: {problem.reason}") from None
        return {"file": _name(file), "answer": text}

    return service


@contextmanager
def _on_disk(files: Sequence[UploadFile]) -> Iterator[list[Path]]:
    """Uploads as files of our own naming; only a harmless extension of the client's name is kept."""
    with TemporaryDirectory(prefix="vqa2-") as folder:
        paths = []
        for number, file in enumerate(files):
            suffix = Path(file.filename or "").suffix
            path = Path(folder) / f"{number}{suffix if _SUFFIX.fullmatch(suffix) else ''}"
            with path.open("wb") as handle:
                while block := file.file.read(1 << 20):
                    handle.write(block)
            paths.append(path)
        yield paths


def _result(file: UploadFile, made: Any) -> dict[str, Any]:
    if isinstance(made, MediaError):
        return {"file": _name(file), "error": made.reason}
    levels = None if made.levels is None else dict(zip(LEVELS, made.levels, strict=True))
    return {"file": _name(file), "score_0_100": made.score100, "levels": levels, "text": made.text}


def _name(file: UploadFile) -> str:
    return file.filename or "(unnamed)"


def _refusal(status: int, reason: str) -> JSONResponse:
    return JSONResponse({"error": reason}, status)
