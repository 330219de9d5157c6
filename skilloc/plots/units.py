"""Which units each subtask needs: units × subtasks, with layers as blocks of rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, SymLogNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FixedLocator, NullLocator

from skilloc.plots.style import colour_of, signed_ticks

GAP = 0.35
"""Space between the blocks of two layers, in rows."""

COLOURS = "RdBu_r"

SINGLE, BINS = 24, 24
"""That many columns hold one unit each, and at most so many more hold the rest of a layer."""


def effect_norm(values: Float[np.ndarray, "*axes"], *, noise: float) -> Normalize:
    """Return the colour scale of effects: symmetric about 0, linear within the noise, logarithmic beyond.

    Args:
        values: all effects that will be shown.
        noise: what cannot be told from 0.
    """
    largest = float(np.nanmax(np.abs(values), initial=0.0))
    linear = min(max(noise, largest * 1e-4), largest / 10) or 1.0
    return SymLogNorm(linear, linscale=0.5, vmin=-(largest or 1.0), vmax=largest or 1.0)


def unit_map(
    ax: Axes,
    values: Float[np.ndarray, "subtask unit"],
    layers: Int[np.ndarray, "unit"],
    *,
    norm: Normalize,
    ordered: bool = True,
    bars: bool = True,
) -> Axes:
    """Draw effects with one row per layer and subtask, the rows of a layer in a block, and one column per unit.

    A column of a block is one unit, so a unit that several subtasks need shows as a vertical bar. With `ordered`, a
    layer's units stand in the order of their largest |effect| on any subtask; the first 24 have a column each, the
    rest share columns that grow, which show means. Otherwise units stand in their own order, one column each.

    Args:
        ax: where to draw.
        values: effects, units of one kind; NaN (grey) where not measured.
        layers: the layer of each unit.
        norm: the colour scale, see `effect_norm`.
        ordered: whether to sort and bin the units of a layer.
        bars: whether a bar in its subtask's colour stands before each row.
    """
    blocks = [values[:, layers == layer] for layer in np.unique(layers)]
    widest = max(block.shape[1] for block in blocks)
    edges = _edges(widest) if ordered else np.arange(widest + 1)
    rows = len(values)
    colours = colormaps[COLOURS].with_extremes(bad="#e8e8e8")
    for i, block in enumerate(blocks):
        drawn = _columns(block, edges, ordered=ordered)
        top = i * (rows + GAP)
        places = top + np.arange(rows + 1)
        ax.pcolormesh(np.arange(len(edges)), places, drawn, norm=norm, cmap=colours, edgecolors="none", rasterized=True)
        for s in range(rows if bars else 0):
            ax.plot([-0.012] * 2, [top + s + 0.08, top + s + 0.92], color=colour_of(s), lw=2.5, clip_on=False,
                    transform=ax.get_yaxis_transform(), solid_capstyle="butt")  # fmt: skip
    ax.set_ylim(len(blocks) * (rows + GAP) - GAP, 0)
    ax.set_xlim(0, len(edges) - 1)
    step = max(1, int(np.ceil(len(blocks) / 16)))
    shown = range(0, len(blocks), step)
    ax.yaxis.set_major_locator(FixedLocator([i * (rows + GAP) + rows / 2 for i in shown]))
    ax.set_yticklabels([f"L{np.unique(layers)[i]}" for i in shown])
    ax.tick_params(axis="y", length=0, pad=8)
    ax.yaxis.set_minor_locator(NullLocator())
    _label_columns(ax, edges, ordered=ordered)
    ax.spines[:].set_visible(False)
    return ax


def _edges(width: int) -> Int[np.ndarray, " edge"]:
    """Column edges on the axis of ranks: one unit each, then ever more."""
    if width <= SINGLE + BINS:
        return np.arange(width + 1)
    return np.unique(np.concatenate([np.arange(SINGLE), np.geomspace(SINGLE, width, BINS + 1).round().astype(int)]))


def _columns(
    block: Float[np.ndarray, "subtask unit"], edges: np.ndarray, *, ordered: bool
) -> np.ma.MaskedArray[Any, Any]:
    if ordered:
        size = np.nan_to_num(np.abs(block), nan=-1.0).max(axis=0)
        block = block[:, np.argsort(-size, kind="stable")]
    padded = np.full((len(block), edges[-1]), np.nan)
    padded[:, : block.shape[1]] = block
    counts = np.add.reduceat(np.isfinite(padded), edges[:-1], axis=1)
    sums = np.add.reduceat(np.nan_to_num(padded), edges[:-1], axis=1)
    return np.ma.masked_invalid(sums / np.where(counts > 0, counts, np.nan))


def _label_columns(ax: Axes, edges: np.ndarray, *, ordered: bool) -> None:
    if not ordered:
        ax.set_xticks(np.arange(len(edges) - 1) + 0.5, [str(e) for e in edges[:-1]])
        ax.tick_params(axis="x", length=0)
        return
    ranks = [r for r in (1, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000) if r <= edges[-1]]
    places = [int(np.searchsorted(edges, r, side="left")) - 0.5 for r in ranks]
    ax.set_xticks(places, [f"{r:,}" for r in ranks])


def position_map(
    ax: Axes,
    values: Float[np.ndarray, "unit position"],
    units: Sequence[str],
    positions: Sequence[str],
    *,
    norm: Normalize,
) -> Axes:
    """Draw effects with one row per unit and one column per position.

    Args:
        ax: where to draw.
        values: the effect of holding the unit at that position only.
        units: names of the rows.
        positions: names of the columns.
        norm: the colour scale, see `effect_norm`.
    """
    colours = colormaps[COLOURS].with_extremes(bad="#e8e8e8")
    ax.imshow(np.ma.masked_invalid(values), norm=norm, cmap=colours, aspect="auto", interpolation="nearest")
    ax.set_yticks(range(len(units)), units)
    step = max(1, -(-len(positions) // 16))
    numbers = all(name.isdecimal() for name in positions)
    ax.set_xticks(range(0, len(positions), step), positions[::step], rotation=0 if numbers else 45)
    ax.set_xlabel("position")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def colour_bar(figure: Figure | SubFigure, axes: Sequence[Axes], *, norm: Normalize, label: str) -> None:
    """Draw the colour scale beside some axes."""
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(ScalarMappable(norm, COLOURS), ax=list(axes), pad=0.015, aspect=30, fraction=0.05)
    bar.set_label(label)
    bar.outline.set_visible(False)
    ticks, labels = signed_ticks(float(getattr(norm, "linthresh", 1.0)), float(norm.vmax or 1.0), most=4)
    bar.set_ticks(ticks, labels=labels)
    bar.ax.minorticks_off()
