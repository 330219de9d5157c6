"""The circuit without script: a small SVG that stands in the page, in the page's own colours."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from skilloc.circuits import graph as names
from skilloc.plots.diagram import HEAD, INPUT, OUTPUT, WHOLE_MLP, Diagram, place, uncertain
from skilloc.report.document import escape

WIDTH, HEIGHT, MARGIN = 1000, 560, 70
SMALL, LARGE, THIN, THICK = 2.0, 9.0, 0.4, 5.0
LETTER, LINE = 6.0, 11.0
"""Room for a letter of a name, and for a line."""


def stability_of(graph: Any, order: Sequence[str]) -> Float[np.ndarray, " node"]:
    """Return the share of runs that have each node, in an order; 1 where there was one run only."""
    return np.array([graph.nodes[name].get(names.SHARE) or 1.0 for name in order])


def still(diagram: Diagram, subtask: str, *, title: str, most: int, stability: Float[np.ndarray, " node"]) -> str:
    """Return a circuit as an SVG with so many edges: effects on one subtask, red where needed, blue where harmful.

    What few runs agree on is drawn faintly.
    """
    row = diagram.subtasks.index(subtask)
    places = place(diagram)
    left, right = places[:, 0].min(), places[:, 0].max()
    x = MARGIN + (WIDTH - 2 * MARGIN) * (places[:, 0] - left) / max(right - left, 1e-9)
    y = 10 + (HEIGHT - 20) * (1 - places[:, 1])
    ends = np.isin(diagram.kinds, (INPUT, OUTPUT))
    share = _share(diagram.effects, row, ~ends)
    radii = np.where(ends, 6.0, SMALL + (LARGE - SMALL) * share)
    parts = [
        *_edges(diagram, row, x, y, most),
        *_nodes(diagram, row, np.stack([x, y, radii]), stability),
        *_labels(diagram, x, y, radii, ends),
    ]
    drawn = min(most, len(diagram.edges))
    said = f"{title}: effects on {subtask}, {drawn} of {len(diagram.edges)} edges"
    inside = "\n".join(parts)
    return (
        f'<svg class="still" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{escape(said)}</title>\n{inside}\n</svg>'
    )


def _share(values: np.ndarray, row: int, scale: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Square root of |value| over the largest of any subtask."""
    largest = float(np.nanmax(np.abs(values[:, scale]), initial=0.0)) or 1.0
    return np.asarray(np.sqrt(np.minimum(np.nan_to_num(np.abs(values[row])) / largest, 1.0)))


def _look(value: float, *, faint: bool) -> str:
    sign = "plain" if not np.isfinite(value) else "needed" if value >= 0 else "harmful"
    return f"{sign} faint" if faint else sign


def _edges(diagram: Diagram, row: int, x: np.ndarray, y: np.ndarray, most: int) -> list[str]:
    flows = np.nan_to_num(diagram.flows[row])
    widths = THIN + (THICK - THIN) * _share(diagram.flows, row)
    faint = uncertain(diagram.flows_low[row], diagram.flows_high[row])
    order = np.argsort(-diagram.strengths[row], kind="stable")[:most][::-1]
    parts = []
    for e in order[flows[order] != 0]:
        a, b = diagram.edges[e]
        bend = 0.45 * (x[b] - x[a])
        line = f"M{x[a]:.0f} {y[a]:.1f}C{x[a] + bend:.0f} {y[a]:.1f} {x[b] - bend:.0f} {y[b]:.1f} {x[b]:.0f} {y[b]:.1f}"
        parts.append(
            f'<path class="{_look(float(flows[e]), faint=bool(faint[e]))}" stroke-width="{widths[e]:.1f}" d="{line}"/>'
        )
    return parts


def _nodes(diagram: Diagram, row: int, places: np.ndarray, stability: np.ndarray) -> list[str]:
    x, y, radii = places
    faint = uncertain(diagram.low[row], diagram.high[row])
    parts = []
    for n in np.argsort(-radii, kind="stable"):
        look, r = _look(float(diagram.effects[row, n]), faint=bool(faint[n])), radii[n]
        if diagram.kinds[n] in (HEAD, WHOLE_MLP):
            shape = f'rect x="{x[n] - r:.1f}" y="{y[n] - r:.1f}" width="{2 * r:.1f}" height="{2 * r:.1f}"'
        elif diagram.kinds[n] in (INPUT, OUTPUT):
            back = x[n] - r
            shape = f'polygon points="{back:.1f},{y[n] - r:.1f} {x[n] + r:.1f},{y[n]:.1f} {back:.1f},{y[n] + r:.1f}"'
        else:
            shape = f'circle cx="{x[n]:.1f}" cy="{y[n]:.1f}" r="{r:.1f}"'
        seen = "" if stability[n] == 1 else f' opacity="{stability[n]:.2f}"'
        parts.append(f'<{shape} class="{look}"{seen}/>')
    return parts


def _labels(diagram: Diagram, x: np.ndarray, y: np.ndarray, radii: np.ndarray, ends: np.ndarray) -> list[str]:
    """Names that have room, the most important first."""
    parts: list[str] = []
    taken = np.empty((0, 4))
    for n in np.argsort(-(radii + 100 * ends), kind="stable"):
        name = diagram.names[n]
        left = diagram.kinds[n] == INPUT
        wide = LETTER * len(name)
        start = x[n] - radii[n] - 3 - wide if left else x[n] + radii[n] + 3
        box = np.array([start, y[n] - LINE / 2, start + wide, y[n] + LINE / 2])
        clash = (taken[:, 0] < box[2]) & (box[0] < taken[:, 2]) & (taken[:, 1] < box[3]) & (box[1] < taken[:, 3])
        if clash.any():
            continue
        taken = np.vstack([taken, box])
        anchor, at = ("end", start + wide) if left else ("start", start)
        parts.append(f'<text x="{at:.0f}" y="{y[n] + 3.5:.1f}" text-anchor="{anchor}">{escape(name)}</text>')
    return parts
