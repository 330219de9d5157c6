"""Subtask × subtask matrices, with the numbers in the cells and the control below them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from skilloc.locality.intervals import Interval
from skilloc.plots.style import short

DETAILED, NUMBERED = 5, 12
"""With more subtasks than this, cells hold a single number; with more than that, their colour says it alone."""


def removal_matrix(
    ax: Axes,
    increase: Interval,
    subtasks: Sequence[str],
) -> Axes:
    """Draw the loss increase of each target when a source's top units are removed, and that of random masks below it.

    Args:
        ax: where to draw.
        increase: of the loss, on `source target`; its chance level is that of random masks of equal size and layers.
        subtasks: names on both axes.
    """
    _cells(ax, increase, subtasks, largest=max(float(np.nanmax(increase.value)), 1e-9), word="random")
    ax.set(xlabel="loss measured on", ylabel="units needed by")
    return ax


def entanglement_matrix(
    ax: Axes,
    found: Interval,
    subtasks: Sequence[str],
) -> Axes:
    """Draw how far subtasks need the same units (0 to 1), with the interval and the chance level in each cell.

    Args:
        ax: where to draw.
        found: the scores, on `subtask subtask`, grey where they cannot be told from noise (NaN); their chance level is
            what shuffled or random units would give, NaN is left out.
        subtasks: names on both axes.
    """
    return _cells(ax, found, subtasks, largest=1.0, word="chance")


def _cells(ax: Axes, found: Interval, subtasks: Sequence[str], *, largest: float, word: str) -> Axes:
    n, (values, low, high, control) = len(subtasks), found[:4]
    colours = colormaps["Blues"].with_extremes(bad="#e8e8e8")
    ax.imshow(np.ma.masked_invalid(values), norm=Normalize(0, 1.25 * largest), cmap=colours, aspect="auto")
    size = 8.0 if n <= DETAILED else max(4.0, 36 / n)
    for row, column in np.ndindex(n, n) if n <= NUMBERED else ():
        value, known = float(values[row, column]), bool(np.isfinite(values[row, column]))
        place: dict[str, Any] = {
            "ha": "center",
            "va": "center",
            "color": "white" if value > 0.75 * largest else "black",
        }
        ax.text(column, row - (0.2 if n <= DETAILED else 0), short(value), fontsize=size, weight="bold", **place)
        if n <= DETAILED and known:
            same = low[row, column] == high[row, column]
            interval = "" if same else f"[{short(float(low[row, column]))}, {short(float(high[row, column]))}]"
            beside = f"{word} {short(float(control[row, column]))}" if np.isfinite(control[row, column]) else ""
            ax.text(column, row + 0.06, interval, fontsize=5.5, **place)
            ax.text(column, row + 0.28, beside, fontsize=5.5, **place)
    flat = n <= DETAILED and max(map(len, subtasks)) <= 9
    turned: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    if flat or n > NUMBERED:
        turned = {"rotation": 0, "ha": "center"} if flat else {"rotation": 90, "ha": "center"}
    ax.set_xticks(range(n), subtasks, **turned)
    ax.set_yticks(range(n), subtasks)
    ax.tick_params(labelsize=7 if n <= NUMBERED else 6)
    ax.spines[:].set_visible(False)
    ax.set_xticks(np.arange(n - 1) + 0.5, minor=True)
    ax.set_yticks(np.arange(n - 1) + 0.5, minor=True)
    ax.grid(which="minor", color="white", lw=2)
    ax.tick_params(which="both", length=0)
    return ax
