"""How far an estimate of effects can be trusted, measured against exact effects.

An attribution without this is a guess. The exact effects are a sample with known, unequal chances (`chances`): the
estimate's own top is measured for certain, and the others with a chance that grows with the estimate and its doubt, so
that what an estimate may have missed is looked for where it could be. Every measured unit then stands for 1 / chance
units [Horvitz & Thompson 1952], in shares and means [Hajek 1971] over all units:

- Spearman correlation: of ranks among all units, by weighted counting.
- Relative error, recall and missed mass: sums over units, with the gamma interval for weighted counts
  [Fay & Feuer 1997, Statistics in Medicine 16, 791], which knows that what was not drawn may be as large as anything
  that was.

The Pearson correlation is withheld (NaN) unless every unit was measured: in heavy tails it is that of the few largest
effects, and no sample tells how large those are that it lacks. A missed mass is withheld where its interval spans more
than `VAGUE` of all that is possible. The relative error is one of sums of magnitudes: that of squares cannot be known
from a sample either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from skilloc.effects import Effects
from skilloc.locality.intervals import Interval, t_quantile
from skilloc.mistakes import WrongValue, a_seed, whole

RECALLS = ((10, 20), (50, 100), (50, 200))

VAGUE = 0.8
"""Width of the interval of a share from which on it says nothing."""

REPLICATES, SHAKEN = 400, 1.1
"""Sets of shaken weights, and by how much their spread is too small for samples of some 60 units, in simulation."""

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


@dataclass(frozen=True)
class Calibration:
    """How an estimate compares with exact effects on one subtask.

    Attributes:
        drawn: number of units drawn at random, those that are certain left out.
        measured: number of units with an exact effect.
        spearman: correlation of the ranks of estimated and exact effects over all units, signed.
        relative_error: sum of |estimate - exact| over sum of |exact|, over all units (1 = no better than zero).
        pearson: correlation of the effects themselves; mostly that of the few largest.
        recall: "k in m": share of the k largest exact effects (by magnitude, over all units) among the m largest
            estimates; only where the top m was measured.
        missed_mass: "m": share of the positive exact effects of all units that lies outside the m largest estimates;
            magnitudes by cross-fitting over folds, so that noise adds nothing on average.
    """

    drawn: int
    measured: int
    spearman: Interval
    relative_error: Interval
    pearson: Interval
    recall: dict[str, Interval]
    missed_mass: dict[str, Interval]

    def record(self) -> dict[str, Any]:
        """Return a JSON form; `Calibration.from_record` reads it."""
        found: dict[str, Any] = {"drawn": self.drawn, "measured": self.measured}
        for name in _SINGLE:
            found[name] = getattr(self, name).record()
        for name in _SEVERAL:
            found[name] = {key: one.record() for key, one in getattr(self, name).items()}
        return found

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> "Calibration":
        """Read what `record` wrote; what JSON could not hold is NaN."""
        single: dict[str, Any] = {name: _interval_of(record[name]) for name in _SINGLE}
        several: dict[str, Any] = {
            name: {key: _interval_of(one) for key, one in record[name].items()} for name in _SEVERAL
        }
        return Calibration(record["drawn"], record["measured"], **single, **several)


_SINGLE, _SEVERAL = ("spearman", "relative_error", "pearson"), ("recall", "missed_mass")


def _interval_of(record: Mapping[str, Any]) -> Interval:
    return Interval(*(np.nan if record[end] is None else record[end] for end in ("value", "low", "high")))


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


def calibrate(
    estimate: Effects,
    exact: Effects,
    *,
    drawn: Bool[np.ndarray, "unit"],
    chance: Float[np.ndarray, "unit"] | None = None,
    recalls: Sequence[tuple[int, int]] = RECALLS,
    seed: int = 0,
) -> dict[str, Calibration]:
    """Compare an estimate with exact effects, subtask by subtask.

    Args:
        estimate: effects of all units, as attribution gives them.
        exact: measured effects of some or all units, on the same examples and folds, in the same loss.
        drawn: which units were drawn; all must have an exact effect.
        chance: with which each unit is among them, as in `Sample`; if not given, they were drawn uniformly, and the
            estimate's top is certain as far as it was measured.
        recalls: pairs (k, m) to give the recall for.
        seed: of the resampling.

    Raises:
        ValueError: if the two do not fit each other, or fewer than 8 units were drawn.

    Example:
        >>> import skilloc as sk
        >>> subtasks = sk.parity_subtasks(4, atoms=2, k=2)
        >>> model = sk.MLP(6, 2, width=8, depth=3)
        >>> experiment = sk.Experiment(model, subtasks, count=64)
        >>> estimate, exact = sk.attribution_effects(experiment), sk.ablation_effects(experiment)
        >>> drawn = sk.masks.sample(experiment.units, 12, seed=0)
        >>> list(sk.calibrate(estimate, exact, drawn=drawn))
        ['parity_0', 'parity_1']
    """
    for pair in recalls:
        for number in pair:
            whole("recalls", number)
    a_seed("seed", seed)
    about, other = ((e.subtasks, e.units, e.made.get("tokens"), e.unit) for e in (estimate, exact))
    if about != other:
        raise WrongValue(
            f"`estimate` (in {estimate.unit}) and `exact` (in {exact.unit}) are not about the same subtasks, units, "
            "tokens and loss; measure both on one experiment"
        )
    if drawn.sum() < 8 or not exact.measured[drawn].all():
        raise WrongValue(
            f"`drawn` has {int(drawn.sum())} units, {int((drawn & ~exact.measured).sum())} of them without an exact "
            "effect; measure at least 8 random units exactly"
        )
    if chance is not None and not (chance[drawn] > 0).all():
        raise WrongValue("`chance` is 0 for units that were drawn; pass the chances that they were drawn with")
    found = {}
    for subtask in estimate.subtasks:
        drawing = _Drawing.of(estimate.of(subtask), exact.of(subtask), drawn, chance)
        found[subtask] = drawing.calibration(recalls, int(exact.measured.sum()), seed)
    return found


class _Drawing(NamedTuple):
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
    ) -> "_Drawing":
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
        return _Drawing(guess[there], among[places], exact[:, places], 1 / chance[places], rank[places], certain)

    def calibration(self, recalls: Sequence[tuple[int, int]], measured: int, seed: int) -> Calibration:
        recall, missed = {}, {}
        for k, m in recalls:
            if m <= self.certain and k <= len(self.guess):
                recall[f"{k} in {m}"] = self.recall(k, m)
                missed[str(m)] = self.missed(m)
        random = int((self.weight > 1 + 1e-9).sum())
        return Calibration(
            random or len(self.places),
            measured,
            self.spearman(seed),
            self.relative_error(),
            self.pearson(),
            recall,
            missed,
        )

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
        found = _correlation(_counted_ranks(guess, weights), _counted_ranks(truth, weights), weights)
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
        value = float(_correlation(self.guess[self.places], self.truth.mean(axis=0), self.weight[None])[0])
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
        low, high = _gamma_interval(np.array([each.sum()]), np.array([spread]), float(each.max(initial=0.0)))
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
        low, high = _gamma_interval(counts, spread, heaviest)
        ends = [_share_at(within, np.minimum(beyond, len(self.guess) - m), k) for beyond in (counts, high, low)]
        return Interval(*ends)

    def missed(self, m: int) -> Interval:
        """Positive mass outside the top m, over all positive mass."""
        positive = _cross_fitted(self.truth)
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
            for end in _gamma_interval(
                np.array([b]), np.array([float((each**2).sum()) + noise[1]]), float(each.max(initial=0.0))
            )
        )
        ends = b / (a + b), low / (most + low) if most + low > 0 else 0.0, high / (least + high) if high > 0 else 0.0
        vague = ends[2] - ends[1] > VAGUE
        return Interval(np.nan, 0.0, 1.0) if vague else Interval(*map(float, ends))


def _share_at(within: np.ndarray, beyond: np.ndarray, k: int) -> float:
    """Share of the first k units, by level, that lie within; straight between levels."""
    total = np.append(0.0, within + beyond)
    return float(np.clip(np.interp(k, total, np.append(0.0, within)) / k, 0, 1))


def _gamma_interval(total: np.ndarray, spread: np.ndarray, heaviest: float) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of a sum of weighted counts from its variance and the largest weight [Fay & Feuer 1997]."""

    def quantile(mean: np.ndarray, variance: np.ndarray, z: float) -> np.ndarray:
        with np.errstate(all="ignore"):
            half_dof = mean**2 / variance  # shape of the gamma; its cube root is nearly normal
            root = 1 - 1 / (9 * half_dof) + z / (3 * np.sqrt(half_dof))
            return np.asarray(np.where(variance > 0, mean * np.maximum(root, 0) ** 3, mean))

    return quantile(total, spread, -1.96), quantile(total + heaviest, spread + heaviest**2, 1.96)


def _cross_fitted(effects: Float[np.ndarray, "fold unit"]) -> Float[np.ndarray, "fold unit"]:
    """Positive part of each effect: a fold's value counts where the other folds say that the effect is positive."""
    folds = len(effects)
    if folds < 2:
        return np.asarray(np.maximum(effects, 0))
    others = (effects.sum(axis=0) - effects) / (folds - 1)
    return np.asarray(effects * (others > 0))


def _correlation(
    a: Float[np.ndarray, "*rows drawn"],
    b: Float[np.ndarray, "*rows drawn"],
    weights: Float[np.ndarray, "replicate drawn"],
) -> Float[np.ndarray, " replicate"]:
    """Correlations, a row of weights each."""
    weights = weights / weights.sum(axis=1, keepdims=True)
    mean_a, mean_b = (weights * a).sum(axis=1), (weights * b).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(
            ((weights * a * b).sum(axis=1) - mean_a * mean_b)
            / np.sqrt(((weights * a**2).sum(axis=1) - mean_a**2) * ((weights * b**2).sum(axis=1) - mean_b**2))
        )


def _counted_ranks(
    values: Float[np.ndarray, " drawn"], weights: Float[np.ndarray, "replicate drawn"]
) -> Float[np.ndarray, "replicate drawn"]:
    """Ranks among all units, by weighted counting, a row of weights each; ties share their mean rank."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(values[order]) > 0))
    held = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = np.cumsum(held, axis=1) - held / 2
    ranks = np.empty_like(weights)
    ranks[:, order] = np.repeat(middle, np.diff(np.append(starts, len(values))), axis=1)
    return ranks
