"""How entangled subtasks are: whether they need the same units.

Everything here compares effects of different folds, so that noise shared by nobody cannot look like agreement, and
states what agreement a subtask has with itself on other folds (the ceiling) and with shuffled units (the chance).
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from math import comb

import numpy as np
from einops import rearrange
from jaxtyping import Float

from skilloc.locality.intervals import Interval, t_quantile
from skilloc.mistakes import WrongValue, a_seed

from .uncertainty import (
    DOUBT,
    Replicates,
    check_folds,
    cross_fit,
    grouped,
    mean_of,
    mean_over_folds,
    measured,
    standard_error,
)


def between(
    effects: Float[np.ndarray, "fold subtask unit"], *, top: int = 10, draws: int = 3, seed: int = 0
) -> dict[str, Interval]:
    """Return the subtask × subtask matrices `overlap`, `top_jaccard` and `rank_correlation`, by these names.

    Raises:
        ValueError: if there are fewer than 3 folds, no measured units, infinite or partly missing values, `top` is
            below 1 or at least the number of units, or `draws` is below 1.
    """
    a_seed("seed", seed)
    return {
        "overlap": overlap(effects, draws=draws, seed=seed),
        "top_jaccard": top_jaccard(effects, top=top),
        "rank_correlation": rank_correlation(effects),
    }


def selectivity(first: Float[np.ndarray, "fold unit"], second: Float[np.ndarray, "_ _"]) -> Interval:
    """Per unit, s = (a − b) / (a + b) of the positive parts a, b of its mean effects on two subtasks.

    +1 = only the first subtask needs the unit, −1 = only the second, 0 = both alike (chance). NaN where neither needs
    it or it was not measured. The interval is s ± t · standard error of 2 (b a_f − a b_f) / (a + b)² over folds f, the
    first-order change of s with the fold values, cut to [−1, 1]: units whose effects are within noise span most of it.

    Raises:
        ValueError: if the shapes differ or there are fewer than 3 folds.
    """
    check_folds(first, "first")
    if first.shape != second.shape:
        raise WrongValue(
            f"`first` has shape {first.shape} but `second` has {second.shape}; pass both subtasks on the same folds "
            "and units"
        )
    first, second = first.astype(np.float64), second.astype(np.float64)
    a, b = np.maximum(first.mean(axis=0), 0), np.maximum(second.mean(axis=0), 0)
    with np.errstate(all="ignore"):
        total = a + b
        value = (a - b) / total
        change = mean_over_folds(2 * (b / total * first - a / total * second) / total)
    chance = np.where(np.isnan(value), np.nan, 0.0)
    return Interval(value, np.clip(value + change.low, -1, 1), np.clip(value + change.high, -1, 1), chance)


def overlap(effects: Float[np.ndarray, "fold subtask unit"], *, draws: int = 3, seed: int = 0) -> Interval:
    """Weighted overlap (Ružička) of the positive parts, as a subtask × subtask matrix.

    With p_u = e_u⁺ / Σ e⁺ of one subtask and q_u of the other, Σ_u min(p_u, q_u) / Σ_u max(p_u, q_u). 0 = no unit in
    common, 1 = the same units in the same proportions. It equals o / (2 − o) with o = Σ min, and o is debiased by
    `cross_fit`: which of p_u and q_u is the smaller positive one is decided on some folds, its value taken from others.
    So two subtasks with equal true effects have overlap 1 whatever the noise, and no correction for unreliability is
    due. NaN, with interval 0 … 1, where the mass of a subtask is within noise; the diagonal is 1, its chance NaN.

    Args:
        effects: signed, nats, positive = needed; NaN = unit not measured.
        draws: chance is the mean over this many shuffles of the units of one of the two subtasks.
        seed: of the shuffles.

    Raises:
        ValueError: as `between`.
    """
    a_seed("seed", seed)
    if draws < 1:
        raise WrongValue(f"`draws` is {draws}; shuffle at least once to know the chance level")
    table = grouped(effects[..., measured(effects)])
    table = table / np.maximum(np.abs(table).max(axis=(0, 2), keepdims=True), np.finfo(np.float64).tiny)
    folds, subtasks, n = table.shape
    rows = [np.ascontiguousarray(table[:, i]) for i in range(subtasks)]
    masses = cross_fit(folds, subtasks, lambda fit, held: _positive_sums(rows, fit, held))
    known = masses.full > t_quantile(folds - 1) * standard_error(masses.without, masses.unvalued)
    generator = np.random.default_rng(seed)
    result = np.ones((4, subtasks, subtasks))
    result[:3, ~known] = result[:3, :, ~known] = np.array([np.nan, 0, 1])[:, None, None]
    result[3] = np.nan
    for i, j in combinations(np.flatnonzero(known), 2):
        pair = Replicates(*(part[..., [i, j]] for part in masses))
        shuffled = [_ruzicka(rows[i], rows[j][:, generator.permutation(n)], pair)[0] for _ in range(draws)]
        numbers = (*_ruzicka(rows[i], rows[j], pair), float(np.mean(shuffled)))
        result[:, i, j] = result[:, j, i] = numbers
    return Interval(result[0], result[1], result[2], result[3])


def _positive_sums(
    rows: Sequence[Float[np.ndarray, "fold unit"]], fit: list[int], held: list[int]
) -> Float[np.ndarray, "held statistic"]:
    """Σ e⁺ of each subtask: signs from the folds `fit`, values from the folds `held`."""
    return np.stack([(row @ (mean_of(row, fit) > 0).astype(float))[held] for row in rows], axis=1)


def _ruzicka(
    first: Float[np.ndarray, "fold unit"], second: Float[np.ndarray, "fold unit"], masses: Replicates
) -> tuple[float, float, float]:
    """Debiased overlap of two subtasks and the ends of its interval."""
    folds = len(first)
    p_mass, q_mass = masses.full

    def smaller(fit: list[int], held: list[int]) -> Float[np.ndarray, "held statistic"]:
        p, q = mean_of(first, fit) / p_mass, mean_of(second, fit) / q_mass
        first_smaller, second_smaller = (p > 0) & (p <= q), (q > 0) & (q < p)
        sums = (first @ first_smaller.astype(float), second @ second_smaller.astype(float))
        return np.stack(sums, axis=1)[held]

    minima = cross_fit(folds, 2, smaller)
    # Σ min(p, q): where p is the smaller, over its mass, and where q is
    full, without, plain, unvalued = ((part / mass).sum(axis=-1) for part, mass in zip(minima, masses, strict=True))
    half = np.hypot(t_quantile(folds - 1) * standard_error(without, unvalued), DOUBT * (full - plain))
    value, low, high = np.clip([float(full), float(full - half), float(full + half)], 0, 1).tolist()
    return value / (2 - value), low / (2 - low), high / (2 - high)


def top_jaccard(effects: Float[np.ndarray, "fold subtask unit"], *, top: int = 10) -> Interval:
    """Jaccard index of the `top` units with the largest positive effects, as a subtask × subtask matrix.

    |A ∩ B| / |A ∪ B|, with A from some folds and B from as many others, summed over all disjoint pairs of fold sets
    before dividing. The diagonal compares a subtask with itself on other folds: the ceiling that noise leaves, to which
    the other entries are to be compared. Chance is the exact expectation for random sets, about top / (2 n − top). NaN
    where a subtask has no positive effects.

    Raises:
        ValueError: as `between`.
    """
    table = grouped(effects[..., measured(effects)])
    n = table.shape[-1]
    if not 1 <= top < n:
        raise WrongValue(f"`top` is {top} but there are {n} measured units; compare at least 1 and fewer than all")

    def members(mean: Float[np.ndarray, "subtask unit"]) -> Float[np.ndarray, "subtask unit"]:
        largest = np.argpartition(-mean, top - 1, axis=-1)[:, :top]
        chosen = np.zeros_like(mean, dtype=np.float32)
        np.put_along_axis(chosen, largest, 1.0, axis=-1)
        return chosen * (mean > 0)

    shared, own = _agreement(table, members)
    with np.errstate(all="ignore"):
        index = shared / (own[:, :, None] + own[:, None, :] - shared)
    return _jackknifed(index, 0.0, 1.0, _random_jaccard(n, top))


def _random_jaccard(n: int, k: int) -> float:
    """Mean of i / (2 k − i) over hypergeometric i: two independent random sets of k out of n units."""
    return sum(comb(k, i) * comb(n - k, k - i) / comb(n, k) * i / (2 * k - i) for i in range(max(2 * k - n, 1), k + 1))


def rank_correlation(effects: Float[np.ndarray, "fold subtask unit"]) -> Interval:
    """Spearman correlation of the signed effects across units, without noise, as a subtask × subtask matrix.

    r_ab / √(r_aa r_bb), where r_ab correlates the ranks (ties share their mean rank) of subtask a on some folds with
    those of b on as many others, averaged over all disjoint pairs of fold sets, and r_aa is the reliability of a
    subtask with itself on other folds. 1 = same order, 0 = unrelated (chance). NaN, with interval −1 … 1, where a
    reliability is within noise. `reliability` gives r_aa.

    Raises:
        ValueError: as `between`.
    """
    correlation = _rank_agreement(effects)
    own = np.diagonal(correlation, axis1=1, axis2=2)
    with np.errstate(all="ignore"):
        ratio = correlation / np.sqrt(own[:, :, None] * own[:, None, :])
    result = _jackknifed(ratio, -1.0, 1.0, 0.0)
    unreliable = ~(_reliability(own).low > 0)
    unknown = unreliable[:, None] | unreliable[None, :]
    low, high = np.where(unknown, -1.0, result.low), np.where(unknown, 1.0, result.high)
    return Interval(np.where(unknown, np.nan, result.value), low, high, result.chance)


def reliability(effects: Float[np.ndarray, "fold subtask unit"]) -> Interval:
    """Spearman correlation of each subtask's effects with its own on other folds: about 0 = noise only, 1 = no noise.

    The sets compared hold (F − 1) // 2 of the F ≤ 8 groups of folds each.

    Raises:
        ValueError: as `between`.
    """
    # One subtask after the other: of all at once, 56 sets of folds of each would stand in one matrix.
    known = effects[..., measured(effects)]
    own = [np.diagonal(_rank_agreement(known[:, s : s + 1]), axis1=1, axis2=2) for s in range(known.shape[1])]
    return _reliability(np.concatenate(own, axis=1))


def _reliability(own: Float[np.ndarray, "replicate subtask"]) -> Interval:
    return _jackknifed(own, -1.0, 1.0, 0.0)


def _rank_agreement(effects: Float[np.ndarray, "fold subtask unit"]) -> Float[np.ndarray, "replicate subtask subtask"]:
    """Spearman correlations between disjoint fold sets: from all folds, then without each."""

    def ranks(mean: Float[np.ndarray, "subtask unit"]) -> Float[np.ndarray, "subtask unit"]:
        centred = np.stack([_mean_ranks(row) for row in mean]) - (mean.shape[-1] - 1) / 2
        norm = np.linalg.norm(centred, axis=-1, keepdims=True)
        return np.asarray(centred / np.where(norm > 0, norm, 1), dtype=np.float32)

    return _agreement(grouped(effects[..., measured(effects)]), ranks)[0]


def _mean_ranks(values: Float[np.ndarray, " unit"]) -> Float[np.ndarray, " unit"]:
    """Ranks from 0; equal values share the mean of their ranks."""
    order = np.argsort(values)
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    ends = np.append(starts[1:], len(values))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat((starts + ends - 1) / 2, ends - starts)
    return ranks


def _agreement(
    table: Float[np.ndarray, "fold subtask unit"],
    features: Callable[[Float[np.ndarray, "subtask unit"]], Float[np.ndarray, "subtask unit"]],
) -> tuple[Float[np.ndarray, "replicate subtask subtask"], Float[np.ndarray, "replicate subtask"]]:
    """Mean inner products of features of disjoint fold sets, and of each set with itself.

    Replicate 0 uses all fold sets of (F − 1) // 2 folds; replicate 1 + g those without fold g.
    """
    folds = len(table)
    sets = list(combinations(range(folds), (folds - 1) // 2))
    vectors = np.concatenate([features(table[list(chosen)].mean(axis=0)) for chosen in sets])
    products = rearrange(vectors @ vectors.T, "(x a) (y b) -> x a y b", x=len(sets), y=len(sets)).astype(np.float64)
    apart = np.array([[not set(x) & set(y) for y in sets] for x in sets])
    cross, own = [], []
    for left_out in (None, *range(folds)):
        allowed = np.array([left_out not in chosen for chosen in sets])
        pairs = (apart & allowed & allowed[:, None]).astype(float)
        cross.append(np.einsum("xayb,xy->ab", products, pairs) / pairs.sum())
        own.append(np.einsum("xaxa,x->a", products, allowed.astype(float)) / allowed.sum())
    return np.stack(cross), np.stack(own)


def _jackknifed(replicates: Float[np.ndarray, "replicate *shape"], low: float, high: float, chance: float) -> Interval:
    """Scores from the replicates without one fold, cut to what is possible."""
    value = replicates[0]
    half = t_quantile(len(replicates) - 2) * standard_error(replicates[1:])
    ends = [np.clip(np.where(np.isnan(half), sign * np.inf, value + sign * half), low, high) for sign in (-1, 1)]
    return Interval(np.clip(value, low, high), ends[0], ends[1], np.full_like(value, chance))
