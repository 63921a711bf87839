"""VQA2Processor: a decoded clip and a text to model inputs, and the tiny model's own tokenizer.

The reader already resizes with PIL bicubic to the model's sizes (as the released code does), so preprocessing here is
the normalization (x / 255 - 0.5) / 0.5 of SigLIP for both kinds of frames; torchvision is not needed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoProcessor, PreTrainedTokenizerFast
from transformers.processing_utils import ProcessorMixin

from vqa2.core.errors import ConfigError, DataError
from vqa2.core.prompts import SCORE_PREFIX, SCORE_QUESTION, with_counts
from vqa2.core.records import Turn
from vqa2.core.scale import LEVELS
from vqa2.data.layout import Example, Slots, Tokens, lay_out
from vqa2.data.video import Video, thinned
from vqa2.model.modeling import VQA2Config

END, START, PAD = "<|im_end|>", "<|im_start|>", "<|endoftext|>"
SPECIAL = [PAD, START, END, "<image>", "<video>", "<motion>"]
# Qwen2's pre-tokenization: contractions, words with their leading space, single digits, punctuation, white space.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with Qwen2's pre-tokenization and special tokens, trained on `texts`; no download."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, padding_side="right")


def level_ids(tokenizer) -> list[int]:
    """Ids of " high" .. " low": one token each, distinct; ConfigError otherwise (the level score reads them)."""
    ids = [tokenizer.encode(f" {level}", add_special_tokens=False) for level in LEVELS]
    if any(len(i) != 1 for i in ids) or len({i[0] for i in ids}) != 5:
        raise ConfigError(f"tokenizer: the level words {LEVELS} must be single, distinct tokens, got {ids}")
    return [i[0] for i in ids]


class VQA2Processor(ProcessorMixin):
    """Tokenizer, token layout and frame normalization. Saved and loaded with the model; in AutoProcessor.

    `image_size`, `motion_size` in px (square); sampling is the reader's (one key frame a second). `max_length`: tokens
    of a row, see `fit`. `score_question` and the begun answer `score_prefix`: how the model is asked for a score.
    """

    attributes = ["tokenizer"]
    tokenizer_class = "AutoTokenizer"

    def __init__(
        self,
        tokenizer=None,
        image_size: int = 384,
        motion_size: int = 384,
        tokens_per_frame: int = 196,
        layout: str = "interleaved",
        use_motion: bool = True,
        system: str = "You are a helpful assistant.",
        max_length: int = 10000,
        score_question: str = SCORE_QUESTION,
        score_prefix: str = SCORE_PREFIX,
        **kwargs,
    ) -> None:
        super().__init__(tokenizer)
        self.score_question, self.score_prefix = score_question, score_prefix
        self.max_length = max_length
        self.image_size, self.motion_size, self.tokens_per_frame = image_size, motion_size, tokens_per_frame
        self.layout, self.use_motion, self.system = layout, use_motion, system

    @property
    def tokens(self) -> Tokens:
        video, motion = self.tokenizer.convert_tokens_to_ids(["<video>", "<motion>"])
        return Tokens(video=video, motion=motion, layout=self.layout, use_motion=self.use_motion, system=self.system)

    def example(self, turns: Sequence[Turn], video: Video | None, where: str) -> Example:
        """Ids and labels of a conversation over a clip, whose numbers stand for their marks; see
        `vqa2.data.layout.lay_out`."""
        slots = None
        if video is not None:
            turns = [replace(turn, user=_counted(turn.user, video)) for turn in turns]
            slots = Slots(
                tokens_per_frame=self.tokens_per_frame,
                num_key=len(video.key),
                motion_second=tuple(video.motion_second.tolist()),
            )
        return lay_out(turns, slots, self.tokens, self.tokenizer, where)

    def fit(self, turns: Sequence[Turn], video: Video | None, where: str) -> Video | None:
        """The clip with as many key frames as fit beside the text within `max_length` tokens.

        Key frames go, evenly over the clip; never motion frames, question or answer (the released code cuts the end
        off, where both stand). A row that cannot fit so is a DataError.
        """
        length, keys = len(self.example(turns, video, where).input_ids), 0 if video is None else len(video.key)
        keep = self.kept_keys(length, keys, where)
        return video if video is None or keep == keys else thinned(video, keep)

    def kept_keys(self, length: int, keys: int, where: str) -> int:
        """How many of its key frames a row of `length` tokens keeps."""
        over = length - self.max_length
        if over <= 0:
            return keys
        keep = keys - -(-over // self.tokens_per_frame)
        if keep < 1:
            what = "text, one key frame and motion frames take" if keys else "the text takes"
            raise DataError(f"{where}: {what} more than model.max_length={self.max_length} tokens; shorten it")
        return keep

    def media(self, videos: Sequence[Video]) -> dict[str, Tensor]:
        """`key_frames [ΣK,3,H,W]` (float32 in [-1, 1]), `motion_frames [ΣT,3,h,w]` (uint8; the motion tower makes
        numbers of them chunk by chunk) and `clip_sizes [clips,2]`."""
        if not videos:
            return {}
        return {
            "key_frames": _frames([v.key for v in videos]).float().div_(127.5).sub_(1.0),
            "motion_frames": _frames([v.motion for v in videos]),
            "clip_sizes": torch.tensor([[len(v.key), len(v.motion)] for v in videos]),
        }


def _counted(question: str, video: Video) -> str:
    """The question with the numbers of the clip's frames, and its seconds, in place of their marks."""
    keys, motion = len(video.key), len(video.motion)
    first = keys if video.second_from is None else int((video.key_times < video.second_from).sum())
    end = video.motion_times[-1] + 1 / video.fps if motion and video.fps else None
    return with_counts(question, keys, first, motion, end)


def _frames(clips: Sequence[np.ndarray]) -> Tensor:
    """uint8 `[T,H,W,3]` each -> `[ΣT,3,H,W]`."""
    return torch.from_numpy(np.concatenate(clips)).permute(0, 3, 1, 2)


AutoProcessor.register(VQA2Config, VQA2Processor)
