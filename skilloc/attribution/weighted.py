"""Statistics of a sample in which every unit stands for several: counts, ranks, correlations, intervals of sums."""

import numpy as np
from jaxtyping import Float


def share_at(within: np.ndarray, beyond: np.ndarray, k: int) -> float:
    """Share of the first k units, by level, that lie within; straight between levels."""
    total = np.append(0.0, within + beyond)
    return float(np.clip(np.interp(k, total, np.append(0.0, within)) / k, 0, 1))


def gamma_interval(total: np.ndarray, spread: np.ndarray, heaviest: float) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of a sum of weighted counts from its variance and the largest weight [Fay & Feuer 1997]."""

    def quantile(mean: np.ndarray, variance: np.ndarray, z: float) -> np.ndarray:
        with np.errstate(all="ignore"):
            half_dof = mean**2 / variance  # shape of the gamma; its cube root is nearly normal
            root = 1 - 1 / (9 * half_dof) + z / (3 * np.sqrt(half_dof))
            return np.asarray(np.where(variance > 0, mean * np.maximum(root, 0) ** 3, mean))

    return quantile(total, spread, -1.96), quantile(total + heaviest, spread + heaviest**2, 1.96)


def cross_fitted(effects: Float[np.ndarray, "fold unit"]) -> Float[np.ndarray, "fold unit"]:
    """Positive part of each effect: a fold's value counts where the other folds say that the effect is positive."""
    folds = len(effects)
    if folds < 2:
        return np.asarray(np.maximum(effects, 0))
    others = (effects.sum(axis=0) - effects) / (folds - 1)
    return np.asarray(effects * (others > 0))


def correlation(
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


def counted_ranks(
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
