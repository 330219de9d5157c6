"""A whole MLP as a drawing of its weights, as in Figure 3 of arXiv 2505.15811: before and after localizing."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize

from skilloc.mistakes import WrongValue
from skilloc.plots.style import CONTROL
from skilloc.plots.units import COLOURS

THINNEST, THICKEST = 0.15, 1.6
"""Widths of the edges in points."""

LABELLED = 40
"""Inputs or outputs in a column that still have names."""


def mlp_network(
    ax: Axes,
    weights: Sequence[Float[np.ndarray, "_to _from"]],
    *,
    threshold: float,
    largest: float | None = None,
    alive: Sequence[Bool[np.ndarray, "_unit"]] | None = None,
    ends: tuple[Sequence[str], Sequence[str]] = ((), ()),
) -> Axes:
    """Draw a column of units per layer and a line for every weight with |w| above a threshold, the strongest on top.

    Width, colour (red positive, blue negative) and opacity grow with |w|. A hidden unit without a line on one of its
    sides carries nothing and is hollow; so is an input without a line.

    Args:
        ax: where to draw.
        weights: of each linear layer, on `to from`, in forward order.
        threshold: no line for |w| up to this.
        largest: |w| of the end of the scale; the largest of these weights if not given. Pass one for panels side by
            side.
        alive: which units of each hidden layer carry something, if that is known better, as after a mask.
        ends: names of the inputs, and of the outputs.

    Raises:
        ValueError: if the layers do not fit each other, or `alive` does not fit them.
    """
    widths = [weights[0].shape[1], *(w.shape[0] for w in weights)]
    for i, w in enumerate(weights):
        if w.shape[1] != widths[i]:
            raise WrongValue(
                f"`weights` {i} has shape {w.shape} after a layer of {widths[i]} units; pass them on `to from`, in "
                "forward order"
            )
    if alive is None:
        alive = [_carrying(before, after, threshold) for before, after in pairwise(weights)]
    if [len(units) for units in alive] != widths[1:-1]:
        raise WrongValue(f"`alive` has {[len(units) for units in alive]} units; the hidden layers have {widths[1:-1]}")
    scale = largest or max(float(np.abs(w).max()) for w in weights) or 1.0
    for i, w in enumerate(weights):
        _lines(ax, w, i, threshold, scale)
    everything = [(np.abs(weights[0]) > threshold).any(axis=0), *alive, np.ones(widths[-1], bool)]
    for i, shown in enumerate(everything):
        _units(ax, i, shown)
    for i, names in zip((0, len(weights)), ends, strict=True):
        _names(ax, i, names, left=i == 0)
    ax.set_xticks(range(len(widths)), [_title(i, len(weights), units) for i, units in enumerate(everything)])
    ax.set_yticks([])
    ax.tick_params(axis="x", length=0)
    ax.spines[:].set_visible(False)
    ax.set(xlim=(-0.08, len(weights) + 0.08), ylim=(0, 1))
    return ax


def _carrying(before: np.ndarray, after: np.ndarray, threshold: float) -> np.ndarray:
    return np.asarray((np.abs(before) > threshold).any(axis=1) & (np.abs(after) > threshold).any(axis=0))


def _title(i: int, last: int, shown: np.ndarray) -> str:
    if i in (0, last):
        return f"{len(shown)} {'inputs' if i == 0 else 'outputs'}"
    return f"{int(shown.sum())} of {len(shown)}"


def _heights(n: int) -> np.ndarray:
    return 1 - (np.arange(n) + 0.5) / n


def _lines(ax: Axes, weights: np.ndarray, column: int, threshold: float, largest: float) -> None:
    to, source = np.nonzero(np.abs(weights) > threshold)
    values = weights[to, source]
    order = np.argsort(np.abs(values), kind="stable")
    to, source, values = to[order], source[order], values[order]
    ends = np.stack(
        [
            np.column_stack([np.full(len(to), float(column)), _heights(weights.shape[1])[source]]),
            np.column_stack([np.full(len(to), column + 1.0), _heights(weights.shape[0])[to]]),
        ],
        axis=1,
    )
    share = np.minimum(np.abs(values) / largest, 1.0)
    colours = colormaps[COLOURS](Normalize(-largest, largest)(values))
    colours[:, 3] = 0.15 + 0.85 * share
    lines = LineCollection(list(ends), colors=colours, linewidths=THINNEST + (THICKEST - THINNEST) * share, zorder=1)
    lines.set_rasterized(len(values) > 2000)  # an SVG of every line would not open
    ax.add_collection(lines, autolim=False)


def _units(ax: Axes, column: int, shown: np.ndarray) -> None:
    heights = _heights(len(shown))
    size = float(np.clip(160 / len(shown), 1.2, 4.5))
    for units, fill in ((~shown, "white"), (shown, "black")):
        x = np.full(int(units.sum()), float(column))
        mew = min(0.5, size / 6)
        ax.plot(x, heights[units], "o", ms=size, mfc=fill, mec=CONTROL if fill == "white" else fill, mew=mew, zorder=3)


def _names(ax: Axes, column: int, names: Sequence[str], *, left: bool) -> None:
    if len(names) > LABELLED:
        return
    for height, name in zip(_heights(len(names)), names, strict=True):
        ax.annotate(
            name, (column, height), xytext=(-4 if left else 4, 0), textcoords="offset points",
            ha="right" if left else "left", va="center", fontsize=min(6.0, 170 / len(names)), annotation_clip=False,
        ).set_parse_math(False)  # fmt: skip
