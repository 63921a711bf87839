"""Inference: one class for the CLI, Python, benchmarks and rewards. Scores by level softmax, answers by generation.

Level score (VQA², section 4): one prefill of the scoring prompt with the answer begun ("The quality of this video is"),
softmax over the five level tokens at the last position, weights 1 .75 .5 .25 0 -> score01. Nothing is generated.
"""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from vqa2.core.errors import ConfigError, MediaError
from vqa2.core.prompts import SCORE_PREFIX, SCORE_QUESTION
from vqa2.core.records import Answer, Kind, Query, Turn
from vqa2.core.run import fingerprint
from vqa2.core.scale import level_score
from vqa2.data.video import Video, VideoSpec, read_media
from vqa2.model.processing import END, PAD, level_ids

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}


class ModelPredictor:
    """A trained model that scores and answers; the Predictor protocol of vqa2/core/records.py.

    Scoring takes one clip a pass. Answers are generated for all queries of a call at once, left-padded; the caller's
    batch size bounds memory.
    """

    def __init__(self, folder: Path, video: VideoSpec, device: str, max_new_tokens: int) -> None:
        if not (folder / "config.json").is_file():
            raise ConfigError(f"{folder}: no trained model here (a folder with config.json is needed)")
        self.model = AutoModelForImageTextToText.from_pretrained(folder).to(device).eval()
        self.processor = AutoProcessor.from_pretrained(folder)
        self.name, self.video, self.device, self.max_new_tokens = str(folder), video, device, max_new_tokens
        # Weights, layout and tokenizer, and the settings here: whatever an answer depends on.
        files = _hash(*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.json")))
        self.fingerprint = fingerprint([files, asdict(video), max_new_tokens])
        self._levels = level_ids(self.processor.tokenizer)

    def score(self, queries: Sequence[Query]) -> list[Answer]:
        """score01 and level probabilities per query; an unreadable file gives an Answer with `error`."""
        return [self._guard(q, self._score) for q in queries]

    @torch.inference_mode()
    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        """Greedy answers; an unreadable file gives an Answer with `error`."""
        read = {q.id: self._guard(q, lambda q, v: (q, v)) for q in queries}
        good = [item for item in read.values() if not isinstance(item, Answer)]
        made = {a.id: a for a in self._generate(good)} if good else {}
        return [made.get(q.id, read[q.id]) for q in queries]

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

    def _reply_logprob(self, first, reply: str) -> float:
        tokenizer = self.processor.tokenizer
        tail = torch.tensor([tokenizer.encode(reply + END, add_special_tokens=False)], device=self.device)
        # The prompt's cache grows with what is read after it; each reply gets a copy of its own.
        cache = copy.deepcopy(first.past_key_values)
        rest = self.model(tail[:, :-1], past_key_values=cache).logits if tail.shape[1] > 1 else first.logits[:, :0]
        logits = torch.cat((first.logits, rest), 1)[0].float().log_softmax(-1)
        return logits.gather(1, tail[0, :, None]).sum().item()

    def _guard(self, query: Query, fn):
        try:
            return fn(query, self._read(query))
        except MediaError as err:
            return Answer(id=query.id, error=err.reason)

    def _read(self, query: Query) -> Video:
        image, motion = self.processor.image_size, self.processor.motion_size
        return read_media(query.path, query.kind, (image, image), (motion, motion), self.video)

    def _prompt(self, query: Query, question: str, video: Video, begun: str) -> tuple[list[int], Video]:
        """The prompt's ids and the clip they are laid out for (fewer key frames, where it would be too long)."""
        turns = (Turn(user=question, assistant=""),)
        video = self.processor.fit(turns, video, query.id)
        ids = self.processor.example(turns, video, query.id).input_ids
        return ids + self.processor.tokenizer.encode(begun, add_special_tokens=False), video

    def _media(self, videos: Sequence[Video]) -> dict[str, torch.Tensor]:
        dtype = self.model.dtype
        media = self.processor.media(videos)
        return {k: v.to(self.device, dtype if v.is_floating_point() else v.dtype) for k, v in media.items()}

    @torch.inference_mode()
    def _score(self, query: Query, video: Video) -> Answer:
        ids, video = self._prompt(query, query.question or SCORE_QUESTION, video, SCORE_PREFIX)
        inputs = torch.tensor([ids], device=self.device)
        logits = self.model(inputs, logits_to_keep=1, **self._media([video])).logits[0, -1]
        levels = logits[self._levels].float().softmax(-1).tolist()
        return Answer(id=query.id, score01=level_score(levels), levels=tuple(levels), dropped_key_frames=video.dropped)

    def _generate(self, items: Sequence[tuple[Query, Video]]) -> list[Answer]:
        for query, _ in items:
            if query.question is None:
                raise ConfigError(f"{query.id}: a question is needed to answer")
        prompts, videos = zip(*[self._prompt(query, query.question, video, "") for query, video in items])
        length, pad = max(map(len, prompts)), self.processor.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (length - len(p)) + p for p in prompts], device=self.device)
        mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        media = self._media(videos)
        new = self.model.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=self.max_new_tokens, **media
        )
        texts = self.processor.tokenizer.batch_decode(new, skip_special_tokens=False)
        texts = [text.split(END)[0].replace(PAD, "").strip() for text in texts]
        return [
            Answer(id=query.id, text=text, dropped_key_frames=video.dropped)
            for (query, _), video, text in zip(items, videos, texts)
        ]


def kind_of(path: Path) -> Kind:
    """`image` for still formats by extension, else `video` (the reader checks what the file really is)."""
    return "image" if path.suffix.lower() in IMAGES else "video"


def media_files(target: Path) -> list[Path]:
    """A file, or every file of a folder (not hidden, sorted). ConfigError for nothing to score."""
    if target.is_file():
        return [target]
    if not target.is_dir():
        raise ConfigError(f"{target}: no such file or folder")
    files = sorted(p for p in target.iterdir() if p.is_file() and not p.name.startswith("."))
    if not files:
        raise ConfigError(f"{target}: the folder is empty")
    return files


def _hash(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        if path.is_file():
            with path.open("rb") as handle:
                while block := handle.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:16]
