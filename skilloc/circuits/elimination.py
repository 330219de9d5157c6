"""A ranking of units for circuits: which units a circuit can spare last.

A unit's effect is measured in the whole model, where others may stand in for it, or work against it; circuits of the
units with the largest effects can be far from faithful until they are large. This ranking asks the shrinking circuit
itself: from all units on, those that add least to it are held at their reference, a sixteenth at a time, until none is
left. It costs about 16 runs per unit, and so is for small networks.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from skilloc.ablation import mask_effects
from skilloc.experiment import Experiment
from skilloc.masks import Mask

PART = 16
"""One in so many of the units that are left is dropped at a time, and at least one."""


def elimination_ranking(experiment: Experiment, *, subtask: str) -> Float64[np.ndarray, "unit"]:
    """Rank units by when they are dropped from a shrinking circuit: the last is the largest.

    At each step the units u of the circuit C are dropped whose L(C without u) - L(C) is smallest, with L the mean loss
    of the subtask's examples; of the units of one step, the one that adds least is dropped first.

    Args:
        experiment: what is measured on what; state the faithfulness on other examples.
        subtask: whose loss.

    Raises:
        ValueError: if there is no such subtask.
    """
    own, units = replace(experiment.only(subtask), folds=1), experiment.units
    ranking = np.zeros(len(units))
    keep = np.ones(len(units), dtype=bool)
    dropped = 0
    while keep.any():
        members = np.flatnonzero(keep)
        without = [Mask(units, keep & (np.arange(len(units)) != unit)) for unit in members]
        found, _ = mask_effects(own, without)
        for place in np.argsort(found[:, 0, 0], kind="stable")[: max(1, len(members) // PART)]:
            dropped += 1
            ranking[members[place]] = dropped
            keep[members[place]] = False
    return ranking
