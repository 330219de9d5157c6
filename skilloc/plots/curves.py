"""Curves with bands: sorted effects, and losses against the number of removed units."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from skilloc.locality.intervals import Interval
from skilloc.plots.style import CONTROL, colour_of, counts_axis, signed_ticks


def sorted_curves(
    ax: Axes,
    ranks: Float[np.ndarray, "point"],
    effects: Interval,
    subtasks: Sequence[str],
    *,
    noise: Float[np.ndarray, "subtask"],
    unit: str = "nats",
) -> Axes:
    """Draw effects against their rank: ranks logarithmic, effects symmetric logarithmic, linear within the noise.

    A curve that falls at once is a local skill; one that stays above its noise for long is spread out; one that does
    not fall is noise, since ranks are those of other folds.

    Args:
        ax: where to draw.
        ranks: places on the rank axis, from 1, in folds other than those of the effects.
        effects: at these ranks, on `subtask point`; their interval is a band.
        subtasks: names.
        noise: what a single unit's effect must exceed to be told from 0; dashed.
        unit: of the loss that effects are in.
    """
    values, low, high = effects.value, effects.low, effects.high
    largest = 2 * float(np.nanmax(np.abs(values)))
    linear = float(np.clip(noise.min(), largest * 1e-5, largest / 10))
    for s, name in enumerate(subtasks):
        ax.fill_between(ranks, low[s], high[s], color=colour_of(s), alpha=0.18, lw=0)
        ax.plot(ranks, values[s], color=colour_of(s), label=name)
        ax.axhline(noise[s], color=colour_of(s), lw=0.8, ls=(0, (4, 3)), alpha=0.8)
    ax.plot([], [], color=CONTROL, lw=0.8, ls=(0, (4, 3)), label="noise of one unit")
    ax.axhline(0, color="black", lw=0.5)
    counts_axis(ax, float(ranks[-1]))
    ax.set_yscale("symlog", linthresh=linear, linscale=0.6)
    ticks, labels = signed_ticks(linear, largest, most=4)
    ax.set_yticks(ticks, labels)
    ax.yaxis.set_minor_locator(NullLocator())
    bottom = min(1.5 * float(np.nanmin(values)), -linear)
    ax.set(xlim=(ranks[0], ranks[-1]), ylim=(bottom, largest), ylabel=f"effect ({unit})")
    ax.set_xlabel("rank of the unit, in the other folds")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))  # beside the bands, which may be anywhere
    return ax


def removal_curves(
    ax: Axes,
    counts: Int[np.ndarray, "size"],
    increase: Interval,
    subtasks: Sequence[str],
    *,
    legend: bool = True,
    unit: str = "nats",
) -> Axes:
    """Draw the loss increase of every subtask against the number of removed units, beside random masks.

    Args:
        ax: where to draw.
        counts: numbers of removed units.
        increase: of the loss, on `target size`; its interval is a band, and its chance level that of random masks of
            equal size and layers; dotted, in each subtask's colour.
        subtasks: names on the target axis.
        legend: whether to explain the lines here; panels beside each other share one.
        unit: of the loss.
    """
    for s, name in enumerate(subtasks):
        ax.fill_between(counts, increase.low[s], increase.high[s], color=colour_of(s), alpha=0.2, lw=0)
        ax.plot(counts, increase.value[s], "o-", color=colour_of(s), label=name)
        ax.plot(counts, increase.chance[s], ":", color=colour_of(s), lw=1.2)
    ax.plot([], [], ":", color=CONTROL, lw=1.2, label="random units")
    ax.axhline(0, color="black", lw=0.5)
    ax.set(xscale="log", xlabel="units removed", ylabel=f"loss increase ({unit})")
    ax.xaxis.set_major_locator(FixedLocator([float(n) for n in counts]))
    ax.set_xticklabels([f"{n:,}" for n in counts])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(axis="x", which="minor", length=0)
    if legend:
        ax.legend(loc="upper left")
    return ax
