"""Evaluates a predictor: `python eval.py benchmark=qbench-video [run=tiny] [predictor=model] [key=value ...]`."""

from vqa2.core.config import decode
from vqa2.launch import composed, guarded


def main(overrides: list[str]) -> None:
    from vqa2.evaluate import EvalRun, evaluate

    made = decode(EvalRun, composed("eval", overrides), "eval")

    def ensure(stage: str) -> None:
        """Trains the stage of the evaluated run where it is missing and the preset allows it."""
        from vqa2.train.plan import train

        train(stage, [f"preset={made.train_preset}", f"name={made.run}", f"out={made.runs}"], composed)

    evaluate(made, ensure)


if __name__ == "__main__":
    guarded(main, "eval")
