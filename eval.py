"""Evaluates a predictor: `python eval.py benchmark=qbench-video [run=tiny] [predictor=model] [key=value ...]`."""

from vqa2.core.config import decode
from vqa2.core.errors import ConfigError
from vqa2.launch import composed, guarded, options


def main(overrides: list[str]) -> None:
    from vqa2.evaluate import EvalRun, evaluate

    made = decode(EvalRun, composed("eval", overrides), "eval")

    def ensure(stage: str) -> None:
        """Trains a missing stage of the preset's own run where the preset allows it; nobody else's settings are
        known here."""
        from vqa2.train.plan import train

        preset = made.run if made.run in options("preset") else made.train_preset
        asked = [f"preset={preset}", f"name={made.run}"]
        own = composed("train", [f"stage={stage}", asked[0]])
        if made.run != own["name"] or not own["train_missing"]:
            raise ConfigError(
                f"{made.runs}/{made.run}/{stage}: no trained model; run `python train.py stage={stage} "
                f"{' '.join(asked)}` first (with that run's settings), or name a model with predictor.folder"
            )
        train(stage, [*asked, f"out={made.runs}"], composed)

    evaluate(made, ensure)


if __name__ == "__main__":
    guarded(main, "eval")
