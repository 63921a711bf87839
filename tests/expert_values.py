"""Values that tests of experts share."""

INFO = {
    "kinds": ["video"], "reference": False, "prompt": False, "raw_range": [0.0, 1.0], "higher_is_better": True,
    "cost_s": 0.0, "strengths": [], "license": "Apache-2.0", "commercial": True, "weights": "", "trained_on": [],
    "pooling": "mean",
}  # fmt: skip
