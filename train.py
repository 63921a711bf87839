"""Trains one stage, and in preset=tiny the missing stages before it: `python train.py stage=grpo [key=value ...]`."""

from vqa2.launch import composed, guarded, options, pop
from vqa2.core.errors import ConfigError


def main(overrides: list[str]) -> None:
    wanted = pop(overrides, "stage")
    known = [*options("stage"), "all"]
    if wanted not in known:
        from vqa2.core.config import suggest

        raise ConfigError(f"stage={wanted or ''}: no such stage{suggest(wanted or '', known)}")
    # Heavy imports wait until the command line is known to be good.
    from vqa2.train.plan import execute, plan
    from vqa2.train.common import say
    from vqa2.train.data import ensure_data

    jobs = plan(wanted, lambda label: composed("train", [f"stage={label}", *overrides]))
    ensure_data(jobs[0].spec.data, composed)
    execute(jobs, say)


if __name__ == "__main__":
    guarded(main)
