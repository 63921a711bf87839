"""Held-out ratings: correlations of the prompts' mean readable answers with their targets, against scipy."""

import numpy as np
import pytest
from scipy import stats

from vqa2.train._grpo_log import Record, correlations

FACTS = {
    "clip_id": "c",
    "prompt": "rate",
    "kind": "video",
    "choice": None,
    "tokens": (1, 2),
    "clipped": False,
    "counted": 2,
}


def record(prompt_id: str, target: float | None, answer: str) -> Record:
    text = f"<think>so</think><answer>{answer}</answer>"
    return Record(prompt_id=prompt_id, target=target, text=text, perturbed=None, perturbation=None, **FACTS)


def test_correlations_are_of_the_mean_readable_answers():
    answers = {"a": ("1.0", "2.0"), "b": ("4.0", "no idea"), "c": ("2.5", "3.5"), "d": ("none", "of them")}
    targets = {"a": 1.2, "b": 4.4, "c": 3.9, "d": 2.0}
    made = correlations([record(key, targets[key], text) for key, texts in answers.items() for text in texts])
    x, y = [1.5, 4.0, 3.0], [1.2, 4.4, 3.9]
    assert made["rated_prompts"] == 3
    assert made["srcc"] == pytest.approx(stats.spearmanr(x, y).statistic)
    assert made["plcc"] == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_undefined_correlations_are_left_out():
    assert correlations([record("a", 1.0, "2.0"), record("b", 2.0, "3.0")]) == {"rated_prompts": 2}
    assert correlations([record("a", None, "2.0")]) == {"rated_prompts": 0}
