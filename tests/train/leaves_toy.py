"""A mixture of two experts whose rows go to one or the other, trained by the Trainer: `python leaves_toy.py OUT
'{"deepspeed": ..., "marked": true}'` is one process of perhaps several, under DeepSpeed or not."""

import json
import sys
from pathlib import Path

import torch
from torch import nn
from transformers import PrinterCallback, Trainer, TrainingArguments

from vqa2.train._leaves import mark_leaves
from vqa2.train.plan import EngineSpec


class Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x, chosen):
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows = chosen == number
            if rows.any():
                out = out.index_put((rows,), expert(x[rows]))
        return out


class Toy(nn.Module):
    accepts_loss_kwargs = True

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mixture, self.last = nn.Linear(4, 4), Mixture(), nn.Linear(4, 1)

    def forward(self, x, chosen, labels, num_items_in_batch=None):
        y = self.last(self.mixture(self.first(x), chosen)).squeeze(-1)
        return {"loss": ((y - labels) ** 2).sum() / num_items_in_batch}


def rows(count: int) -> list[dict]:
    """In order, so that of two processes with a row each the first uses expert 0 alone, the second expert 1."""
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    return [{"x": v, "chosen": torch.tensor(i % 2), "labels": v.sum()} for i, v in enumerate(x)]


class InOrder(Trainer):
    def _get_train_sampler(self, train_dataset=None):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def main(out: Path, made: dict) -> None:
    torch.manual_seed(0)
    model, deepspeed = Toy(), made["deepspeed"]
    if made["marked"]:
        mark_leaves(model, EngineSpec(device="cpu", precision="fp32", longest_first=False, deepspeed=deepspeed))
    arguments = TrainingArguments(
        output_dir=str(out), use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, deepspeed=deepspeed,
        per_device_train_batch_size=made["rows"], max_steps=4, learning_rate=0.05, optim="sgd", seed=0,
        lr_scheduler_type="constant", remove_unused_columns=False, average_tokens_across_devices=True,
    )  # fmt: skip
    trainer = InOrder(model=model, args=arguments, train_dataset=rows(8))
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        torch.save(state, out / "weights.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
