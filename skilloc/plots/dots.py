"""Dots: scores with intervals and chance levels, and estimates against what they estimate."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes

from skilloc.locality.intervals import Interval
from skilloc.plots.style import CONTROL, colour_of, counts_axis, signed_ticks


def score_dots(
    ax: Axes,
    scores: Sequence[str],
    found: Interval,
    subtasks: Sequence[str],
    *,
    log: bool = False,
) -> Axes:
    """Draw scores as dots with intervals, one row per score, one colour per subtask, the chance level as a grey bar.

    Args:
        ax: where to draw.
        scores: names of the rows.
        found: the scores, on `score subtask`, with the chance level of each, on `score`; NaN leaves out a dot, and its
            interval is pale.
        subtasks: names.
        log: whether the axis is logarithmic (numbers of units) or runs from 0 to 1.
    """
    value, low, high, chance = found.value, found.low, found.high, found.chance
    spread = 0.6 / max(len(subtasks), 1)
    for row in range(len(scores)):
        ax.plot([chance[row]] * 2, [row - 0.42, row + 0.42], color=CONTROL, lw=2.2, alpha=0.7, solid_capstyle="butt")
        for s in range(len(subtasks)):
            place = row + (s - (len(subtasks) - 1) / 2) * spread
            known: dict[str, Any] = {"lw": 1.2} if np.isfinite(value[row, s]) else {"lw": 0.8, "alpha": 0.35}
            ax.plot([low[row, s], high[row, s]], [place] * 2, color=colour_of(s), solid_capstyle="butt", **known)
            ax.plot([value[row, s]], [place], "o", color=colour_of(s))
    ax.set_yticks(range(len(scores)), [name.replace("_", " ") for name in scores])
    ax.set_ylim(len(scores) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color="#dddddd", lw=0.5)
    ax.set_axisbelow(True)
    if log:
        counts_axis(ax, float(np.nanmax(np.maximum(high, chance[:, None]))))
        ax.set_xlabel("number of units")
    else:
        ax.set(xlim=(-0.02, 1.02), xlabel="share")
    return ax


def subtask_legend(ax: Axes, subtasks: Sequence[str], *, control: str | None = None) -> Axes:
    """Draw a legend of the subtasks' colours above the axes, and of the grey control if it has a name."""
    for s, name in enumerate(subtasks):
        ax.plot([], [], "o", color=colour_of(s), label=name)
    if control:
        ax.plot([], [], color=CONTROL, lw=2.2, alpha=0.7, label=control)
    letters = max(8, sum(len(name) + 4 for name in subtasks))  # more than a line holds go on the next
    columns = max(1, min(len(subtasks) + 1, 60 * (len(subtasks) + 1) // letters))
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=columns, borderaxespad=0.2, columnspacing=1.0)
    return ax


def calibration_scatter(
    ax: Axes,
    effects: Float[np.ndarray, "2 unit"],
    *,
    drawn: Bool[np.ndarray, "unit"],
    linear: float,
    colour: str,
    unit: str = "nats",
) -> Axes:
    """Draw estimated against exact effects on symmetric logarithmic axes, with the line where they agree.

    Args:
        ax: where to draw.
        effects: the estimated, and the exact ones; units without one of them are left out.
        drawn: units of the random sample (filled); the others are the estimate's own top (rings).
        linear: effect within which the axes are linear.
        colour: of the points.
        unit: of the loss that effects are in.
    """
    estimate, exact = effects
    known = np.isfinite(exact) & np.isfinite(estimate)
    largest = 1.6 * float(max(np.abs(exact[known]).max(), np.abs(estimate[known]).max()))
    ax.plot([-largest, largest], [-largest, largest], color=CONTROL, lw=0.8, zorder=0)
    ax.axhline(0, color=CONTROL, lw=0.4, zorder=0)
    ax.axvline(0, color=CONTROL, lw=0.4, zorder=0)
    ring, dot = known & ~drawn, known & drawn
    ax.plot(
        exact[ring], estimate[ring], "o", mfc="none", mec=colour, mew=0.6, alpha=0.7, ms=3, rasterized=ring.sum() > 500
    )
    ax.plot(exact[dot], estimate[dot], "o", color=colour, mew=0, alpha=0.45, ms=2.6, rasterized=bool(dot.sum() > 500))
    ax.set_xscale("symlog", linthresh=linear, linscale=0.5)
    ax.set_yscale("symlog", linthresh=linear, linscale=0.5)
    ticks, labels = signed_ticks(linear, largest, most=1)
    ax.set_xticks(ticks, labels)
    ax.set_yticks(ticks, labels)
    ax.minorticks_off()
    ax.set(xlim=(-largest, largest), ylim=(-largest, largest), xlabel=f"exact effect ({unit})")
    ax.set(ylabel=f"estimated effect ({unit})", aspect="equal")
    return ax
