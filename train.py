"""Trains a stage, and in preset=tiny the missing stages before it: `python train.py stage=grpo [key=value ...]`."""

from vqa2.core.config import suggest
from vqa2.core.errors import ConfigError
from vqa2.launch import composed, guarded, options, pop


def main(overrides: list[str]) -> None:
    wanted, known = pop(overrides, "stage") or "", [*options("stage"), "all"]
    if wanted not in known:
        raise ConfigError(f"stage={wanted}: no such stage{suggest(wanted, known)}")
    # Heavy imports wait until the command line is known to be good.
    from vqa2.train.plan import train

    train(wanted, overrides, composed, say_done=True)


if __name__ == "__main__":
    guarded(main, "train")
