"""Effects of single neurons: one dot, or one column of an image, per neuron."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from skilloc.plots.style import WIDE, Drawing, signed_ticks
from skilloc.plots.units import COLOURS, GAP


def bands(heights: Sequence[float]) -> tuple[Figure, list[Any]]:
    """Return a figure over two columns, cut into bands (subfigures) whose axes need not stand in line.

    Args:
        heights: of the bands, in inches.
    """
    made = Drawing(figsize=(WIDE, sum(heights)))
    parts: Any = made.subfigures(len(heights), 1, height_ratios=list(heights))
    return made, list(parts)


def effect_scatter(
    ax: Axes,
    values: Float[np.ndarray, "subtask unit"],
    *,
    colours: Sequence[str],
    large: Sequence[bool],
    linear: float,
    ends: tuple[float, float],
) -> Axes:
    """Draw the effect of each unit on each subtask, signed, against the unit's rank; one colour per subtask.

    Ranks are by a unit's largest effect on any subtask, so that a column of dots is one unit.

    Args:
        ax: where to draw.
        values: effects.
        colours: one per subtask.
        large: whether a subtask's dots are large and drawn on top.
        linear: effect within which the effects' axis is linear; shaded.
        ends: where the axis ends.
    """
    ordered = values[:, np.argsort(-values.max(axis=0), kind="stable")]
    ranks = np.arange(1, values.shape[1] + 1)
    ax.axhspan(-linear, linear, color="#eeeeee", lw=0, zorder=0)
    for s in np.argsort(large, kind="stable"):
        size, alpha = (3.6, 0.95) if large[s] else (2.4, 0.7)
        ax.plot(ranks, ordered[s], "o", color=colours[s], ms=size, mew=0, alpha=alpha)
    ax.axhline(0, color="black", lw=0.5, zorder=1)
    ax.set_yscale("symlog", linthresh=linear, linscale=0.4)
    ticks, labels = signed_ticks(linear, max(map(abs, ends)), most=4)
    ax.set_yticks(*zip(*[(t, w) for t, w in zip(ticks, labels, strict=True) if ends[0] <= t <= ends[1]], strict=True))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set(xlim=(0, len(ranks) + 1), ylim=ends, xlabel="neuron, by its largest effect")
    return ax


def effect_image(
    ax: Axes,
    values: Float[np.ndarray, "subtask unit"],
    layers: Int[np.ndarray, "unit"],
    rows: Sequence[str],
    *,
    norm: Normalize,
) -> Axes:
    """Draw effects with one row per layer and subtask and one column per unit, in the order given.

    Args:
        ax: where to draw.
        values: effects.
        layers: the layer of each unit.
        rows: what to write beside the rows of each layer.
        norm: the colour scale, see `effect_norm`.
    """
    places, present = [], np.unique(layers)
    for i, layer in enumerate(present):
        block, top = values[:, layers == layer], i * (len(rows) + GAP)
        edges = np.arange(block.shape[1] + 1)
        ax.pcolormesh(edges, top + np.arange(len(rows) + 1), block, norm=norm, cmap=colormaps[COLOURS], rasterized=True)
        places += (top + np.arange(len(rows)) + 0.5).tolist()
        middle = top + len(rows) / 2
        ax.text(
            1.01, middle, f"layer {layer}", rotation=270, va="center", fontsize=7, transform=ax.get_yaxis_transform()
        )
    ax.set_yticks(places, list(rows) * len(present), fontsize=6)
    ax.tick_params(length=0)
    ax.set_xticks([])
    ax.set(xlim=(0, max(np.bincount(layers))), ylim=(len(present) * (len(rows) + GAP) - GAP, 0))
    ax.spines[:].set_visible(False)
    return ax


def paired_dots(
    ax: Axes,
    pairs: Float[np.ndarray, "2 pair"],
    names: tuple[str, str],
    *,
    means: Sequence[Mapping[str, float]],
    chance: float,
    colours: tuple[str, str],
) -> Axes:
    """Draw pairs as thin lines from left to right, beside each end the mean with its interval, and the chance level.

    Args:
        ax: where to draw.
        pairs: the left ends, and the right ends.
        names: of left and right.
        means: `value`, `low` and `high` of the means of left and right.
        chance: a dashed line.
        colours: of left and right.
    """
    ax.plot([0, 1], pairs, color="#bbbbbb", lw=0.7, zorder=1)
    for place, (ends, colour) in enumerate(zip(pairs, colours, strict=True)):
        ax.plot(np.full(len(ends), place), ends, "o", color=colour, ms=2.6, mew=0, alpha=0.6, zorder=2)
        mean = means[place]
        beside = place + (0.3 if place else -0.3)
        ax.plot([beside, beside], [mean["low"], mean["high"]], color=colour, lw=2, solid_capstyle="butt")
        ax.plot([beside], [mean["value"]], "o", color=colour, ms=4.5, mec="white", mew=0.6)
    ax.axhline(chance, color="black", lw=0.7, ls=(0, (4, 3)), label="chance")
    ax.set_xticks([-0.4, 1.4], list(names), fontsize=6.5)
    ax.set_xlim(-0.8, 1.8)
    ax.tick_params(axis="x", length=0)
    return ax
