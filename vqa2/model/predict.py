"""Inference: one class for the CLI, Python, benchmarks and rewards. Scores by level softmax, answers by generation.

Level score (VQA², section 4): one prefill of the scoring prompt with the answer begun (texts that the model was trained
on, kept by its processor), softmax over the five level tokens at the last position, weights 1 .75 .5 .25 0 -> score01.
Nothing is generated.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils.logging import disable_progress_bar

from vqa2.core.errors import ConfigError, DataError, MediaError
from vqa2.core.records import Answer, Kind, Query, Turn
from vqa2.core.run import fingerprint, local_rank
from vqa2.core.scale import level_score
from vqa2.data.ahead import Ahead, Reader
from vqa2.data.video import Video, VideoSpec, seconds
from vqa2.model.modeling import VQA2Config
from vqa2.model.processing import END, PAD, VQA2Processor, level_ids

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}


_Laid = tuple[Query, list[int], Video | None]
"""A question with its ids and its clip; a text question has none."""


@dataclass(frozen=True, kw_only=True)
class Inference:
    """How clips are read and answers made: `max_new_tokens` bounds answers, `workers` decode ahead of the model."""

    video: VideoSpec
    device: str
    max_new_tokens: int
    workers: int


class ModelPredictor:
    """A model that scores and answers; the Predictor protocol of vqa2/core/records.py.

    The queries of a call are one batch, padded on the left; the caller's batch size bounds memory. A query about two
    clips is asked about both, one after the other. `fingerprint` covers weights, texts and every setting above.
    """

    def __init__(self, model, processor, name: str, checkpoint: str, inference: Inference) -> None:
        """`checkpoint`: a hash of everything that was loaded."""
        self.model, self.processor, self.name, self.inference = model, processor, name, inference
        self.device = model.device
        settings = asdict(inference) | {"dtype": str(model.dtype), "layout": processor.layout}
        settings.pop("workers")
        self.provenance: dict[str, Any] = {"model": name, "checkpoint": checkpoint, **settings}
        self.fingerprint = fingerprint([checkpoint, settings])
        sizes = [(size, size) for size in (processor.image_size, processor.motion_size)]
        self._clips = Ahead(Reader(*sizes, inference.video), inference.workers)
        self._levels = level_ids(processor.tokenizer)

    @classmethod
    def load(cls, folder: Path, inference: Inference) -> "ModelPredictor":
        """A saved model, on this process's GPU where `device` is cuda. ConfigError for a folder without a whole one."""
        _check_folder(folder)
        if inference.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device: cuda is asked for but no GPU is visible; use cpu")
        disable_progress_bar()  # of the weights: a line of its own for each model, in every log
        device = f"cuda:{local_rank()}" if inference.device == "cuda" else inference.device
        try:
            model = AutoModelForImageTextToText.from_pretrained(folder)
            processor = AutoProcessor.from_pretrained(folder)
        except (OSError, ValueError, SafetensorError) as err:
            raise ConfigError(f"{folder}: the model is not whole ({err})") from None
        return cls(model.eval().to(device), processor, str(folder), checkpoint_of(folder), inference)

    def plan(self, queries: Sequence[Query]) -> None:
        """Tells what will be asked, in order, so that clips can be decoded ahead."""
        self._clips.plan(queries)

    def length(self, query: Query) -> int:
        """About how many tokens a query takes, by its files' headers: neighbors in length share a batch well."""
        key, motion = self._clips.reader.frames(query)
        text = query.question or self.processor.score_question
        return key * self.processor.tokens_per_frame + motion + len(text) // 4

    def score(self, queries: Sequence[Query]) -> list[Answer]:
        """score01 and level probabilities per query; what cannot be read gives an Answer with `error`."""
        return self._each(queries, self.processor.score_prefix, self._score)

    @torch.inference_mode()
    def score_seconds(self, query: Query) -> list[Answer]:
        """`score` of each second of a clip by itself, in order, as one batch. MediaError for an unreadable file."""
        parts = seconds(self._read(query), self.inference.video.frame_multiple)
        if not parts:
            raise MediaError(query.path, f"no second has {self.inference.video.frame_multiple} frames")
        asked, begun = self.processor.score_question, self.processor.score_prefix
        return self._score([(query, *self._prompt(query, asked, part, begun)) for part in parts])

    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        """Greedy answers; what cannot be read gives an Answer with `error`."""
        for query in queries:
            if query.question is None:
                raise ConfigError(f"{query.id}: a question is needed to answer")
        return self._each(queries, "", self._generate)

    @torch.inference_mode()
    def _each(self, queries: Sequence[Query], begun: str, work: Callable[[list[_Laid]], list[Answer]]) -> list[Answer]:
        """`work` on all queries whose clip can be read and whose text fits; the others get their reason."""
        failed, good = {}, []
        for query, read in zip(queries, self._shown(queries)):
            if isinstance(read, MediaError):
                failed[query.id] = Answer(id=query.id, error=read.reason)
                continue
            try:
                asked = query.question or self.processor.score_question
                ids, video = self._prompt(query, asked, read, begun)
                good.append((query, ids, video))
            except DataError as err:
                failed[query.id] = Answer(id=query.id, error=str(err))
        made = {a.id: a for a in work(good)} if good else {}
        return [made.get(q.id) or failed[q.id] for q in queries]

    @torch.inference_mode()
    def options(self, query: Query, replies: Sequence[str]) -> list[float]:
        """Log-probability of each reply to the query's question, its end included: how likely the model is to say just
        that. The clip is encoded and read once. MediaError for an unreadable file."""
        if query.question is None:
            raise ConfigError(f"{query.id}: a question is needed to choose a reply")
        ids, video = self._prompt(query, query.question, self._read(query), "")
        prompt = torch.tensor([ids], device=self.device)
        first = self.model(prompt, use_cache=True, logits_to_keep=1, **self._media([video]))
        return [self._reply_logprob(first, reply) for reply in replies]

    @torch.inference_mode()
    def hidden(self, query: Query) -> torch.Tensor:
        """What the model sees of a clip under the scoring prompt (`seen`), `[D]` float32 on the CPU. One clip a pass,
        so that no neighbor's padding moves it. MediaError for an unreadable file."""
        ids, video = prompt_of(self.processor, self.processor.score_question, self._read(query), query.id)
        prompt = torch.tensor([ids], device=self.device)
        return self.model.seen(prompt, torch.ones_like(prompt), **self._media([video]))[0].cpu()

    def _reply_logprob(self, first, reply: str) -> float:
        tokenizer = self.processor.tokenizer
        tail = torch.tensor([tokenizer.encode(reply + END, add_special_tokens=False)], device=self.device)
        # The prompt's cache grows with what is read after it; each reply gets a copy of its own.
        cache = copy.deepcopy(first.past_key_values)
        rest = self.model(tail[:, :-1], past_key_values=cache).logits if tail.shape[1] > 1 else first.logits[:, :0]
        logits = torch.cat((first.logits, rest), 1)[0].float().log_softmax(-1)
        return logits.gather(1, tail[0, :, None]).sum().item()

    def _read(self, query: Query) -> Video | None:
        (read,) = self._shown([query])
        if isinstance(read, MediaError):
            raise read
        return read

    def _shown(self, queries: Sequence[Query]) -> list[Video | MediaError | None]:
        """What each query shows; None where it is text alone."""
        read = iter(self._clips.read([q for q in queries if q.kind != "text"]))
        return [None if q.kind == "text" else next(read) for q in queries]

    def _prompt(self, query: Query, question: str, video: Video | None, begun: str) -> tuple[list[int], Video | None]:
        ids, video = prompt_of(self.processor, question, video, query.id)
        return ids + self.processor.tokenizer.encode(begun, add_special_tokens=False), video

    def _inputs(self, items: Sequence[_Laid]) -> dict[str, torch.Tensor]:
        """Ids `[B,L]` padded on the left, their mask, and the media."""
        length, pad = max(len(ids) for _, ids, _ in items), self.processor.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (length - len(p)) + p for _, p, _ in items], device=self.device)
        mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for _, p, _ in items], device=self.device)
        return {"input_ids": ids, "attention_mask": mask, **self._media([video for _, _, video in items])}

    def _media(self, videos: Sequence[Video | None]) -> dict[str, torch.Tensor]:
        dtype = self.model.dtype
        media = self.processor.media([video for video in videos if video is not None])
        return {k: v.to(self.device, dtype if v.is_floating_point() else v.dtype) for k, v in media.items()}

    def _score(self, items: Sequence[_Laid]) -> list[Answer]:
        inputs = self._inputs(items)
        positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        logits = self.model(**inputs, position_ids=positions, logits_to_keep=1).logits[:, -1]
        levels = logits[:, self._levels].float().softmax(-1).tolist()
        return [
            Answer(id=query.id, score01=level_score(row), levels=tuple(row), dropped_key_frames=_dropped(video))
            for (query, _, video), row in zip(items, levels)
        ]

    def _generate(self, items: Sequence[_Laid]) -> list[Answer]:
        inputs = self._inputs(items)
        ids = inputs.pop("input_ids")
        new = self.model.generate(ids, do_sample=False, max_new_tokens=self.inference.max_new_tokens, **inputs)
        texts = self.processor.tokenizer.batch_decode(new, skip_special_tokens=False)
        texts = [text.split(END)[0].replace(PAD, "").strip() for text in texts]
        return [
            Answer(id=query.id, text=text, dropped_key_frames=_dropped(video))
            for (query, _, video), text in zip(items, texts)
        ]


def _dropped(video: Video | None) -> int:
    return 0 if video is None else video.dropped


def prompt_of(
    processor: VQA2Processor, question: str, video: Video | None, where: str
) -> tuple[list[int], Video | None]:
    """The prompt's ids and the clip they are laid out for (fewer key frames, where it would be too long)."""
    fitted = processor.fit((Turn(user=question, assistant=""),), video, where)
    return processor.example((Turn(user=question, assistant=""),), fitted, where).input_ids, fitted


def kind_of(path: Path) -> Kind:
    """`image` for still formats by extension, else `video` (the reader checks what the file really is)."""
    return "image" if path.suffix.lower() in IMAGES else "video"


def media_files(target: Path) -> list[Path]:
    """A file, or every file of a folder and of the folders in it (not hidden, sorted). ConfigError for nothing to
    score."""
    if target.is_file():
        return [target]
    if not target.is_dir():
        raise ConfigError(f"{target}: no such file or folder")
    inside = sorted((p, p.relative_to(target).parts) for p in target.rglob("*") if p.is_file())
    files = [path for path, parts in inside if not any(part.startswith(".") for part in parts)]
    if not files:
        raise ConfigError(f"{target}: no files in this folder")
    return files


def _check_folder(folder: Path) -> None:
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError):
        raise ConfigError(
            f"{folder}: no trained model here (a folder with config.json is needed); name another, or train one "
            "(`make demo`, `python train.py stage=scoring`)"
        ) from None
    if kind != VQA2Config.model_type:
        raise ConfigError(f"{folder}: a model of type {kind}, not {VQA2Config.model_type}; see vqa2 convert")


def checkpoint_of(folder: Path) -> str:
    """A hash of everything that a model folder holds but its card, to which results are added later."""
    return _hash(*sorted(p for p in folder.iterdir() if p.is_file() and p.name != "README.md"))


def weights_of(model: torch.nn.Module) -> str:
    """A hash of the weights that a model in memory has."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().reshape(-1).contiguous().view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()


def _hash(*paths: Path) -> str:
    """sha256 over names and contents."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        with path.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
