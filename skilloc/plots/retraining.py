"""Accuracies of a pruned network before and after retraining, against the share of units that were dropped."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from skilloc.plots.style import CONTROL, colour_of

DASHES: tuple[Any, ...] = ((0, (4, 1.5)), (0, (1, 1)))
"""Of controls, in their order."""

TICKS = (0, 0.5, 0.8, 0.9, 0.96, 0.98)
"""Shares that are written on the axis."""


def retraining_curves(
    ax: Axes,
    sparsities: Sequence[float],
    before: Mapping[str, Sequence[float]],
    after: Mapping[str, Sequence[float]],
    controls: Mapping[str, Sequence[float]],
    *,
    line: float | None,
) -> Axes:
    """Draw accuracies against -log10(1 - share of dropped units); no legend.

    Args:
        ax: where to draw.
        sparsities: shares of dropped units.
        before: by subtask, accuracies before retraining; those of some of the subtasks.
        after: by subtask, accuracies after retraining on it.
        controls: accuracies after retraining, grey and told apart by their dashes.
        line: the share that was chosen; None for none.
    """
    x = -np.log10(1 - np.array(sparsities))
    for place, (name, accuracies) in enumerate(after.items()):
        ax.plot(x, accuracies, color=colour_of(place), label=f"{name}, retrained on it")
        if name in before:
            dotted: Any = (0, (2, 1.5))
            ax.plot(x, before[name], color=colour_of(place), lw=0.8, ls=dotted, label=f"{name}, not retrained")
    for (name, accuracies), dashes in zip(controls.items(), DASHES, strict=False):
        ax.plot(x, accuracies, color=CONTROL, lw=1.1, ls=dashes, label=name)
    if line is not None:
        ax.axvline(-np.log10(1 - line), color=colour_of(2), lw=1.0, label="98 % line")
    shown = [share for share in TICKS if share <= max(sparsities)]
    ax.xaxis.set_major_locator(FixedLocator([-np.log10(1 - share) for share in shown]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels([f"{share:.0%}" for share in shown])
    ax.set(xlabel="units dropped", ylabel="accuracy", ylim=(0.45, 1.02))
    return ax
