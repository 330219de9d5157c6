"""Loss or accuracy against the number of kept units."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullFormatter

from skilloc.locality.intervals import Interval
from skilloc.plots.style import CONTROL, colour_of

APART = 1.8
"""Ratio of two numbers that are written beside each other."""


def kept_curves(
    ax: Axes,
    counts: Int[np.ndarray, " count"],
    found: Interval,
    names: Sequence[str],
    *,
    controls: Sequence[str] = (),
) -> Axes:
    """Draw curves with bands against the number of kept units, from all of them on the left to few on the right.

    Args:
        ax: where to draw.
        counts: numbers of kept units.
        found: what was measured, on `curve count`; its interval is a band, NaN for none.
        names: of the curves.
        controls: names of the curves that are controls; grey and dashed.
    """
    place = 0
    for name, value, bottom, top in zip(names, found.value, found.low, found.high, strict=True):
        control = name in controls
        colour = CONTROL if control else colour_of(place)
        place += not control
        ax.fill_between(counts, bottom, top, color=colour, alpha=0.18, lw=0)
        ax.plot(counts, value, color=colour, ls="--" if control else "-", marker=None if control else "o", label=name)
    ax.set(xscale="log", xlabel="units kept")
    ax.invert_xaxis()
    shown = _apart(sorted(set(counts.tolist()), reverse=True))
    ax.xaxis.set_major_locator(FixedLocator([float(n) for n in shown]))
    ax.set_xticklabels([f"{n:,}" for n in shown])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(axis="x", which="minor", length=0)
    return ax


def _apart(counts: Sequence[int]) -> list[int]:
    """Return those of falling numbers that are far enough apart to be written beside each other."""
    shown = [counts[0]]
    for count in counts:
        if shown[-1] >= APART * count > 0:
            shown.append(count)
    return shown
