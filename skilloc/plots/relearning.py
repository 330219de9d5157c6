"""Recovery curves: the loss that an attacker reaches in a model and in its controls, by number of steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from skilloc.locality.intervals import Interval
from skilloc.plots.style import CONTROL, colour_of

DASHES: Mapping[str, Any] = {
    "original": "-",
    "never trained": (0, (4, 2)),
    "never saw": (0, (1, 1)),
    "random mask": (0, (4, 1, 1, 1)),
    "plain finetuning": (0, (7, 2)),
}
"""Controls are grey, but for the original, and told apart by their dashes."""


def recovery_curves(
    ax: Axes,
    steps: Sequence[int],
    losses: Interval,
    models: Sequence[str],
    *,
    chance: float | None = None,
    unit: str = "nats",
) -> Axes:
    """Draw the loss under attack against the number of attack steps, with a band over seeds; no legend.

    Args:
        ax: where to draw.
        steps: numbers of steps, from 0; the axis is logarithmic, with a place of its own for 0.
        losses: on `model step`; their interval is a band, left out where it is not finite.
        models: names; controls are drawn in grey, the original in black.
        chance: loss of guessing evenly, as a thin line where it is near the curves.
        unit: of the loss.
    """
    value, low, high = losses.value, losses.low, losses.high
    place = np.array([steps[1] / 3 if step == 0 else step for step in steps], dtype=np.float64)
    others = [name for name in models if name not in DASHES]
    for m, name in enumerate(models):
        own = name in others
        colour = colour_of(others.index(name)) if own else "black" if name == "original" else CONTROL
        band = np.isfinite(low[m]) & np.isfinite(high[m])
        ax.fill_between(place, low[m], high[m], where=band.tolist(), color=colour, alpha=0.2 if own else 0.12, lw=0)
        ax.plot(place, value[m], color=colour, ls="-" if own else DASHES[name], lw=1.6 if own else 1.1, label=name)
    lowest, highest = float(np.nanmin(value)), float(np.nanmax(value))
    margin = 0.08 * max(highest - lowest, 1e-3)
    if chance is not None and chance < highest + 3 * margin:
        highest = max(highest, chance)
        ax.axhline(chance, color=CONTROL, lw=0.5)
        ax.annotate("chance", (1, chance), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=6)
    # A band over few seeds may be wide; the curves decide what is seen.
    ax.set(xscale="log", xlabel="attack steps", ylabel=f"loss ({unit})", ylim=(lowest - margin, highest + margin))
    ax.xaxis.set_major_locator(FixedLocator(place.tolist()))
    ax.set_xticklabels([f"{step:,}" for step in steps])
    ax.xaxis.set_minor_locator(NullLocator())
    return ax
