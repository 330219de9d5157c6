"""An estimate beside the exact effects of the units that were drawn: what they say of all units."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from skilloc.attribution.weighted import correlation, counted_ranks, cross_fitted, gamma_interval, share_at
from skilloc.locality.intervals import Interval, t_quantile

VAGUE = 0.8
"""Width of the interval of a share from which on it says nothing."""

REPLICATES, SHAKEN = 400, 1.1
"""Sets of shaken weights, and by how much their spread is too small for samples of some 60 units, in simulation."""


class Drawing(NamedTuple):
    """An estimate, and the exact effects of the units that were drawn.

    Attributes:
        guess: of every unit that there could be an exact effect of.
        places: of the drawn units among these.
        truth: exact effects of the drawn units.
        weight: number of units that each drawn unit stands for.
        rank: of each drawn unit's estimate by magnitude among all, from 0.
        certain: all units of the largest estimates down to this rank were drawn for certain.
    """

    guess: Float[np.ndarray, " unit"]
    places: np.ndarray
    truth: Float[np.ndarray, "fold drawn"]
    weight: Float[np.ndarray, " drawn"]
    rank: np.ndarray
    certain: int

    @staticmethod
    def of(
        estimate: Float[np.ndarray, "fold unit"],
        exact: Float[np.ndarray, "fold unit"],
        drawn: Bool[np.ndarray, "unit"],
        chance: Float[np.ndarray, "unit"] | None,
    ) -> "Drawing":
        """Put an estimate beside exact effects; without chances, the drawn units are a uniform sample.

        The estimate's top is certain then, as far as it was measured.
        """
        guess = estimate.mean(axis=0)
        there = np.isfinite(guess) & ((chance > 0) if chance is not None else True)
        order = np.argsort(-np.where(there, np.abs(guess), -1.0), kind="stable")[: int(there.sum())]
        rank = np.full(len(guess), -1)
        rank[order] = np.arange(len(order))
        if chance is None:
            known = np.isfinite(exact).all(axis=0)
            certain = len(order) if known[order].all() else int(np.argmin(known[order]))
            top = there & (rank < certain)
            beyond = there & ~top
            share = (drawn & beyond).sum() / max(int(beyond.sum()), 1)
            chance = np.where(top, 1.0, np.where(beyond, share, 0.0))
            drawn = (drawn & beyond) | top
        sure = chance[order] >= 1 - 1e-9
        certain = len(order) if sure.all() else int(np.argmin(sure))
        places = np.flatnonzero(drawn & there)
        among = np.cumsum(there) - 1
        return Drawing(guess[there], among[places], exact[:, places], 1 / chance[places], rank[places], certain)

    def spearman(self, seed: int) -> Interval:
        """Correlation of ranks, with its interval on Fisher's scale, from weights that are shaken.

        Each weight is multiplied by 1 + sqrt(1 - chance) (x - 1), x exponential of mean 1 [Beaumont & Patak 2012], and
        ranks among all units are counted again with every set of weights.
        """
        rng = np.random.default_rng(seed)
        n = len(self.places)
        shaken = np.sqrt(1 - 1 / self.weight) * (rng.exponential(size=(REPLICATES, n)) - 1)
        weights = self.weight * np.concatenate([np.ones((1, n)), 1 + shaken])
        guess, truth = self.guess[self.places], self.truth.mean(axis=0)
        found = correlation(counted_ranks(guess, weights), counted_ranks(truth, weights), weights)
        if not np.isfinite(found[0]):
            return Interval(np.nan, -1.0, 1.0)
        bent = np.arctanh(np.clip(found, -1 + 1e-12, 1 - 1e-12))
        random = self.weight[self.weight > 1 + 1e-9]
        dof = max(float(random.sum() ** 2 / (random**2).sum()) - 2, 1.0) if len(random) else 1000.0
        half = SHAKEN * float(t_quantile(int(dof)) * np.nanstd(bent[1:]))
        low, high = np.tanh([bent[0] - half, bent[0] + half])
        return Interval(float(found[0]), float(low), float(high))

    def pearson(self) -> Interval:
        """Correlation of the effects themselves, only where all are known: it hangs on the few largest."""
        if (self.weight > 1 + 1e-9).any():
            return Interval(np.nan, -1.0, 1.0)
        value = float(correlation(self.guess[self.places], self.truth.mean(axis=0), self.weight[None])[0])
        return Interval(value, value, value) if np.isfinite(value) else Interval(np.nan, -1.0, 1.0)

    def relative_error(self) -> Interval:
        """Ratio of two sums of magnitudes: over the certain units, and over the others by the gamma interval."""
        truth = self.truth.mean(axis=0)
        above, *above_ends = self.total(np.abs(self.guess[self.places] - truth))
        below, *below_ends = self.total(np.abs(truth))
        if not below > 0 or not below_ends[0] > 0:
            return Interval(np.nan, 0.0, np.inf)
        low, high = above_ends[0] / max(below_ends[1], below), above_ends[1] / min(below_ends[0], below)
        return Interval(above / below, low, high)

    def total(self, values: Float[np.ndarray, " drawn"]) -> tuple[float, float, float]:
        """Sum over all units of positive values of the drawn ones, with its ends."""
        random = self.weight > 1 + 1e-9
        sure, each = float(values[~random].sum()), (self.weight * values)[random]
        spread = float((each**2 * (1 - 1 / self.weight[random])).sum())
        low, high = gamma_interval(np.array([each.sum()]), np.array([spread]), float(each.max(initial=0.0)))
        return sure + float(each.sum()), sure + float(low[0]), sure + float(high[0])

    def recall(self, k: int, m: int) -> Interval:
        """Where k units lie above a level, the share of those that are in the top m."""
        size = np.abs(self.truth.mean(axis=0))
        order = np.argsort(-size, kind="stable")
        inside, weight = (self.rank < m)[order], self.weight[order]
        within = np.cumsum(np.where(inside, weight, 0.0))
        outside = np.where(inside, 0.0, weight)
        counts = np.cumsum(outside)
        spread = np.cumsum(outside**2 * (1 - 1 / weight))
        heaviest = float(outside[outside > 1 + 1e-9].mean()) if (outside > 1 + 1e-9).any() else 0.0
        low, high = gamma_interval(counts, spread, heaviest)
        ends = [share_at(within, np.minimum(beyond, len(self.guess) - m), k) for beyond in (counts, high, low)]
        return Interval(*ends)

    def missed(self, m: int) -> Interval:
        """Positive mass outside the top m, over all positive mass."""
        positive = cross_fitted(self.truth)
        outside = self.rank >= m
        inner = positive[:, ~outside].sum(axis=1)
        outer = positive[:, outside] @ self.weight[outside]
        folds = len(inner)
        t = float(t_quantile(folds - 1)) if folds > 1 else 0.0
        noise = [float(part.std(ddof=1) ** 2) / folds if folds > 1 else 0.0 for part in (inner, outer)]
        carry = self.weight * np.where(outside, np.abs(positive.mean(axis=0)), 0.0)
        each = carry * np.sqrt(1 - 1 / self.weight)
        a, b = float(inner.mean()), max(float(outer.mean()), 0.0)
        least, most = max(a - t * np.sqrt(noise[0]), 0.0), a + t * np.sqrt(noise[0])
        if not a > 0 and not b > 0:
            return Interval(np.nan, 0.0, 1.0)
        low, high = (
            float(end[0])
            for end in gamma_interval(
                np.array([b]), np.array([float((each**2).sum()) + noise[1]]), float(each.max(initial=0.0))
            )
        )
        ends = b / (a + b), low / (most + low) if most + low > 0 else 0.0, high / (least + high) if high > 0 else 0.0
        vague = ends[2] - ends[1] > VAGUE
        return Interval(np.nan, 0.0, 1.0) if vague else Interval(*map(float, ends))
