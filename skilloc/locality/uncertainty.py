"""Folds: what the noise does to a score, how it is taken out, and how far the rest can be trusted.

Effects are measured on disjoint folds of the examples, so a fold value is the true effect plus noise of mean zero,
independent of the other folds. Two rules follow. A number that multiplies or selects noisy values is biased when both
factors come from the same folds; it is not when what selects (a sign, a rank, a weight) comes from some folds and the
value selected from others (cross-fitting). And every interval comes from how a number moves between folds.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from skilloc.locality.intervals import Interval, t_quantile
from skilloc.mistakes import WrongValue

GROUPS = 8
"""More folds than this are averaged into this many groups: all subsets of 8 groups can be visited, and an interval
from 8 is only a tenth wider than one from 16."""

DOUBT = 1.0
"""How many times its own size the change by extrapolation counts as error; measured by simulation."""

_FIT_SIZES = {3: (2, 1), 4: (3, 2, 1), 5: (3, 2, 1), 6: (4, 2, 1), 7: (5, 3, 1), 8: (6, 3, 1)}


class Replicates(NamedTuple):
    """Statistics linear in held-out values, and the same when one fold is left out.

    Attributes:
        full: from all folds.
        without: fold g taken away everywhere.
        unextrapolated: from the largest selections alone, which still miss part of what is below the noise.
        unvalued: fold g taken away as held-out values only; the selections that it took part in stay.
    """

    full: Float[np.ndarray, " statistic"]
    without: Float[np.ndarray, "fold statistic"]
    unextrapolated: Float[np.ndarray, " statistic"]
    unvalued: Float[np.ndarray, "fold statistic"]


def check_folds(values: Float[np.ndarray, "fold *axes"], name: str) -> None:
    """Refuse fewer than 3 folds.

    Raises:
        ValueError: if there are fewer than 3 folds.
    """
    if len(values) < 3:
        raise WrongValue(
            f"`{name}` has {len(values)} fold(s), and an interval needs at least 3; "
            "measure the same examples in more folds, 8 or 16 if possible"
        )


def measured(effects: Float[np.ndarray, "fold *axes unit"]) -> Bool[np.ndarray, " unit"]:
    """Return which units were measured: False where all values are NaN.

    Raises:
        ValueError: if there are fewer than 3 folds, a value is infinite, a unit is NaN in some folds or subtasks only,
            or no unit was measured.
    """
    check_folds(effects, "effects")
    missing = np.isnan(effects).reshape(-1, effects.shape[-1])
    partly = missing.any(axis=0) & ~missing.all(axis=0)
    if partly.any():
        raise WrongValue(
            f"`effects` of unit {int(partly.argmax())} (and {int(partly.sum()) - 1} more) is NaN in some folds or "
            "subtasks but not in all; measure a unit everywhere, or set it to NaN everywhere"
        )
    if np.isinf(effects).any():
        raise WrongValue(
            "`effects` has infinite values; look for overflow in the losses, and measure those units again"
        )
    if missing.all():
        raise WrongValue(f"`effects` has no measured unit among {effects.shape[-1]}; measure some units first")
    return np.asarray(~missing[0])


def grouped(values: Float[np.ndarray, "fold *axes"]) -> Float[np.ndarray, "group *axes"]:
    """Average folds g, g + 8, g + 16, … into group g, in float64; up to 8 folds stay as they are."""
    values = values.astype(np.float64)
    if len(values) <= GROUPS:
        return values
    return np.stack([values[group::GROUPS].mean(axis=0) for group in range(GROUPS)])


def mean_of(table: Float[np.ndarray, "fold unit"], fit: Sequence[int]) -> Float[np.ndarray, " unit"]:
    """Mean over some of the folds, as a product: several times faster than indexing and averaging."""
    weights = np.zeros(len(table))
    weights[fit] = 1 / len(fit)
    return np.asarray(weights @ table)


def _extrapolation(sizes: Sequence[int]) -> Float[np.ndarray, " size"]:
    """Weights c with Σ c = 1 and Σ c / size^(¾ j) = 0 for j = 1, 2, …: they lead to noise 0 (Richardson).

    What selections miss grows with their noise variance v ∝ 1 / size as v where effects are dense around 0 and as √v
    where most are far below the noise; v^¾ serves both to within a third of the correction.
    """
    noise = np.array(sizes, dtype=np.float64) ** -0.75
    return np.linalg.solve(np.vander(noise, len(sizes), increasing=True).T, np.eye(len(sizes))[0])


def cross_fit(
    folds: int,
    width: int,
    contributions: Callable[[list[int], list[int]], Float[np.ndarray, "held statistic"]],
) -> Replicates:
    """Cross-fit statistics and extrapolate them to selections without noise.

    With `contributions(fit, held)[b, s]` = Σ_u w_s(mean effects of unit u over the folds of `fit`) · effect of u in the
    held-out fold b, a unit without a true effect contributes 0 on average, whatever its noise. The mean T(h) over all
    sets `fit` of h folds and all folds held out of them still selects with noise of variance ∝ 1/h, and so misses part
    of the units whose effects are below it. T(h) is measured at up to three sizes h and extrapolated to 1/h = 0.

    Args:
        folds: number of folds, 3 to 8.
        width: number of statistics.
        contributions: may return fewer than `width` statistics; the rest are 0.
    """
    sizes = _FIT_SIZES[folds]
    shorter = [size for size in sizes if size < folds - 1]  # a fold can be left out and one still be held out
    reduced = dict(zip(shorter, _extrapolation(shorter), strict=True))
    full, unextrapolated = np.zeros(width), np.zeros(width)
    without = np.zeros((folds, width))
    valued = np.zeros((folds, width))
    for weight, size in zip(_extrapolation(sizes), sizes, strict=True):
        sets = list(combinations(range(folds), size))
        avoiding = len(sets) * (folds - size) // folds  # sets that leave out a given fold
        for fit in sets:
            held = [fold for fold in range(folds) if fold not in fit]
            each = contributions(list(fit), held)
            n = each.shape[1]
            total = each.sum(axis=0)
            full[:n] += weight / (len(sets) * len(held)) * total
            if size == sizes[0]:
                unextrapolated[:n] += total / (len(sets) * len(held))
            if size in reduced:
                without[held, :n] += reduced[size] / (avoiding * (len(held) - 1)) * (total - each)
            valued[held, :n] += weight / avoiding * each
    return Replicates(full, without, unextrapolated, (folds * full - valued) / (folds - 1))


def standard_error(
    without: Float[np.ndarray, "fold *shape"], unvalued: Float[np.ndarray, "fold *shape"] | None = None
) -> Float[np.ndarray, "*shape"]:
    """Delete-one-fold jackknife: √((F − 1)/F · Σ_g (value without fold g − their mean)²).

    For a mean over folds this is the usual standard error. For noise that enters as a product of c folds it is √c too
    large, while the same formula on held-out values alone is √c too small; given both, their geometric mean is taken.
    """
    folds = len(without)

    def spread(values: Float[np.ndarray, "fold *shape"]) -> Float[np.ndarray, "*shape"]:
        return np.asarray(np.sqrt((folds - 1) / folds * ((values - values.mean(axis=0)) ** 2).sum(axis=0)))

    return spread(without) if unvalued is None else np.asarray(np.sqrt(spread(without) * spread(unvalued)))


def mean_over_folds(values: Float[np.ndarray, "fold *shape"], *, chance: float = 0.0) -> Interval:
    """Mean over folds ± t · standard error."""
    mean = values.mean(axis=0)
    half = t_quantile(len(values) - 1) * values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, np.full_like(mean, chance))


def skewed_mean(values: Float[np.ndarray, "fold *shape"]) -> Interval:
    """Mean over folds whose interval also holds where folds are skewed: joined with one on the logarithm.

    Where all folds have one sign, the ends are the farther ones of mean -+ t * standard error and of Cox's interval of
    the mean of a lognormal distribution,

        exp(m + s^2 / 2 -+ t sqrt(s^2 / F + s^4 / (2 (F - 1)))),    m, s^2 mean and variance of log |fold|

    The first holds the mean of lognormal folds of s = 1 in 0.83 of all cases, both in 0.93 to 0.95, and of s = 2 in
    0.88 to 0.93 where the first does in 0.5 to 0.6. Folds that agree have nearly the same interval as ever.
    """
    face = mean_over_folds(values)
    folds = len(values)
    sign = np.where((values > 0).all(axis=0), 1.0, np.where((values < 0).all(axis=0), -1.0, 0.0))
    with np.errstate(all="ignore"):
        log = np.log(np.abs(values))
        variance = log.var(axis=0, ddof=1)
        middle = log.mean(axis=0) + variance / 2
        half = t_quantile(folds - 1) * np.sqrt(variance / folds + variance**2 / (2 * (folds - 1)))
        near, far = np.exp(middle - half), np.exp(middle + half)
    low = np.where(sign > 0, np.fmin(face.low, near), np.where(sign < 0, np.fmin(face.low, -far), face.low))
    high = np.where(sign > 0, np.fmax(face.high, far), np.where(sign < 0, np.fmax(face.high, -near), face.high))
    return face._replace(low=low, high=high)
