"""What lies under the noise: the distribution of the effects, and what units that were picked as the largest really do.

The mean m_u over folds is the true effect e_u plus Student's t noise of scale s_u. The distribution of the true
effects, or, if that is likelier, of e_u / s_u (where noise grows with the effect, as that of rare tokens does), has its
mode at 0 and is otherwise free: a mixture of a point at 0 and of uniform distributions from 0 to many ends on both
sides, fitted by maximum likelihood [Stephens 2017, False discovery rates: a new deal, Biostatistics 18, 275]. What
follows for one unit, given its m_u, holds also for a unit that was chosen because its m_u is large: that is what pays
for having been picked. The scales are drawn to their common one as far as they agree [Smyth 2004], so that a unit is
not on top because its folds happened to agree.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from skilloc.mistakes import WrongValue

from .uncertainty import grouped, mean_over_folds, measured

STEPS = 150
FINER = np.sqrt(2)
MOST = 60
"""Degrees of freedom above which Student's t is taken to be that of so many."""

PARTS = 20
"""Scales of noise that stand for all."""

TAIL = 0.0125
"""Probability beyond each end of the interval of a unit: the fitted distribution has an error of its own, and in
simulation ends at 0.025 hold the truth 0.84 to 0.95 of the time."""

NULL = 10.0
"""So many units without effect are believed in before any is seen: what is not clear counts as false."""


class Picked(NamedTuple):
    """The units with the largest effects, with what is left when it is counted that they were picked.

    Attributes:
        units: their places on the unit axis, largest mean first.
        seen: mean effect over folds, at face value.
        value: expected effect; nearer to 0 than `seen`.
        low: lower end of the 95 % interval of the effect.
        high: upper end.
        doubt: probability that the subtask does not need the unit: that its true effect is 0 or below.
    """

    units: Int[np.ndarray, " top"]
    seen: Float[np.ndarray, " top"]
    value: Float[np.ndarray, " top"]
    low: Float[np.ndarray, " top"]
    high: Float[np.ndarray, " top"]
    doubt: Float[np.ndarray, " top"]

    @property
    def false(self) -> float:
        """Expected number of units among these that the subtask does not need."""
        return float(self.doubt.sum())


class Bulk(NamedTuple):
    """The distribution of true effects, in numbers.

    Attributes:
        mass: sum of the positive effects.
        k90: number of units that carry 90 % of it.
        effective_number: (sum of positive effects)^2 / sum of their squares.
        hidden: share of the mass that units carry whose effect is smaller than the noise of their mean.
    """

    mass: float
    k90: float
    effective_number: float
    hidden: float


class _Mixture(NamedTuple):
    """Means with their noise, and the distribution of the true effects, in units of `per`.

    Attributes:
        mean: over folds, over `per`.
        scale: of the noise of the mean, over `per`.
        per: 1, or the scale of the noise.
        dof: of the noise.
        ends: of the uniform distributions, from 0 to there; 0 for the point.
        weights: of these.
        likelihood: of each mean under each.
    """

    mean: Float[np.ndarray, " unit"]
    scale: Float[np.ndarray, " unit"]
    per: Float[np.ndarray, " unit"]
    dof: int
    ends: Float[np.ndarray, " part"]
    weights: Float[np.ndarray, " part"]
    likelihood: Float[np.ndarray, "unit part"]

    @property
    def log_likelihood(self) -> float:
        """Of the means, on their own scale."""
        return float((np.log(self.likelihood @ self.weights) - np.log(self.per)).sum())


def picked(effects: Float[np.ndarray, "fold unit"], *, top: int = 10) -> Picked:
    """Return the units with the largest mean effects, with intervals that pay for having been picked.

    The interval reaches from the lower of two lower ends to the higher of two higher ends: those of the effect given
    the fitted distribution, and those at face value, from the unit's own folds, which hold where the distribution was
    fitted badly.

    Raises:
        ValueError: if there are fewer than 3 folds, no measured units, infinite or partly missing values, or `top` is
            below 1.
    """
    if top < 1:
        raise WrongValue(f"`top` is {top}; pick at least 1 unit")
    there = np.flatnonzero(measured(effects))
    mixture = _fitted(grouped(effects[:, there]), NULL)
    seen = mixture.mean * mixture.per
    order = np.argsort(-seen, kind="stable")[:top]
    found = np.array([_posterior(mixture, int(u)) for u in order])
    value, low, high = (found[:, :3] * mixture.per[order, None]).T
    face = mean_over_folds(grouped(effects[:, there[order]]))
    return Picked(there[order], seen[order], value, np.minimum(low, face.low), np.maximum(high, face.high), found[:, 3])


def bulk(effects: Float[np.ndarray, "fold unit"]) -> Bulk:
    """Return what the fitted distribution says of all units together, those below the noise included.

    Raises:
        ValueError: as `picked`.
    """
    mixture = _fitted(grouped(effects[:, measured(effects)]), 1.0)
    n, noise = len(mixture.mean), float(np.median(mixture.scale * mixture.per))
    needed = mixture.ends > 0
    per = np.quantile(mixture.per, (np.arange(PARTS) + 0.5) / PARTS)
    ends, share = np.outer(per, mixture.ends[needed]).ravel(), np.tile(mixture.weights[needed] / PARTS, PARTS)
    mass, square = n * float(share @ ends) / 2, n * float(share @ ends**2) / 3
    if not mass > 0:
        return Bulk(0.0, np.nan, np.nan, np.nan)
    levels = np.geomspace(ends.min() / 100, ends.max(), 2000)
    # Of a uniform distribution from 0 to a, a share 1 - l/a lies above l, with the mass a/2 (1 - l^2/a^2).
    inside = np.minimum(levels[:, None] / ends, 1.0)
    above = n * ((1 - inside) @ share)
    carried = n * ((1 - inside**2) @ (share * ends / 2)) / mass
    k90 = float(np.interp(-0.9, -carried, above))
    hidden = 1 - float(np.interp(noise, levels, carried))
    return Bulk(mass, max(k90, 1.0), float(np.clip(mass**2 / square, 1, n)), hidden)


def _fitted(table: Float[np.ndarray, "fold unit"], null: float) -> _Mixture:
    """Fit the distribution of the effects and that of effects over noise, and return the likelier one."""
    mean, folds = table.mean(axis=0), len(table)
    scale, dof = _moderated(table.var(axis=0, ddof=1) / folds, folds - 1)
    scale = np.maximum(scale, max(1e-9 * float(np.abs(mean).max()), np.finfo(float).tiny))
    both = [_mixture(mean / per, scale / per, per, dof, null) for per in (np.ones_like(scale), scale)]
    return max(both, key=lambda mixture: mixture.log_likelihood)


def _mixture(
    mean: Float[np.ndarray, " unit"],
    scale: Float[np.ndarray, " unit"],
    per: Float[np.ndarray, " unit"],
    dof: int,
    null: float,
) -> _Mixture:
    """Fit the weights of the mixture by expectation maximisation."""
    largest = float(np.abs(mean).max())
    least = min(float(np.median(scale)) / 8, largest / 2) or 1.0
    steps = int(np.ceil(np.log(max(2 * largest, 2 * least) / least) / np.log(FINER)))
    grid = least * FINER ** np.arange(steps + 1)
    ends = np.concatenate([[0.0], grid, -grid])
    likelihood = np.empty((len(mean), len(ends)))
    likelihood[:, 0] = _t_density(mean / scale, dof) / scale
    at_zero = t_cdf(mean / scale, dof)
    for part, end in enumerate(ends[1:], start=1):
        likelihood[:, part] = (at_zero - t_cdf((mean - end) / scale, dof)) / end
    likelihood = np.maximum(likelihood, 1e-300)
    weights, believed = np.full(len(ends), 1 / len(ends)), np.where(ends == 0, null - 1, 0.0)
    for _ in range(STEPS):
        counts = weights * (likelihood.T @ (1 / (likelihood @ weights))) + believed
        weights = counts / counts.sum()
    return _Mixture(mean, scale, per, dof, ends, weights, likelihood)


def _posterior(mixture: _Mixture, unit: int) -> tuple[float, float, float, float]:
    """Mean, ends of the 95 % interval, and probability of 0 or below, of the true effect of one unit."""
    m, s = float(mixture.mean[unit]), float(mixture.scale[unit])
    parts = mixture.weights * mixture.likelihood[unit]
    parts = parts / parts.sum()
    far = float(np.abs(mixture.ends).max())
    near = np.clip(m + s * np.linspace(-12, 12, 601), -far, far)
    grid = np.unique(np.concatenate([near, [0.0], np.linspace(-far, far, 201)]))
    below = np.zeros(len(grid))
    for share, end in zip(parts[1:], mixture.ends[1:], strict=True):
        left, right = min(end, 0.0), max(end, 0.0)
        steps = t_cdf((m - np.clip(grid, left, right)) / s, mixture.dof)
        start, stop = t_cdf((m - np.array([left, right])) / s, mixture.dof)
        if start > stop:
            below += share * (start - steps) / (start - stop)
        else:
            below += share * (grid >= (left if abs(m - left) < abs(m - right) else right))
    below += parts[0] * (grid >= 0)
    value = grid[0] * below[0] + float((np.diff(below) * (grid[1:] + grid[:-1]) / 2).sum())
    low, high = np.interp([TAIL, 1 - TAIL], below, grid)
    return value, float(low), float(high), float(np.interp(0.0, grid, below))


def _moderated(variance: Float[np.ndarray, " unit"], dof: int) -> tuple[Float[np.ndarray, " unit"], int]:
    """Return scales drawn to their common one, and the degrees of freedom that they then have [Smyth 2004].

    log variance has variance trigamma(dof / 2) by chance; what is more is how units differ, and says how many degrees
    of freedom the common variance is worth.
    """
    seen = variance > 1e-20 * max(float(variance.max(initial=0.0)), np.finfo(float).tiny)
    if seen.sum() < 3:
        return np.sqrt(variance), dof
    log = np.log(variance[seen]) - _digamma(dof / 2) + np.log(dof / 2)
    over = float(log.var(ddof=1)) - _trigamma(dof / 2)
    worth = next((d for d in range(1, MOST) if _trigamma(d / 2) <= over), MOST) if over > 0 else MOST
    common = np.exp(log.mean() + _digamma(worth / 2) - np.log(worth / 2))
    drawn = np.where(seen, (worth * common + dof * variance) / (worth + dof), 0.0)
    return np.sqrt(drawn), min(worth + dof, MOST)


def _digamma(x: float) -> float:
    y, lifted = x + 8, sum(1 / (x + i) for i in range(8))
    return float(np.log(y) - 1 / (2 * y) - 1 / (12 * y**2) + 1 / (120 * y**4) - lifted)


def _trigamma(x: float) -> float:
    y, lifted = x + 8, sum(1 / (x + i) ** 2 for i in range(8))
    return float(1 / y + 1 / (2 * y**2) + 1 / (6 * y**3) - 1 / (30 * y**5) + lifted)


def _t_density(t: Float[np.ndarray, "*shape"], dof: int) -> Float[np.ndarray, "*shape"]:
    """Density of Student's t, from its distribution function."""
    step = 1e-4
    return np.asarray((t_cdf(t + step, dof) - t_cdf(t - step, dof)) / (2 * step))


def t_cdf(t: Float[np.ndarray, "*shape"], dof: int) -> Float[np.ndarray, "*shape"]:
    """Distribution function of Student's t for whole degrees of freedom: a finite sum [Abramowitz & Stegun, 26.7]."""
    angle = np.arctan(t / np.sqrt(dof))
    cosine = np.cos(angle) ** 2
    odd = dof % 2
    term = np.ones_like(angle)
    total = np.zeros_like(angle)
    for j in range(odd, dof - 1, 2):
        total = total + term
        term = term * cosine * (j + 1) / (j + 2)
    if odd:
        return np.asarray(0.5 + (angle + np.sin(angle) * np.cos(angle) * total) / np.pi)
    return np.asarray(0.5 + np.sin(angle) * total / 2)
