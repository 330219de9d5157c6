"""Whether and when networks learn: curves of loss and of what is not yet learned, fractions that learn."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from skilloc.plots.style import colour_of, figure


def survival_curve(
    ax: Axes,
    curve: Mapping[str, Sequence[float] | np.ndarray],
    *,
    end: float,
    colour: str,
    label: str | None = None,
    dashed: bool = False,
) -> Axes:
    """Draw the fraction of runs in which something has not happened yet, as steps, with its band.

    Args:
        ax: where to draw.
        curve: equally long `time`, `fraction`, `low` and `high`, as of `intervals.Survival`.
        end: where the last run was given up.
        colour: of the line and the band.
        label: for a legend.
        dashed: whether the line is.
    """
    time = np.append(curve["time"], max(end, curve["time"][-1]))
    fraction, low, high = (np.append(curve[name], curve[name][-1]) for name in ("fraction", "low", "high"))
    ax.fill_between(time, low, high, step="post", color=colour, alpha=0.13, lw=0)
    ax.step(time, fraction, where="post", color=colour, ls=(0, (3, 1.5)) if dashed else "-", label=label)
    ax.set(ylim=(-0.03, 1.03), ylabel="fraction of seeds")
    return ax


def learned_dots(
    ax: Axes,
    names: Sequence[str],
    fractions: Sequence[Mapping[str, float]],
    *,
    colours: Sequence[str],
    runs: Sequence[int],
) -> Axes:
    """Draw one row per arm: the fraction of runs that learned as a dot, its interval as a bar, the count beside it.

    Args:
        ax: where to draw.
        names: of the arms, from the top; written in the colours of their rows.
        fractions: `value`, `low` and `high` of each, as of `intervals.Interval`.
        colours: one per arm.
        runs: how many runs each fraction is of.
    """
    counts = [f"{round(one['value'] * n)} of {n}" for one, n in zip(fractions, runs, strict=True)]
    interval_rows(ax, names, fractions, colours=colours, beside=counts, edge=1.0)
    ax.set(xlim=(-0.02, 1.02), xlabel="fraction of seeds that learned")
    return ax


def ratio_dots(
    ax: Axes, names: Sequence[str], ratios: Sequence[Mapping[str, float]], *, colours: Sequence[str]
) -> Axes:
    """Draw one row per ratio, on a logarithmic axis with a line at 1.

    A ratio or an end of its interval may be infinite: the bar then reaches the edge, and there is no dot.

    Args:
        ax: where to draw.
        names: of the ratios, from the top.
        ratios: `value`, `low` and `high` of each.
        colours: one per ratio.
    """
    known = [end for one in ratios for end in one.values() if np.isfinite(end)]
    first, edge = 0.8 * min(*known, 1.0), 1.5 * max(*known, 2.0)
    ax.axvline(1, color="black", lw=0.6)
    written = [f"{one['value']:.1f} ×" if np.isfinite(one["value"]) else f"> {one['low']:.1f} ×" for one in ratios]
    interval_rows(ax, names, ratios, colours=colours, beside=written, edge=edge)
    ax.set(xscale="log", xlim=(first, edge))
    ax.xaxis.set_major_locator(
        FixedLocator([tick for tick in (0.5, 1, 2, 5, 10, 20, 50, 100) if first <= tick <= edge])
    )
    ax.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    return ax


def interval_rows(
    ax: Axes,
    names: Sequence[str],
    intervals: Sequence[Mapping[str, float]],
    *,
    colours: Sequence[str],
    beside: Sequence[str],
    edge: float = np.inf,
) -> Axes:
    """Draw one row per number: a dot, its interval as a bar, its name at the left and some words at the right.

    Args:
        ax: where to draw.
        names: from the top; written in the colours of their rows.
        intervals: `value`, `low` and `high` of each; a value that is not finite has no dot.
        colours: one per row.
        beside: what to write at the right of each row.
        edge: where bars end that would reach further.
    """
    for row, (one, colour) in enumerate(zip(intervals, colours, strict=True)):
        ax.plot([one["low"], min(one["high"], edge)], [row, row], color=colour, lw=2, solid_capstyle="butt")
        if np.isfinite(one["value"]):
            ax.plot([one["value"]], [row], "o", color=colour, ms=4.5, mec="white", mew=0.6, clip_on=False, zorder=3)
        ax.text(1.04, row, beside[row], fontsize=7, va="center", transform=ax.get_yaxis_transform())
    ax.set_yticks(range(len(names)), names)
    for label, colour in zip(ax.get_yticklabels(), colours, strict=True):
        label.set_color(colour)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color="#dddddd", lw=0.5)
    ax.set_axisbelow(True)
    return ax


def learning_of_arms(
    names: Sequence[str], outcomes: Sequence[Mapping[str, Any]], *, what: str, learned_below: float, note: str
) -> Figure:
    """Draw, for several arms, the fraction of runs that learned, the loss of every run, and when they learn.

    Args:
        names: of the arms.
        outcomes: one per arm: `fraction` with its interval, `bits` at the end and a `curve` per run, `survival` with
            its `end`.
        what: the subtask that is learned.
        learned_below: loss in bits from which it counts as learned.
        note: what was measured, below the axes.
    """
    drawn, (dots, every, rest) = figure(1, 3, height=2.5, width_ratios=(1, 1.2, 1.2))
    colours = [colour_of(place) for place in range(len(outcomes))]
    runs = [len(one["bits"]) for one in outcomes]
    learned_dots(dots, names, [one["fraction"] for one in outcomes], colours=colours, runs=runs)
    for one, colour in zip(outcomes, colours, strict=True):
        for curve in one["curve"]:
            every.plot(curve["examples"][1:], curve["bits"][1:], color=colour, lw=0.6, alpha=0.6)
        survival_curve(rest, one["survival"], end=one["survival"]["end"], colour=colour)
    every.axhline(learned_below, color="black", lw=0.5, ls=":")
    every.set(title="loss, every seed", ylabel=f"loss on {what} (bits)", ylim=(-0.03, 1.1))
    rest.set_title("not yet learned")
    first = min(curve["examples"][1] for one in outcomes for curve in one["curve"])
    for axes in (every, rest):
        examples_axis(axes, first, max(one["survival"]["end"] for one in outcomes), label="training examples")
    drawn.supxlabel(note, fontsize=6.5)
    return drawn


def examples_axis(ax: Axes, low: float, high: float, *, label: str) -> Axes:
    """Make the x axis logarithmic, from `low` to `high` examples, with few labels such as 50 k, 2 M and 1 G."""
    decades = np.log10(high / low)
    steps = (1, 2, 5) if decades < 1.4 else (1, 3) if decades < 2.3 else (1,)
    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    ticks = [step * power for power in powers for step in steps if low <= step * power <= high]
    ax.set(xscale="log", xlim=(low, high), xlabel=label)
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda count, _: _count(count)))
    ax.xaxis.set_minor_locator(NullLocator())
    return ax


def _count(count: float) -> str:
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= 0.999 * size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.3g}"
