"""What an attack brings back, budget by budget.

    back(t) = (pruned - never) / (original - never)

of the skills (`curves.skill`) that an attacker gets out of three networks with t steps: the candidate, the original,
and a network that never learned the subtask. 0 = no more than out of a network that never had it; 1 = as much as out of
the original. Information removed is 1 - back, clipped to 0 and 1.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from skilloc.locality.intervals import Interval, t_quantile
from skilloc.relearning.curves import Envelope
from skilloc.relearning.result import Relearning
from skilloc.relearning.settings import NEVER, ORIGINAL, UNSEEN


class Limits(NamedTuple):
    """The limits of a verdict.

    Attributes:
        lead: see `LEAD`.
        quarter: see `QUARTER`.
        slow: see `SLOW`.
    """

    lead: float
    quarter: float
    slow: float


QUARTER = 0.25
"""Removed: certainly less than this share came back. Not removed: certainly all but this share."""

LEAD = 0.25
"""A budget counts while the original's lead over a network that never learned it is at least this part of what it was
before the attack; later, that network has caught up, and nothing can be told."""

SLOW = 0.75
"""A model that learns less than this part of what a fresh network of its shape learns of a new task cannot learn. With
the budget of `plasticity`, a whole network learns all of it, however well it is trained on other tasks."""

LIMITS = Limits(LEAD, QUARTER, SLOW)


class Reading(NamedTuple):
    """What one budget says.

    Attributes:
        size: position of the data size: the one with which most came back, on the selection split.
        step: position of the budget.
        back: share brought back, with its 95 % interval; all NaN where what the original leads by is within noise.
    """

    size: int
    step: int
    back: Interval


def reference_of(found: Relearning) -> str:
    """Return which control stands for never having learned the subtask: one trained on all else, where there is one."""
    return UNSEEN if UNSEEN in found.models else NEVER


def readings(found: Relearning, best: Envelope, model: str, limits: Limits = LIMITS) -> list[Reading]:
    """Return what each budget that counts says about a model.

    Of several data sizes, each budget is read where most came back on the selection split; the number is stated on the
    report split. Its interval is Fieller's, for a ratio of means [Fieller 1954], with Student's t for the number of
    seeds; the covariance of the two means is that over seeds plus that over folds of the report examples, which errs on
    the safe side. Where one model is compared with several trainings that never saw the subtask (`is_one_training`),
    the question is whether it could be another of these, so that the variance of one of them is added to that of their
    mean, as in an interval for one more observation. No reading depends on what comes of larger budgets.
    """
    own, whole, never = (found.place(name) for name in (model, ORIGINAL, reference_of(found)))
    lead = best.selection[whole] - best.selection[never]  # size step
    counts = (lead > 0) & (lead >= limits.lead * lead[:, :1])
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(counts, (best.selection[own] - best.selection[never]) / lead, -np.inf)
    one = is_one_training(found, model)
    listed = []
    for step in np.flatnonzero(counts.any(axis=0)):
        size = int(shares[:, step].argmax())
        back = best.skill[own, size, step] - best.skill[never, size, step]  # seed fold
        ahead = best.skill[whole, size, step] - best.skill[never, size, step]
        apart = float(best.skill[never, size, step].mean(axis=1).var(ddof=1)) if one else 0.0
        listed.append(Reading(size, int(step), ratio(back, ahead, apart) or Interval(np.nan, np.nan, np.nan)))
    return listed


def is_one_training(found: Relearning, model: str) -> bool:
    """Whether every seed attacks the same model, beside another network that never saw the subtask."""
    digests = found.made.get("digests", {})
    own, never = (set(digests.get(name, ())) for name in (model, reference_of(found)))
    return len(own) == 1 < len(never)


def ratio(
    top: Float[np.ndarray, "seed fold"], bottom: Float[np.ndarray, "seed fold"], apart: float = 0.0
) -> Interval | None:
    """Return mean(top) / mean(bottom) with Fieller's interval; None where the denominator's interval holds 0.

    Args:
        top: what the model is ahead of one that never saw the subtask.
        bottom: what the original is ahead of it.
        apart: variance of what is subtracted from both, where it stands for one more of its kind.
    """
    seeds, folds = top.shape
    if seeds == 1:
        return None
    mean = np.array([top.mean(), bottom.mean()])
    over_seeds = np.cov(top.mean(axis=1), bottom.mean(axis=1)) / seeds
    over_folds = np.cov(top.mean(axis=0), bottom.mean(axis=0)) / folds
    spread: Float64[np.ndarray, "_ _"] = (over_seeds + over_folds + apart) * float(t_quantile(seeds - 1)) ** 2
    a, b, c = mean[1] ** 2 - spread[1, 1], mean.prod() - spread[0, 1], mean[0] ** 2 - spread[0, 0]
    if a <= 0 or mean[1] <= 0:
        return None
    half = np.sqrt(max(0.0, b**2 - a * c))
    return Interval(float(mean[0] / mean[1]), float((b - half) / a), float((b + half) / a))
