"""A text-only Qwen2 of a few thousand weights with the trainer's `embed` contract, its tokenizer, rows and collator.

Run as a script (`python grpo_toy.py OUT '{"max_tokens": 20, ...}'`), it trains with the rewards of the project on
completions read as ratings (`spelled`), and writes its log and weights: a process of several, perhaps under DeepSpeed.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig

import vqa2.train._grpo_collect as collect
from vqa2.core.config import build, decode
from vqa2.core.errors import MediaError
from vqa2.core.records import Instruction, Turn
from vqa2.data.video import Video
from vqa2.train._packed import Packing
from vqa2.train.grpo import GRPOTrainer
from vqa2.train.grpo_config import Control
from vqa2.train.grpo_rewards import TrlReward

WORDS = ["<pad>", "<eos>", "<think>", "</think>", "<answer>", "</answer>", *"0123456789.", *"abcde "]


def tokenizer() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.WordLevel({w: k for k, w in enumerate(WORDS)}, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("</?[a-z]+>|."), "isolated")
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", unk_token="<pad>")


class Toy(Qwen2ForCausalLM):
    """Reads a clip as one number that shifts every prompt embedding; counts its calls of `embed`."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        self.see = torch.nn.Linear(1, config.hidden_size)
        self.seen = 0

    def embed(self, input_ids, levels=None):
        self.seen += len(input_ids)
        embeds = self.get_input_embeddings()(input_ids)
        return embeds if levels is None else embeds + self.see(levels[:, None, None])

    def encode(self, media, clean=None):
        return media

    def constants(self, media, encoded):
        return encoded


def toy(seed: int = 0, cls=Toy):
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        initializer_range=0.2,
        tie_word_embeddings=False,
    )
    return cls(config)


def rows(count: int = 8, kind: str = "video", lost: tuple[int, ...] = ()) -> list[Instruction]:
    """`lost`: rows whose clip cannot be read."""
    return [
        Instruction(
            id=f"r{k}",
            clip_id=f"c{k}",
            kind=kind,
            media=f"lost{k}.mp4" if k in lost else f"{k}.mp4",
            task="grpo",
            turns=(Turn(user="abc" + "de"[: k % 3], assistant=""),),
            mos=100.0 * k / count,
        )
        for k in range(count)
    ]


class ToyCollate:
    """Prompts of different lengths, padded on the left; a clip is a ramp of brightness, `levels` its last frame's."""

    def __init__(self) -> None:
        self.tokenizer = tokenizer()

    def read(self, row):
        if row.media.startswith("lost"):
            raise MediaError(row.media, "moov atom not found")
        return clip(16, 2)

    def collate(self, rows, videos=None):
        videos = [self.read(row) for row in rows] if videos is None else videos
        ids = [self.tokenizer.encode(r.turns[0].user) for r in rows]
        length = max(map(len, ids))
        return {
            "input_ids": torch.tensor([[0] * (length - len(i)) + i for i in ids]),
            "attention_mask": torch.tensor([[0] * (length - len(i)) + [1] * len(i) for i in ids]),
            "labels": torch.zeros(len(rows), length),
            "dropped_key_frames": 0,
            "levels": torch.tensor([float(v.motion[-1].mean()) / 16 for v in videos]),
            "rows": list(rows),
        }


def clip(motion: int, keys: int) -> Video:
    """A clip whose motion frames have the values 1, 2, … and whose key frames those of the frames at their instants."""
    step = motion // keys
    frames = np.broadcast_to(np.arange(1, motion + 1, dtype=np.uint8)[:, None, None, None], (motion, 2, 2, 3)).copy()
    return Video(
        key=frames[::step].copy(),
        motion=frames,
        key_times=np.arange(keys, dtype=float),
        motion_times=np.arange(motion) / step,
        motion_second=np.arange(motion) // step,
        fps=float(step),
        path="toy.mp4",
    )


def arguments(out: Path, **change) -> GRPOConfig:
    values = {
        "output_dir": str(out),
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "num_generations": 4,
        "max_completion_length": 8,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "seed": 3,
    }
    return GRPOConfig(**(values | change))


def few_as(completions, **_):
    """Share of "a" and "b": a reward that a random model earns some of."""
    return [sum(c.count(x) for x in "ab") / 8 for c in completions]


REWARDS = {"letters": TrlReward(few_as, 1.0)}


def real_rewards(memory: int = 0) -> dict:
    perturbation = {"modes": ["reverse"], "segments": 4, "window": 4, "most": 3}
    temporal = {
        "variant": "fixed",
        "bonus": 0.3,
        "regression_above": 0.1,
        "ranking_above": 0.1,
        "sigma": 0.5,
        "eps": 1e-6,
    }
    values = {
        "regression": {"sigma": 0.5},
        "ranking": {"eps": 1e-6, "memory": memory},
        "temporal": {**temporal, "perturbation": perturbation},
        "format": {},
    }
    return {name: build("reward", {"name": name, "weight": 1.0, **v}, name) for name, v in values.items()}


def packing(max_tokens: int = 4096) -> Packing:
    return Packing(max_tokens=max_tokens, rollout_tokens=4096, attention="sdpa")


def control(**change) -> Control:
    values = {
        "resample_rounds": 0,
        "reward_timeout_s": 60.0,
        "shuffle_rewards": False,
        "alarms": {"steps": 0, "patience": 3, "parse_rate": 0.02, "length": 0.25, "stop": False},
        "show": {"every": 0, "prompts": 2},
    }
    return decode(Control, values | change, "stage.control")


def trainer(
    out: Path, model=None, rewards=None, data=None, max_tokens: int = 4096, options: dict | None = None, **change
) -> GRPOTrainer:
    made = GRPOTrainer(
        model=model if model is not None else toy(),
        args=arguments(out, **change),
        rows=rows() if data is None else data,
        collate=ToyCollate(),
        rewards=REWARDS if rewards is None else rewards,
        tokenizer=tokenizer(),
        packing=packing(max_tokens),
        control=control(**(options or {})),
    )
    made.pop_callback(next(c for c in made.callback_handler.callbacks if type(c).__name__ == "PrinterCallback"))
    return made


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def table(out: Path) -> list[dict]:
    """The completions that a run wrote down."""
    return lines(out / "completions.jsonl")


def logged(made) -> list[dict]:
    """What a trainer logged of its steps."""
    return [row for row in made.state.log_history if "loss" in row]


def spelled(rollout, _tokenizer) -> list[str]:
    """In place of the words of a rollout: a rating that follows from its share of the first letters, so that a random
    toy answers readably, and its answers differ. One share in four has no rating."""
    made = []
    for ids in rollout.lists():
        rating = 1 + 4 * sum(WORDS[k] in "abc012345" for k in ids) / len(ids)
        made.append("no" if ids[0] % 4 == 0 else f"<think></think><answer>{rating:.3f}</answer>")
    return made


def main(out: Path, settings: dict) -> None:
    """With `spelled` in place. `settings`: `max_tokens` of a pack, `memory` of the ranking reward, `lost` rows,
    `options` of `Control`, and what else is not as in `arguments`.
    """
    torch.set_num_threads(1)
    change = {"beta": 0.05, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 1e9} | settings
    budget, memory, options = change.pop("max_tokens"), change.pop("memory", 0), change.pop("options", {})
    data = rows(12, lost=tuple(change.pop("lost", ())))
    made = trainer(out, rewards=real_rewards(memory), data=data, max_tokens=budget, options=options, **change)
    made.train()
    finish(made, out)


def finish(made: GRPOTrainer, out: Path) -> None:
    """Writes the log and the weights."""
    state = made.accelerator.get_state_dict(made.model_wrapped)
    if made.accelerator.is_main_process:
        # Times differ between runs.
        drop = ("_s", "_runtime", "_second")
        log = [{k: v for k, v in row.items() if not k.endswith(drop)} for row in made.state.log_history]
        (out / "log.json").write_text(json.dumps(log))
        torch.save(state, out / "weights.pt")


if __name__ == "__main__":
    collect.words = spelled
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
