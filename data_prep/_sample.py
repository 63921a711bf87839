"""Sampling a dataset by its own distribution of quality (VQA², section 3.1): a sample has the histogram of the whole.

The paper does not say how; here: equal-width bins of MOS, quotas by largest remainders, within a bin the items whose
seeded hash is least. The result depends on the seed and the set of items, not on their order.
"""

import numpy as np

BINS = 20


def quotas(sizes: np.ndarray, count: int) -> np.ndarray:
    """`count` shared out over bins in proportion to `sizes`, none above its size; int64 `[bins]`."""
    assert 0 <= count <= sizes.sum()
    exact = count * sizes / max(1, sizes.sum())
    out = np.floor(exact).astype(np.int64)
    # Stable: of equal remainders the lower bin wins. A remainder exists only where the bin is not exhausted.
    order = np.argsort(-(exact - out), kind="stable")
    out[order[: count - out.sum()]] += 1
    return out


def chosen(keys: np.ndarray, mos: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Mask of `count` items. `keys` uint64 `[n]`, distinct; `mos` `[n]` on any linear scale."""
    span = np.ptp(mos) if len(mos) else 0.0
    bins = np.minimum(BINS - 1, ((mos - mos.min()) / span * BINS).astype(int)) if span else np.zeros(len(mos), int)
    share = quotas(np.bincount(bins, minlength=BINS), count)
    rank = _mixed(keys, seed)
    picked = np.zeros(len(mos), bool)
    for number in range(BINS):
        members = np.flatnonzero(bins == number)
        picked[members[np.argsort(rank[members], kind="stable")[: share[number]]]] = True
    return picked


def _mixed(keys: np.ndarray, seed: int) -> np.ndarray:
    """A pseudorandom uint64 per key and seed (the finalizer of splitmix64)."""
    x = keys.astype(np.uint64) + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))


def ranked(keys: np.ndarray, seed: int) -> np.ndarray:
    """Indices of `keys` uint64 `[n]` in a seeded order that does not depend on theirs."""
    return np.argsort(_mixed(keys, seed), kind="stable")
