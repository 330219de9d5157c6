"""The short list: on a larger model, not every way to attack is tried at every rate and with every seed."""

from collections.abc import Sequence

import numpy as np

from skilloc.masks import Mask
from skilloc.relearning.doing import do_runs
from skilloc.relearning.question import Question
from skilloc.relearning.runs import Asked

SHORT = 4
"""Ways that are tried at every rate, of a model that is no chain of linear maps."""


def tried_first(runs: Sequence[Asked], question: Question) -> list[Asked]:
    """Return the runs, of a model's with the first seed, that say which ways go on: those at the middle rate."""
    grid = question.grid
    middle = grid.rates[len(grid.rates) // 2]
    return [run for run in runs if run.size == grid.sizes[0] and (run.rate == middle or run.data == "none")]


def short_list(runs: Sequence[Asked], question: Question, *, mask: Mask | None = None) -> set[int]:
    """Return the ways that are worth trying at every rate and with every seed on a larger model, by place.

    They are the `SHORT` from which most skill comes on the selection split, at the middle rate and with this seed, and
    those that come first in any case. What was tried of the others is not part of the result.
    """
    tried = tried_first(runs, question)
    do_runs(tried, question, mask=mask)
    best = {}
    for run in tried:
        places, z, r = run.at
        seen = run.into["selection"][places[0], z, r]
        best[places[0]] = float(np.nanmin(seen)) if np.isfinite(seen).any() else np.inf
    chosen = {*sorted(best, key=lambda place: best[place])[:SHORT], *(0, 1)}
    for run in tried:
        if run.at[0][0] not in chosen:
            for name in ("selection", "report", "kept"):
                run.into[name][run.at[0]] = np.nan
    return chosen
