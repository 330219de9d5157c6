"""How far an estimate of effects can be trusted, measured against exact effects.

An attribution without this is a guess. The exact effects come from two groups of units: a uniform random sample, which
speaks for all units, and the estimate's own top, which is measured in full. Every exactly measured unit gets the weight
of the units that it stands for: 1 where the whole group was measured, (units left) / (sampled units left) elsewhere.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from skilloc.effects import Effects
from skilloc.intervals import Interval

REPLICATES = 1000
RECALLS = ((10, 20), (50, 100), (50, 200))

Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Of estimates and exact effects on `... unit`, along the last axis."""


@dataclass(frozen=True)
class Calibration:
    """How an estimate compares with exact effects on one subtask.

    Attributes:
        drawn: number of units in the random sample.
        measured: number of units with an exact effect.
        pearson: correlation of estimated and exact effects over the random sample, signed.
        spearman: the same of their ranks.
        relative_error: |estimate - exact| / |exact| over the random sample (2-norms; 1 = no better than zero).
        recall: "k in m": share of the k largest exact effects (by magnitude, over all units) among the m largest
            estimates; only where the top m was measured.
        missed_mass: "m": share of the positive exact effects of all units that lies outside the m largest estimates;
            magnitudes by cross-fitting over folds, so that noise adds nothing on average.
    """

    drawn: int
    measured: int
    pearson: Interval
    spearman: Interval
    relative_error: Interval
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


_SINGLE, _SEVERAL = ("pearson", "spearman", "relative_error"), ("recall", "missed_mass")


def _interval_of(record: Mapping[str, Any]) -> Interval:
    return Interval(*(np.nan if record[end] is None else record[end] for end in ("value", "low", "high")))


def calibrate(
    estimate: Effects,
    exact: Effects,
    *,
    drawn: Bool[np.ndarray, "unit"],
    recalls: Sequence[tuple[int, int]] = RECALLS,
    seed: int = 0,
) -> dict[str, Calibration]:
    """Compare an estimate with exact effects, subtask by subtask.

    Args:
        estimate: effects of all units, as attribution gives them.
        exact: measured effects of some or all units, on the same examples and folds, in the same loss.
        drawn: which units were drawn uniformly at random; all must have an exact effect.
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
    about, other = ((e.subtasks, e.units, e.made.get("tokens"), e.unit) for e in (estimate, exact))
    if about != other:
        raise ValueError(
            f"`estimate` (in {estimate.unit}) and `exact` (in {exact.unit}) are not about the same subtasks, units, "
            "tokens and loss; measure both on one experiment"
        )
    if drawn.sum() < 8 or not exact.measured[drawn].all():
        raise ValueError(
            f"`drawn` has {int(drawn.sum())} units, {int((drawn & ~exact.measured).sum())} of them without an exact "
            "effect; measure at least 8 random units exactly"
        )
    return {
        subtask: _calibrate(estimate.of(subtask), exact.of(subtask), drawn, recalls, seed)
        for subtask in estimate.subtasks
    }


def _calibrate(
    estimate: Float[np.ndarray, "fold unit"],
    exact: Float[np.ndarray, "fold unit"],
    drawn: np.ndarray,
    recalls: Sequence[tuple[int, int]],
    seed: int,
) -> Calibration:
    guess, truth = estimate.mean(axis=0), exact.mean(axis=0)
    order = np.argsort(-np.abs(guess), kind="stable")
    known = np.isfinite(truth)
    # The largest m such that all of the m largest estimates were measured exactly.
    certain = len(order) if known.all() else int(np.argmin(known[order]))
    rank = np.empty(len(order), dtype=int)
    rank[order] = np.arange(len(order))
    positive = _cross_fitted(exact)
    rng = np.random.default_rng(seed)
    sample = np.flatnonzero(drawn)
    picks = rng.integers(0, len(sample), size=(REPLICATES, len(sample)))

    def over_sample(statistic: Statistic) -> Interval:
        value = statistic(guess[sample][None], truth[sample][None])[0]
        return _interval(value, statistic(guess[sample][picks], truth[sample][picks]))

    def weights(m: int) -> np.ndarray:
        """Replicates of unit weights: units in the top m count once, sampled ones beyond stand for all beyond."""
        beyond = sample[rank[sample] >= m]
        top = (rank < m).astype(float)
        rest = len(order) - m
        if not len(beyond):
            return top[None] if rest == 0 else np.full((1, len(top)), np.nan)
        if known.all():
            return np.ones((1, len(top)))
        rows = np.repeat(top[None], REPLICATES + 1, axis=0)
        rows[0, beyond] += rest / len(beyond)
        again = rng.multinomial(len(beyond), np.full(len(beyond), 1 / len(beyond)), size=REPLICATES)
        rows[1:, beyond] += again * rest / len(beyond)
        return rows

    recall, missed = {}, {}
    for k, m in recalls:
        if m <= certain and k <= len(order):
            w = weights(m)
            values = _recall(np.abs(np.where(known, truth, 0)), rank < m, w, k)
            recall[f"{k} in {m}"] = _interval(values[0], values[1:])
            mass = w * np.where(known, positive, 0)
            values = mass[:, rank >= m].sum(axis=1) / mass.sum(axis=1)
            missed[str(m)] = _interval(values[0], values[1:])
    return Calibration(
        len(sample),
        int(known.sum()),
        over_sample(_pearson),
        over_sample(_spearman),
        over_sample(_error),
        recall,
        missed,
    )


def _cross_fitted(effects: Float[np.ndarray, "fold unit"]) -> Float[np.ndarray, "unit"]:
    """Positive part of each effect: a fold's value counts where the other folds say that the effect is positive."""
    folds = len(effects)
    if folds < 2:
        return np.asarray(np.maximum(effects.mean(axis=0), 0))
    others = (effects.sum(axis=0) - effects) / (folds - 1)
    return np.asarray((effects * (others > 0)).mean(axis=0))


def _recall(size: np.ndarray, top: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """Share of the k largest (by weighted count) that lies in the top, per row of weights."""
    order = np.argsort(-size, kind="stable")
    count = np.cumsum(weights[:, order], axis=1)
    inside = np.clip(k - (count - weights[:, order]), 0, weights[:, order])
    return np.asarray((inside * top[order]).sum(axis=1) / inside.sum(axis=1))


def _pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((a * b).sum(axis=-1) / np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1)))


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _pearson(_ranks(a), _ranks(b))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks along the last axis, ties sharing their mean rank."""
    order = np.argsort(values, axis=-1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=-1)
    place = np.broadcast_to(np.arange(values.shape[-1]), values.shape)
    new = np.concatenate([np.ones_like(ordered[..., :1], dtype=bool), ordered[..., 1:] != ordered[..., :-1]], axis=-1)
    first = np.maximum.accumulate(np.where(new, place, 0), axis=-1)
    ends = np.concatenate([new[..., 1:], np.ones_like(new[..., :1])], axis=-1)
    last = np.minimum.accumulate(np.where(ends, place, place.shape[-1])[..., ::-1], axis=-1)[..., ::-1]
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, (first + last) / 2, axis=-1)
    return ranks


def _error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.linalg.norm(a - b, axis=-1) / np.linalg.norm(b, axis=-1))


def _interval(value: float, replicates: np.ndarray) -> Interval:
    if len(replicates) == 0:
        return Interval(float(value), float(value), float(value))
    low, high = np.nanquantile(replicates, [0.025, 0.975])
    return Interval(float(value), float(low), float(high))
