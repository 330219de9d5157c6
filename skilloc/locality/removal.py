"""What removing the units of one subtask does to the others."""

import numpy as np
from jaxtyping import Float

from skilloc.locality.intervals import Interval, t_quantile
from skilloc.mistakes import WrongValue

from .uncertainty import check_folds, mean_over_folds, skewed_mean, standard_error


def removal_scores(
    removal: Float[np.ndarray, "fold source target"],
    random: Float[np.ndarray, "draw _ target"] | Float[np.ndarray, "draw _ source target"],
) -> dict[str, Interval]:
    """Scores of joint removal, each beside masks drawn at random.

    M_ab is the loss increase (nats) on `target` b when the top units of `source` a are held at their reference, R_ab
    the same for random masks of the same size and layers, both means over folds (and R over draws):

    - loss_increase: M, source × target; chance R.
    - excess: M − R; chance 0. > 0: these units matter more to b than random ones. Its error joins that of the paired
      folds and that of the mean over draws.
    - share: M_ab / M_aa; chance R_ab / R_aa. What b loses for each nat that a loses.
    - specificity: M_aa / mean_{b ≠ a} M_ab, per source; chance the same of R. > 1: the removal hits a most.
    - hierarchy: M_ab − M_ba; chance R_ab − R_ba. > 0: b loses more without a's units than a without b's.
    - asymmetry: ‖M − Mᵀ‖_F / ‖M + Mᵀ‖_F; chance that of R. 0 = mutual. The squares are products of different folds, so
      that noise does not look like asymmetry.

    Intervals are over folds (t · standard error; of the loss increase also on its logarithm, `skewed_mean`, as
    folds with few of the tokens that matter are skewed), about the units that were chosen; those of ratios are
    Fieller's, and reach to ±∞ where the denominator is within noise.

    Raises:
        ValueError: if there are fewer than 3 folds or 2 draws, M is not square, or the shapes do not belong together.
    """
    check_folds(removal, "removal")
    folds, subtasks, targets = removal.shape
    if subtasks != targets or subtasks < 2:
        raise WrongValue(
            f"`removal` has {subtasks} sources and {targets} targets; measure every subtask's loss for the units of "
            "every subtask, of at least 2"
        )
    if random.shape[1:] not in ((folds, targets), removal.shape) or len(random) < 2:
        raise WrongValue(
            f"`random` has shape {random.shape} but `removal` has {removal.shape}; pass at least 2 draws of random "
            "masks, measured on the same folds and targets"
        )
    removal = removal.astype(np.float64)
    drawn = np.broadcast_to(random if random.ndim == 4 else random[:, :, None], (len(random), *removal.shape))
    masks = drawn.mean(axis=0, dtype=np.float64)
    chance = masks.mean(axis=0)
    own, others = _own(removal), _others(removal)
    with np.errstate(all="ignore"):
        share = chance / np.diag(chance)[:, None]
        specificity = _own(chance[None])[0] / _others(chance[None])[0]
    return {
        "loss_increase": skewed_mean(removal)._replace(chance=chance),
        "excess": _excess(removal - masks, drawn.mean(axis=1, dtype=np.float64)),
        "share": _ratio(removal, np.broadcast_to(own[:, :, None], removal.shape), share),
        "specificity": _ratio(own, others, specificity),
        "hierarchy": mean_over_folds(removal - removal.swapaxes(1, 2))._replace(chance=chance - chance.T),
        "asymmetry": _asymmetry(removal, masks),
    }


def interaction(
    joint: Float[np.ndarray, "fold *pair"],
    first: Float[np.ndarray, "..."],
    second: Float[np.ndarray, "..."],
) -> Interval:
    """Interaction e_ij − e_i − e_j of pairs of units (nats), with its interval over folds; chance 0.

    `joint` is the loss increase when both units are held at their reference, `first` and `second` when one is. > 0:
    each stands in for the other when that is missing (redundancy, self-repair, arXiv 2307.15771); < 0: both are needed
    for the same thing.

    Raises:
        ValueError: if the shapes differ or there are fewer than 3 folds.
    """
    check_folds(joint, "joint")
    if not joint.shape == first.shape == second.shape:
        raise WrongValue(
            f"`joint`, `first` and `second` have shapes {joint.shape}, {first.shape} and {second.shape}; pass the "
            "three effects of the same pairs on the same folds"
        )
    return mean_over_folds(joint.astype(np.float64) - first - second)


def _own(matrix: Float[np.ndarray, "fold source target"]) -> Float[np.ndarray, "fold source"]:
    return np.diagonal(matrix, axis1=1, axis2=2)


def _others(matrix: Float[np.ndarray, "fold source target"]) -> Float[np.ndarray, "fold source"]:
    """Mean over the targets other than the source."""
    return np.asarray((matrix.sum(axis=2) - _own(matrix)) / (matrix.shape[2] - 1))


def _excess(
    difference: Float[np.ndarray, "fold source target"], drawn: Float[np.ndarray, "draw source target"]
) -> Interval:
    """Mean over folds, with the variance of the mean over draws added and Welch's degrees of freedom."""
    mean = difference.mean(axis=0)
    parts = [values.var(axis=0, ddof=1) / len(values) for values in (difference, drawn)]
    variance = parts[0] + parts[1]
    with np.errstate(all="ignore"):
        welch = variance**2 / (parts[0] ** 2 / (len(difference) - 1) + parts[1] ** 2 / (len(drawn) - 1))
    half = t_quantile(np.where(variance > 0, welch, 1.0)) * np.sqrt(variance)
    return Interval(mean, mean - half, mean + half, np.zeros_like(mean))


def _ratio(
    numerator: Float[np.ndarray, "fold *shape"],
    denominator: Float[np.ndarray, "fold *shape"],
    chance: Float[np.ndarray, "*shape"],
) -> Interval:
    """Ratio of means over folds with Fieller's interval: all r for which N − r D is within noise of 0.

    A denominator within noise is taken to be positive: the interval then runs from the smallest such r to ∞ (for a
    negative numerator, from −∞ to the largest). If the numerator is within noise too, nothing is known: NaN, −∞ … ∞.
    """
    folds = len(numerator)
    n, d = numerator.mean(axis=0), denominator.mean(axis=0)
    flip = np.where(n < 0, -1.0, 1.0)  # solved for a positive numerator, turned back below
    n = n * flip
    noise = t_quantile(folds - 1) ** 2 / (folds * (folds - 1))
    off_n, off_d = numerator * flip - n, denominator - d
    a = d**2 - noise * (off_d**2).sum(axis=0)
    b = n * d - noise * (off_n * off_d).sum(axis=0)
    c = n**2 - noise * (off_n**2).sum(axis=0)
    with np.errstate(all="ignore"):
        root = np.sqrt(np.maximum(b**2 - a * c, 0))
        known, vague = a > 0, (a <= 0) & (c > 0)
        ends = (b - root) / a, (b + root) / a
        low = np.where(known, ends[0], np.where(vague, c / (b + root), -np.inf))
        high = np.where(known, ends[1], np.inf)
        value = np.where(known | (vague & (d > 0)), n / d, np.where(vague, np.inf, np.nan))
    bounds = np.sort(np.stack([low * flip, high * flip]), axis=0)
    return Interval(value * flip, bounds[0], bounds[1], chance)


def _asymmetry(
    removal: Float[np.ndarray, "fold source target"], masks: Float[np.ndarray, "fold source target"]
) -> Interval:
    """‖M − Mᵀ‖ / ‖M + Mᵀ‖, with a jackknife interval made on its square."""

    def square(matrix: Float[np.ndarray, "fold source target"]) -> float:
        """Σ over entries of the mean product of different folds."""
        folds = len(matrix)
        return float((matrix.sum(axis=0) ** 2 - (matrix**2).sum(axis=0)).sum() / (folds * (folds - 1)))

    def parts(matrix: Float[np.ndarray, "fold source target"]) -> tuple[float, float]:
        turned = matrix.swapaxes(1, 2)
        return square(matrix - turned), square(matrix + turned)

    folds = len(removal)
    full = parts(removal)
    without = np.array([parts(np.delete(removal, fold, axis=0)) for fold in range(folds)])
    with np.errstate(all="ignore"):
        chance = np.sqrt(np.maximum(np.divide(*parts(masks)), 0))
        errors = standard_error(np.column_stack([without, without[:, 0] / without[:, 1]]))
        half = t_quantile(folds - 1) * errors
        known = full[1] > half[1]
        ratio = full[0] / full[1] if known else np.nan
    low, high = (ratio - half[2], ratio + half[2]) if known else (0.0, np.inf)
    value, low, high = np.sqrt(np.maximum([ratio, low, high], 0))
    return Interval(np.asarray(value), np.asarray(low), np.asarray(high), np.asarray(chance))
