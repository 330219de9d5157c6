"""The verdict: was the skill removed, or hidden, or was the model broken?

    information removed = 1 - clip(back, 0, 1)

where `back` (`brought`) is the share of the original's lead over a network that never saw the subtask that an attack
brings back. Budgets are gone through from the shortest to the longest (`words_for`), and each interval that says
something counts; one that says nothing leaves what was said:

1. not removed, for good, once an interval lies above 3/4: what an attacker got with that budget, he has got;
2. removed, up to this budget, where the interval lies below 1/4 and no shorter budget brought back as much for certain;
3. partly removed where the interval lies above 0 and is narrower than 1/2, or lies above 1/10 where a shorter budget
   had said something else;
4. otherwise, what the shorter budgets said.

So more budget never turns a clear word into "undecidable", and never changes "not removed"; it may overturn "removed",
which names its budget. Besides, unless it is "not removed":

5. damaged, if after its repair a kept subtask lacks certainly over 1/10 of the way to chance, or if the model learns
   certainly less than 3/4 as much of a task that nobody has seen as a fresh network of its shape does;
6. not called removed by any budget, if that damage is within noise of 1/10, or that learning within noise of 3/4.

Without a network that never saw the subtask the word is "not comparable": against random weights, what any trained
network learns faster would count as left over.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from skilloc.locality.intervals import Interval, mean_interval
from skilloc.relearning.brought import LIMITS, SLOW, Limits, Reading, readings, reference_of
from skilloc.relearning.curves import Envelope
from skilloc.relearning.result import Relearning
from skilloc.relearning.settings import ORIGINAL

SOME = 0.1
"""Certainly more than this share came back: enough to overturn "removed", however wide the interval."""

DAMAGED = 0.1
"""A model is damaged if, after its repair, it is further than this part of the way from the original to chance on some
kept subtask."""

HALF = 0.5
"""Where a fresh network learns less than this part of all there is, another is compared with all there is."""

REMOVED, PARTLY, KEPT = "removed", "partly removed", "not removed"
BROKEN, UNCLEAR, APART = "damaged", "undecidable", "not comparable"
WORDS = (REMOVED, PARTLY, KEPT, BROKEN, UNCLEAR, APART)


class Removed(NamedTuple):
    """Information removed, and where it was read off.

    Attributes:
        share: information removed with its 95 % interval; all NaN if nothing can be told.
        size: position of the data size.
        step: position of the budget.
        last: position of the largest budget that counted.
        why: why there is no number; empty if there is one.
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
        word: one of `WORDS`.
        removed: the number behind it.
        damage: see `damage`.
        plasticity: see `plasticity_of`; all NaN where it was not measured.
        sentence: all of it in words.
    """

    model: str
    word: str
    removed: Removed
    damage: Interval
    plasticity: Interval
    sentence: str


def words_for(found: Sequence[Reading], limits: Limits = LIMITS, *, doubted: bool = False) -> list[tuple[str, Reading]]:
    """Return the word after each budget, and the budget that it was read off, by rules 1 to 4 of this module.

    Args:
        found: what each budget says, from the shortest.
        limits: of the rules.
        doubted: see `is_doubted`.
    """
    quarter = limits.quarter
    word, at, floor = UNCLEAR, None, -np.inf
    said: list[tuple[str, Reading]] = []
    for reading in found:
        back = reading.back
        if word != KEPT and np.isfinite(back.value):
            floor = max(floor, back.low)
            if back.low > 1 - quarter:
                word, at = KEPT, reading
            elif back.high < quarter and floor < quarter:
                # What cannot be called removed leaves what was said, and is read off here where that was nothing.
                word, at = (REMOVED, reading) if not doubted else (word, reading if word == UNCLEAR else at)
            elif (back.low > 0 and back.high - back.low < 2 * quarter) or (back.low > SOME and word != UNCLEAR):
                word, at = PARTLY, reading
        elif word == KEPT and at is not None and back.low > at.back.low:
            at = reading
        said.append((word, at or reading))
    return said


def information_removed(found: Relearning, best: Envelope, model: str, limits: Limits = LIMITS) -> Removed:
    """Return how much of the information behind a skill is gone, at the budget that decides (`words_for`)."""
    doubted = is_doubted(damage(found, model), plasticity_of(found, model), limits.slow)
    whole, never = found.place(ORIGINAL), found.place(reference_of(found))
    listed = readings(found, best, model, limits)
    nothing = Interval(np.nan, np.nan, np.nan)
    if not any(reading.step for reading in listed):
        before = best.selection[whole, 0, 0] - best.selection[never, 0, 0]
        return Removed(nothing, 0, len(found.steps) - 1, len(found.steps) - 1, _no_lead(found, before))
    at, last = words_for(listed, limits, doubted=doubted)[-1][1], listed[-1].step
    if not np.isfinite(at.back.value):
        noise = f"what the original is ahead of the {reference_of(found)} network is within noise"
        return Removed(nothing, at.size, at.step, last, "one seed gives no interval" if _seeds(found) == 1 else noise)
    value, low, high = (1 - float(np.clip(end, 0, 1)) for end in (at.back.value, at.back.high, at.back.low))
    return Removed(Interval(value, low, high), at.size, at.step, last, "")


def _seeds(found: Relearning) -> int:
    return int(found.selection.shape[-1])


def _no_lead(found: Relearning, before: float) -> str:
    if before <= 0:
        return "the original has not got the skill either"
    return (
        f"a network that never learned it ({reference_of(found)}) is as good as the original after "
        f"{found.steps[1]} steps already; use smaller `budgets`"
    )


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


def plasticity_of(found: Relearning, model: str) -> Interval:
    """Return how much of a task that nobody has seen a model learns, as a share of what a fresh one of its shape can.

        skill / the best skill of a fresh network over seeds

    with its interval over seeds of the model's. Where no fresh one learns half of all there is either, the share is of
    all there is: what has no room for anything new cannot show by not learning that something is gone. All NaN where it
    was not measured.
    """
    own, fresh = found.learned[found.place(model)]
    if not (np.isfinite(own).all() and np.isfinite(fresh).all()):
        return Interval(np.nan, np.nan, np.nan)
    most = float(fresh.mean(axis=1).max())
    return mean_interval(own.mean(axis=1) / (most if most >= HALF * found.chance else found.chance))


def is_damaged(damage: Interval, plasticity: Interval, slow: float = SLOW) -> bool:
    """Whether a model is certainly damaged, or certainly cannot learn: rule 5 of this module."""
    low = damage.value if np.isnan(damage.low) else damage.low
    return bool(low > DAMAGED or plasticity.high < slow)


def is_doubted(damage: Interval, plasticity: Interval, slow: float = SLOW) -> bool:
    """Whether a model may be damaged, or unable to learn, so that it cannot be called removed: rule 6."""
    high = damage.value if np.isnan(damage.high) else damage.high
    return bool(high > DAMAGED or plasticity.low < slow)


def words_by_budget(found: Relearning, best: Envelope, model: str, limits: Limits = LIMITS) -> list[str]:
    """Return what would be said of a model with each budget that counts as the longest one."""
    about = damage(found, model), plasticity_of(found, model), limits.slow
    said = words_for(readings(found, best, model, limits), limits, doubted=is_doubted(*about))
    return [BROKEN if word != KEPT and is_damaged(*about) else word for word, _ in said]
