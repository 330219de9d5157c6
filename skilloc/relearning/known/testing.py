"""The self-test: what the probe says of networks whose truth is known.

Each network is attacked beside its original and beside networks of its shape that never saw the skill, of other seeds.
The limits of the verdict are also tuned with each kind of network left out in turn, and stated on the kind left out, so
that a kind that nobody thought of is not judged by limits that were made for it.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from skilloc.intervals import Interval
from skilloc.progress import counter
from skilloc.relearning.curves import envelope
from skilloc.relearning.known.networks import Known, Shelf, shelf_of
from skilloc.relearning.plasticity import with_plasticity
from skilloc.relearning.probe import relearn_probe
from skilloc.relearning.result import Relearning
from skilloc.relearning.settings import ORIGINAL, Grid
from skilloc.relearning.verdict import Limits, verdict

GRID = Grid(rates=(3e-3, 1e-2, 3e-2), budgets=(1, 4, 16, 64), held_out=512, folds=8, repair=64)
"""Settings of the self-test."""

LIMITS = tuple(Limits(lead, quarter) for lead in (0.15, 0.25, 0.4, 0.6) for quarter in (0.2, 0.25, 0.3))
"""What is tuned among."""


class Tested(NamedTuple):
    """A network of the self-test, and what the probe says of it.

    Attributes:
        known: the network and its truth.
        found: the losses of its probe.
        word: the verdict.
        back: share of the skill that the attack brought back, where it was read.
    """

    known: Known
    found: Relearning
    word: str
    back: Interval


def attacked(shelves: Sequence[Shelf], grid: Grid = GRID, seeds: Sequence[int] = (0, 1, 2)) -> list[Tested]:
    """Attack all networks, and return what the probe says."""
    listed: list[Tested] = []
    with counter(sum(len(shelf.known) for shelf in shelves), "self-test") as bar, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a best rate at an end of the grid
        for shelf in shelves:
            models: dict[str, Any] = {ORIGINAL: shelf.original, **shelf_of(shelf, seeds)}
            models |= {known.name: known.model for known in shelf.known}
            found = relearn_probe(models, [shelf.attacked], shelf.attacked, grid, seeds, kept=shelf.kept)
            if shelf.new is not None:
                found = with_plasticity(found, models, shelf.new, grid, seeds)
            best = envelope(found)
            for known in shelf.known:
                told = verdict(found, known.name, best=best)
                share = told.removed.share
                back = Interval(1 - share.value, 1 - share.high, 1 - share.low)
                listed.append(Tested(known, found, told.word, back))
                bar.update(1)
    return listed
