"""The verdict: was the skill removed, or hidden, or was the model broken?

    information removed = 1 - clip((pruned - never) / (original - never), 0, 1)

of the skills (`curves.skill`) that an attacker gets out of three networks with one budget: the pruned model, the
original, and a network that never learned the subtask. 0 = the attack gets as much out of the pruned model as out of
the original; 1 = no more than out of a network that never had it.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from skilloc.intervals import Interval, mean_interval, t_quantile
from skilloc.relearning.curves import Envelope, envelope
from skilloc.relearning.result import Relearning
from skilloc.relearning.settings import CONTROLS, NEVER, ORIGINAL, UNSEEN

LEAD = 0.25
"""A budget counts while the original's lead over a network that never learned it is at least this part of what it was
before the attack; later, that network has caught up, and nothing can be told."""

QUARTER = 0.25
"""Removed: certainly less than this share came back. Not removed: certainly all but this share."""

DAMAGED = 0.1
"""A model is damaged if, after its repair, it is further than this part of the way from the original to chance on some
kept subtask."""


class Removed(NamedTuple):
    """Information removed, and where it was read off.

    Attributes:
        share: information removed with its 95 % interval; all NaN if undecidable.
        size: position of the data size.
        step: position of the budget.
        last: position of the largest budget that counted.
        why: why it is undecidable; empty if it is not.
    """

    share: Interval
    size: int
    step: int
    last: int
    why: str


class Verdict(NamedTuple):
    """What was found about one model.

    Attributes:
        model: its name.
        word: "removed", "not removed", "partly removed", "damaged" or "undecidable".
        removed: the number behind it.
        damage: see `damage`.
        sentence: all of it in words.
    """

    model: str
    word: str
    removed: Removed
    damage: Interval
    sentence: str


def reference_of(found: Relearning) -> str:
    """Return which control stands for never having learned the subtask: one trained on all else, where there is one."""
    return UNSEEN if UNSEEN in found.models else NEVER


def information_removed(found: Relearning, best: Envelope, model: str) -> Removed:
    """Return how much of the information behind a skill is gone, at the budget where the attacker gets most of it back.

    Size and budget are those with the largest (model - never) / (original - never) on the selection split, among those
    where the original still leads (`LEAD`); the number is stated on the report split. Its interval is Fieller's, for a
    ratio of means [Fieller 1954], with Student's t for the number of seeds; the covariance of the two means is that
    over seeds plus that over folds of the report examples, which errs on the safe side.

    Undecidable where the denominator's interval holds 0, or the original leads at no budget.
    """
    own, whole, never = (found.place(name) for name in (model, ORIGINAL, reference_of(found)))
    lead = best.selection[whole] - best.selection[never]  # size step
    counts = (lead > 0) & (lead >= LEAD * lead[:, :1]) & (np.arange(lead.shape[1]) > 0)
    nothing = Interval(np.nan, np.nan, np.nan)
    if not counts.any():
        before = best.selection[whole, 0, 0] - best.selection[never, 0, 0]
        return Removed(nothing, 0, lead.shape[1] - 1, lead.shape[1] - 1, _no_lead(found, before))
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(counts, (best.selection[own] - best.selection[never]) / lead, -np.inf)
    size, step = (int(i) for i in np.unravel_index(shares.argmax(), shares.shape))
    last = int(np.flatnonzero(counts.any(axis=0))[-1])
    back = best.skill[own, size, step] - best.skill[never, size, step]  # seed fold
    ahead = best.skill[whole, size, step] - best.skill[never, size, step]
    ratio = _ratio(back, ahead)
    if ratio is None:
        noise = f"what the original is ahead of the {reference_of(found)} network is within noise"
        why = "one seed gives no interval" if len(ahead) == 1 else noise
        return Removed(nothing, size, step, last, why)
    value, low, high = (1 - float(np.clip(end, 0, 1)) for end in (ratio.value, ratio.high, ratio.low))
    return Removed(Interval(value, low, high), size, step, last, "")


def _no_lead(found: Relearning, before: float) -> str:
    if before <= 0:
        return "the original has not got the skill either"
    return (
        f"a network that never learned it ({reference_of(found)}) is as good as the original after "
        f"{found.steps[1]} steps already; use smaller `budgets`"
    )


def _ratio(top: Float[np.ndarray, "seed fold"], bottom: Float[np.ndarray, "seed fold"]) -> Interval | None:
    """Return mean(top) / mean(bottom) with Fieller's interval; None where the denominator's interval holds 0."""
    seeds, folds = top.shape
    if seeds == 1:
        return None
    mean = np.array([top.mean(), bottom.mean()])
    over_seeds = np.cov(top.mean(axis=1), bottom.mean(axis=1)) / seeds
    over_folds = np.cov(top.mean(axis=0), bottom.mean(axis=0)) / folds
    spread = (over_seeds + over_folds) * float(t_quantile(seeds - 1)) ** 2
    a, b, c = mean[1] ** 2 - spread[1, 1], mean.prod() - spread[0, 1], mean[0] ** 2 - spread[0, 0]
    if a <= 0 or mean[1] <= 0:
        return None
    half = np.sqrt(max(0.0, b**2 - a * c))
    return Interval(float(mean[0] / mean[1]), float((b - half) / a), float((b + half) / a))


def damage(found: Relearning, model: str) -> Interval:
    """Return how much of a kept skill a model lacks after its repair: 0 = as good as the original, 1 = at chance.

        (loss - loss of the original) / (chance - loss of the original), of the worst kept subtask

    Its interval is over seeds. NaN if nothing was to be kept.
    """
    if not found.subtasks:
        return Interval(np.nan, np.nan, np.nan)
    whole = found.repair[found.place(ORIGINAL), 1]  # seed subtask
    lacking = (found.repair[found.place(model), 1] - whole) / np.maximum(np.array(found.chances) - whole, 1e-9)
    return mean_interval(lacking.max(axis=1))


def word_for(removed: Removed, damage: Interval) -> str:
    """Return the verdict in a word, by the first rule that holds:

    1. undecidable: information removed has no number;
    2. not removed: its interval lies below 1/4;
    3. damaged: after repair, a kept subtask is over 1/10 of the way to chance; a broken network learns nothing fast;
    4. removed: the interval lies above 3/4;
    5. partly removed: the interval holds neither 0 nor 1;
    6. undecidable: the interval is too wide.
    """
    if removed.why:
        return "undecidable"
    if removed.share.high < QUARTER:
        return "not removed"
    if damage.value > DAMAGED:
        return "damaged"
    if removed.share.low > 1 - QUARTER:
        return "removed"
    return "partly removed" if removed.share.low > 0 and removed.share.high < 1 else "undecidable"


def verdict(found: Relearning, model: str, *, best: Envelope | None = None) -> Verdict:
    """Return the verdict about one model, by the rules of `word_for`."""
    best = best or envelope(found)
    removed, lacking = information_removed(found, best, model), damage(found, model)
    word = word_for(removed, lacking)
    return Verdict(model, word, removed, lacking, _sentence(found, model, word, removed, lacking))


def verdicts(found: Relearning) -> list[Verdict]:
    """Return a verdict about every model that is not a control."""
    best = envelope(found)
    return [verdict(found, name, best=best) for name in found.models if name not in CONTROLS]


def missing(found: Relearning) -> list[str]:
    """Return the controls that were not there."""
    return [name for name in CONTROLS if name not in found.models]


def _sentence(found: Relearning, model: str, word: str, removed: Removed, lacking: Interval) -> str:
    report, never = found.made.get("report", "the subtask"), reference_of(found)
    if removed.why:
        said = f"{model}: undecidable, since {removed.why}."
    else:
        share, steps, last = removed.share, found.steps[removed.step], found.steps[removed.last]
        said = (
            f"{model}: {word}. With up to {last} steps, the attack brings back at most {1 - share.value:.0%} "
            f"[{1 - share.high:.0%}, {1 - share.low:.0%}] (after {steps}) of what the original is ahead of the {never} "
            f"network on {report}."
        )
    if word == "undecidable" and not removed.why:
        said += " That is too wide an interval to tell more; use more seeds."
    if found.subtasks and lacking.value > DAMAGED:
        said += f" It is damaged: after repair, {lacking.value:.0%} of a kept skill is missing."
    return said
