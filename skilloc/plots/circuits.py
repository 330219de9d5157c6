"""Layered diagrams of circuits: columns in forward order, width by effect, faint where uncertain, few labels."""

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.text import Annotation

from skilloc.mistakes import WrongValue
from skilloc.plots.diagram import HEAD, INPUT, NEURON, OUTPUT, WHOLE_MLP, Diagram, place, uncertain
from skilloc.plots.labels import Labels
from skilloc.plots.style import CONTROL, colour_of, short

POSITIVE, NEGATIVE = "#b2182b", "#2166ac"
"""Needed and harmful; the ends of the scale of `unit_map`."""

MARKERS: Mapping[str, str] = {NEURON: "o", HEAD: "s", WHOLE_MLP: "h", INPUT: ">", OUTPUT: "D"}
WORDS = {NEURON: "neuron", HEAD: "head", WHOLE_MLP: "MLP", INPUT: "input", OUTPUT: "output"}
OTHERS = "^vPXd*"
"""Markers of the other kinds of unit, in turn."""

ENDS = (INPUT, OUTPUT)
NAME_ROOM = 0.27
"""Inches from the name of a layer to the next; of layers that stand closer, not all are named."""

SMALLEST, LARGEST = 4.0, 80.0
"""Areas of the markers in square points."""

THINNEST, THICKEST = 0.25, 3.0
"""Widths of the edges in points."""

FAINT = 0.3
SHARED = 0.5
"""A unit also belongs to another subtask that needs it at least this much as the one that needs it most."""


def circuit_diagram(
    ax: Axes,
    diagram: Diagram,
    *,
    subtask: str | None = None,
    signed: bool = True,
    most_edges: int = 400,
    fontsize: float = 5.5,
) -> Axes:
    """Draw a circuit in columns, from the inputs on the left to the outputs on the right.

    A marker's area and an edge's width grow with the square root of |effect|, on a scale that all subtasks of the
    diagram share: panels of one diagram can be compared. What has 0 in its interval is faint, what is not in the
    subtask's circuit (`joint_diagram`) a grey dot without a name. Labels that would lie on another, or on a node, are
    left out when the picture is drawn.

    Args:
        ax: where to draw.
        diagram: what to draw.
        subtask: whose effects; if not given, each node and edge shows the subtask that needs it most, in its colour,
            and the ring of a node the next one that needs it at least half as much.
        signed: whether one subtask is drawn in red (needed) and blue (harmful), or else in its colour.
        most_edges: draw only the strongest, at most so many.
        fontsize: of the labels, in points.

    Raises:
        ValueError: if the subtask is unknown.
    """
    if subtask is not None and subtask not in diagram.subtasks:
        raise WrongValue(f'unknown subtask "{subtask}"; this circuit has {", ".join(diagram.subtasks)}')
    rows = None if subtask is None else diagram.subtasks.index(subtask)
    places = place(diagram)
    _draw_edges(ax, diagram, places, rows, signed=signed, most=most_edges)
    areas = _draw_nodes(ax, diagram, places, rows, signed=signed)
    _draw_labels(ax, diagram, places, areas, fontsize, absent=_absent(diagram, rows))
    _name_columns(ax, diagram, places)
    return ax


def circuit_legend(
    figure: Figure | SubFigure,
    diagram: Diagram,
    *,
    subtask: str | None = None,
    signed: bool = True,
    most_edges: int = 400,
) -> None:
    """Explain markers, colours and sizes of `circuit_diagram`, called with the same arguments, below all axes."""
    handles = [
        _dot(marker, 5.0, WORDS.get(kind, kind)) for kind, marker in _markers(diagram).items() if kind in diagram.kinds
    ]
    if subtask is None:
        handles += [Line2D([], [], color=colour_of(s), lw=2, label=name) for s, name in enumerate(diagram.subtasks)]
        if len(diagram.subtasks) > 1:
            handles.append(_dot("o", 5.0, "ring: also needed by", mfc="white", mec=CONTROL, mew=1.5))
    elif signed:
        handles.append(Line2D([], [], color=POSITIVE, lw=2, label="needed"))
        handles.append(Line2D([], [], color=NEGATIVE, lw=2, label="harmful"))
    largest = _largest(_of_units(diagram))
    for share in (1.0, 0.1):
        size = float(np.sqrt(_area(np.array(share), 1.0)))
        handles.append(_dot("o", size, f"{short(share * largest)} {diagram.unit}"))
    if len(diagram.edges):
        there = int(np.isfinite(diagram.flows).sum(axis=1).max())
        left_out = f" ({most_edges} of {there:,} edges)" if there > most_edges else ""
        label = f"edge, {short(_thickest(diagram, most_edges))} {diagram.unit}{left_out}"
        handles.append(Line2D([], [], color=CONTROL, lw=THICKEST, label=label))
    handles.append(_dot("o", 5.0, "interval contains 0", alpha=FAINT))
    if subtask is not None and any(_absent(diagram, row).any() for row in range(len(diagram.subtasks))):
        handles.append(_dot("o", float(np.sqrt(SMALLEST)), "in another circuit", alpha=FAINT))
    columns = 5 if figure.bbox.width < 8 * figure.dpi else 6
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, columnspacing=1.2)


def _dot(marker: str, size: float, label: str, **look: Any) -> Line2D:
    return Line2D(
        [], [], **{"ls": "", "marker": marker, "ms": size, "color": CONTROL, "mew": 0, "label": label, **look}
    )


def _of_units(diagram: Diagram) -> np.ndarray:
    """Effects of the units. Those of inputs may be far larger, and do not set the scale."""
    units = ~np.isin(diagram.kinds, ENDS)
    return diagram.effects[:, units]


def _largest(values: np.ndarray) -> float:
    return float(np.nanmax(np.abs(values), initial=0.0)) or 1.0


def _area(values: np.ndarray, largest: float) -> np.ndarray:
    share = np.minimum(np.abs(values) / largest, 1.0)
    return np.asarray(SMALLEST + (LARGEST - SMALLEST) * np.sqrt(share))


def _shown(values: np.ndarray, row: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The subtask whose effect each column shows, and that effect."""
    filled = np.nan_to_num(values)
    rows = np.argmax(np.abs(filled), axis=0) if row is None else np.full(filled.shape[1], row)
    return rows, filled[rows, np.arange(filled.shape[1])]


def _absent(diagram: Diagram, row: int | None) -> np.ndarray:
    """Nodes that another subtask's circuit has, and this one's has not."""
    known = np.isfinite(diagram.effects)
    return known.any(axis=0) & ~known[row] if row is not None else np.zeros(len(diagram.names), dtype=bool)


def _colours(values: np.ndarray, rows: np.ndarray, row: int | None, *, signed: bool) -> list[str]:
    if row is None or not signed:
        return [colour_of(int(s)) for s in rows]
    return [POSITIVE if value >= 0 else NEGATIVE for value in values]


def _drawn(diagram: Diagram, row: int | None, most: int) -> np.ndarray:
    """Return the edges that are drawn, the strongest last."""
    rows, values = _shown(diagram.flows, row)
    strengths = diagram.strengths[rows, np.arange(len(values))]
    kept = np.argsort(strengths, kind="stable")[-most:]
    return np.asarray(kept[(values[kept] != 0) & (strengths[kept] > 0)])


def _thickest(diagram: Diagram, most: int) -> float:
    """Return the largest effect of an edge that is drawn, for any subtask: what the thickest line stands for."""
    rows = range(len(diagram.subtasks))
    return _largest(np.concatenate([_shown(diagram.flows, row)[1][_drawn(diagram, row, most)] for row in rows]))


def _draw_edges(ax: Axes, diagram: Diagram, places: np.ndarray, row: int | None, *, signed: bool, most: int) -> None:
    rows, values = _shown(diagram.flows, row)
    across = np.arange(len(values))
    kept = _drawn(diagram, row, most)
    if not len(kept):
        return
    faint = uncertain(diagram.flows_low[rows, across], diagram.flows_high[rows, across])
    codes = [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]
    paths = []
    for a, b in diagram.edges[kept]:
        (x0, y0), (x1, y1) = places[a], places[b]
        bend = 0.45 * (x1 - x0)
        paths.append(Path([(x0, y0), (x0 + bend, y0), (x1 - bend, y1), (x1, y1)], codes))
    widths = THINNEST + (THICKEST - THINNEST) * np.sqrt(np.minimum(np.abs(values) / _thickest(diagram, most), 1))
    colours = _colours(values, rows, row, signed=signed)
    drawn = PathCollection(
        paths,
        facecolors="none",
        edgecolors=[colours[e] for e in kept],
        linewidths=widths[kept],
        alpha=np.where(faint[kept], 0.3 * FAINT, 0.5),
        zorder=1,
    )
    drawn.set_rasterized(len(kept) > 2000)
    ax.add_collection(drawn, autolim=False)


def _draw_nodes(ax: Axes, diagram: Diagram, places: np.ndarray, row: int | None, *, signed: bool) -> np.ndarray:
    """Draw the markers; return their areas."""
    rows, values = _shown(diagram.effects, row)
    across = np.arange(len(values))
    known = np.isfinite(diagram.effects).any(axis=0)
    areas = np.where(known, _area(values, _largest(_of_units(diagram))), 20.0)
    absent = _absent(diagram, row)
    faint = uncertain(diagram.low[rows, across], diagram.high[rows, across]) | absent
    plain = ~known | absent
    colours = [CONTROL if p else c for c, p in zip(_colours(values, rows, row, signed=signed), plain, strict=True)]
    rings = _rings(diagram) if row is None else ["white"] * len(values)
    order = np.argsort(-areas, kind="stable")
    for kind, marker in _markers(diagram).items():
        of_kind = [n for n in order if diagram.kinds[n] == kind]
        if not of_kind:
            continue
        fill = [(colours[n], FAINT if faint[n] else 1.0) for n in of_kind]
        look: dict[str, Any] = {"s": areas[of_kind], "marker": marker}
        x, y = places[of_kind].T
        # White below, so that edges do not show through what is faint.
        ax.scatter(x, y, c="white", linewidths=0, zorder=2, **look)
        widths = [0.4 if rings[n] == "white" else 1.2 for n in of_kind]
        ax.scatter(x, y, c=fill, edgecolors=[rings[n] for n in of_kind], linewidths=widths, zorder=3, **look)
    return areas


def _markers(diagram: Diagram) -> dict[str, str]:
    others = [kind for kind in dict.fromkeys(diagram.kinds) if kind not in MARKERS]
    return {**MARKERS, **dict(zip(others, cycle(OTHERS), strict=False))}


def _rings(diagram: Diagram) -> list[str]:
    size = np.nan_to_num(np.abs(diagram.effects))
    if len(size) < 2:
        return ["white"] * size.shape[1]
    order = np.argsort(-size, axis=0, kind="stable")
    first, second = np.take_along_axis(size, order[:2], axis=0)
    return [colour_of(int(order[1, n])) if second[n] >= SHARED * first[n] > 0 else "white" for n in range(len(first))]


def _draw_labels(
    ax: Axes, diagram: Diagram, places: np.ndarray, areas: np.ndarray, fontsize: float, *, absent: np.ndarray
) -> None:
    ends = np.isin(diagram.kinds, ENDS)
    order = np.argsort(-(areas + 1e6 * ends), kind="stable")  # inputs and outputs say what the circuit is about
    order = order[~absent[order]]
    texts = []
    for n in order:
        left = diagram.kinds[n] == INPUT
        shift = np.sqrt(areas[n]) / 2 + 1
        text = Annotation(
            diagram.names[n], tuple(places[n]), xytext=(-shift if left else shift, 0), textcoords="offset points",
            ha="right" if left else "left", va="center", fontsize=fontsize, annotation_clip=False,
            bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.2},
        )  # fmt: skip
        text.set_figure(ax.figure)
        text.axes = ax
        text.set_parse_math(False)
        texts.append(text)
    ax.add_artist(Labels(texts, places[order], areas[order], ends[order]))


def _name_columns(ax: Axes, diagram: Diagram, places: np.ndarray) -> None:
    x = places[:, 0]
    low, high = x.min() - 0.15, x.max() + 0.15
    inches = ax.get_position().width * ax.figure.bbox.width / ax.figure.dpi
    room = NAME_ROOM * (high - low) / inches
    named: dict[float, str] = {}
    kinds = np.array(diagram.kinds)
    for kind, name in ((INPUT, "in"), (OUTPUT, "out")):
        if (kinds == kind).any():
            named[float(x[kinds == kind].mean())] = name
    for layer in np.unique(diagram.layers[~np.isin(kinds, ENDS)]):
        here = diagram.layers == layer
        middle = float(x[here].min() + x[here].max()) / 2
        if all(abs(middle - other) >= room for other in named):
            named[middle] = f"L{layer}"
    ax.set_xticks(list(named), list(named.values()))
    ax.set_yticks([])
    ax.tick_params(axis="x", length=0)
    ax.spines[:].set_visible(False)
    ax.set(xlim=(low, high), ylim=(-0.02, 1.02))
