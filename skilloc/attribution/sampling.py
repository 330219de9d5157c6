"""Which units are measured exactly beside an estimate: a sample with known, unequal chances."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

EVEN = 0.5
"""Part of the chances that is the same for all units, so that no unit stands for more than twice as many as in a
uniform sample."""


class Sample(NamedTuple):
    """Which units are measured exactly.

    Attributes:
        drawn: those that were drawn at random or are certain.
        chance: with which each unit is in such a sample; 1 = certain, 0 = never.
    """

    drawn: Bool[np.ndarray, "unit"]
    chance: Float[np.ndarray, "unit"]


def chances(
    estimate: Float[np.ndarray, "fold subtask unit"],
    *,
    count: int,
    certain: Bool[np.ndarray, "unit"],
    candidates: Bool[np.ndarray, "unit"],
) -> Float[np.ndarray, "unit"]:
    """Return with which chance each unit is to be measured, so that `count` are drawn beside the certain ones.

        chance[u] = min(1, count * size[u] / sum of size),   size = EVEN / n + (1 - EVEN) * (|e| + error) / sum

    with e the mean estimate over folds and `error` its standard error, averaged over subtasks after division by their
    sums; 0 for units that are no candidates.
    """
    rest = candidates & ~certain
    found = certain.astype(float)
    n = int(rest.sum())
    if count >= n:
        return np.where(rest, 1.0, found)
    folds = len(estimate)
    size = np.abs(estimate.mean(axis=0))
    if folds > 1:
        size = size + estimate.std(axis=0, ddof=1) / np.sqrt(folds)
    size = np.nan_to_num(size[:, rest])
    total = size.sum(axis=1, keepdims=True)
    share = np.divide(size, total, out=np.full_like(size, 1 / n), where=total > 0).mean(axis=0)
    share = EVEN / n + (1 - EVEN) * share
    own, open_ = np.ones(n), np.ones(n, dtype=bool)
    while True:  # what would be above 1 is certain, and the others share what is left
        left = count - int((~open_).sum())
        own[open_] = left * share[open_] / share[open_].sum()
        if not (own > 1).any():
            break
        open_ &= own < 1
        own = np.minimum(own, 1.0)
    found[rest] = own
    return found


def draw_sample(chance: Float[np.ndarray, "unit"], *, seed: int) -> Sample:
    """Draw units with given chances, a fixed number of them: systematically, in random order [Madow 1949]."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(chance))
    steps = np.cumsum(chance[order])
    ticks = np.floor(steps + rng.random() + 1e-9)
    hit = np.diff(ticks, prepend=0.0) >= 1
    drawn = np.zeros(len(chance), dtype=bool)
    drawn[order[hit]] = True
    return Sample(drawn | (chance >= 1 - 1e-9), chance)
