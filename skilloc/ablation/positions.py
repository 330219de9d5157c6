"""Effects by position: what the loss becomes when a unit is held at one position only.

    effect[f, s, p, u] = mean over the examples of fold f of subtask s of (loss with u held at p - loss)

A position is a place in the row, or one of the names that the examples give to positions (subject, last, ...). These
effects cost as many runs as there are positions; `attribution.positions` estimates all of them for the price of one.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool

from skilloc.ablation import ablation_effects
from skilloc.effects.positions import PositionEffects
from skilloc.experiment import Experiment
from skilloc.store.progress import progress


def position_effects(
    experiment: Experiment, *, names: Sequence[str] = (), select: Bool[np.ndarray, " unit"] | None = None
) -> PositionEffects:
    """Measure the effect of units at each position by itself.

    Args:
        experiment: what is measured on what; its `at` says which positions count.
        names: names that the examples give to positions; every place of a row if not given.
        select: which units; all if not given. The others are NaN.

    Raises:
        ValueError: if the examples have no positions, or not these names.

    Example:
        >>> import skilloc as sk
        >>> from skilloc.ablation.positions import position_effects
        >>> opened = sk.open_model("embedded")
        >>> subtasks = sk.subtasks_of(opened, {"python": "python"}, length=4)
        >>> experiment = sk.Experiment(opened.model, subtasks, kinds=("head",), count=8)
        >>> found = position_effects(experiment, select=experiment.units.named(["L2H1"]))
        >>> found.values.shape  # fold subtask position unit
        (8, 1, 4, 24)
    """
    masks, parts = experiment.positions(names), []
    for mask in progress(masks.values(), "ablating, by position", total=len(masks)):
        held = replace(experiment, at=mask, reference=experiment.held)
        parts.append(ablation_effects(held, select=select).values)
    values, made = np.stack(parts, axis=2), {"method": "ablation", **experiment.record()}
    subtasks, unit = experiment.folded.subtasks, experiment.metric.unit
    return PositionEffects(values, tuple(masks), subtasks, experiment.units, unit, made)
