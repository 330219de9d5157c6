"""Which units stay: masks of rising severity, from scores or by scoring again."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from skilloc.masks import Mask, top
from skilloc.mistakes import WrongValue
from skilloc.units import Units

Scorer = Callable[[Mask], Float[np.ndarray, "unit"]]
"""Scores of the units that a mask keeps, measured with the others held; what it says of those is not looked at."""


def masks_of(
    units: Units,
    scores: Float[np.ndarray, "unit"] | Scorer,
    counts: Sequence[int],
    *,
    per_layer: bool = False,
    every: int | None = None,
) -> list[Mask]:
    """Return one mask per count: the units with the highest scores are kept.

    One-shot where the scores are an array: every mask keeps the top of the same list. Iterative where they are a
    function: units are dropped in rounds, and those that are left are scored again before each round.

    Args:
        units: the unit axis.
        scores: one value per unit, or a function from the mask so far to such values. Signed effects keep units that
            are needed, magnitudes also those that do harm; any other score will do. A unit without one (NaN) goes
            first.
        counts: numbers of units to keep.
        per_layer: keep the same share in every bank, instead of the best of all.
        every: most units to drop between two scorings; one round from count to count if not given.

    Raises:
        ValueError: if a count is out of range, or `every` is below 1 or comes with scores that are not a function.
    """
    if not counts or min(counts) < 0 or max(counts) > len(units):
        raise WrongValue(f"`counts` is {tuple(counts)}; keep 0 to {len(units)} units, the length of `units`")
    if every is not None and (every < 1 or not callable(scores)):
        raise WrongValue(f"`every` is {every}; use at least 1, and pass `scores` as a function, to score again with")
    if not callable(scores):
        return [Mask(units, _best(units, scores, np.ones(len(units), dtype=bool), n, per_layer)) for n in counts]
    found, kept = {}, np.ones(len(units), dtype=bool)
    for count in sorted(set(counts), reverse=True):
        while kept.sum() > count:
            most = int(kept.sum()) - count if every is None else min(every, int(kept.sum()) - count)
            kept = _best(units, scores(Mask(units, kept)), kept, int(kept.sum()) - most, per_layer)
        found[count] = Mask(units, kept)
    return [found[count] for count in counts]


def _best(units: Units, scores: np.ndarray, among: np.ndarray, n: int, per_layer: bool) -> np.ndarray:
    """Select n of some units."""
    if scores.shape != (len(units),):
        raise WrongValue(
            f"`scores` has shape {scores.shape} but `units` has length {len(units)}; pass one value per unit"
        )
    # A unit that was not scored comes after all others, and one that is gone after these.
    ranked = np.where(among, np.nan_to_num(scores, nan=-np.finfo(float).max, neginf=-np.finfo(float).max), np.nan)
    if not per_layer:
        return top(ranked, n)
    chosen = np.zeros(len(units), dtype=bool)
    spans = [units.span(hook) for hook in units.hooks]
    for span, share in zip(spans, _shares(n, [span.stop - span.start for span in spans]), strict=True):
        chosen[span] = top(ranked[span], share)
    return chosen


def _shares(n: int, widths: Sequence[int]) -> list[int]:
    """Return whole numbers in proportion to widths that add up to n, by largest remainders."""
    exact = n * np.array(widths) / sum(widths)
    parts = np.floor(exact).astype(int)
    first = np.argsort(-(exact - parts), kind="stable")[: n - parts.sum()]
    parts[first] += 1
    return [int(part) for part in parts]
