"""Circuits as layered diagrams, one for each and all of them side by side, as files."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from skilloc import plots
from skilloc.circuits.claims import few
from skilloc.circuits.diagram import joint_diagram
from skilloc.circuits.graph import CHOSEN, CIRCUIT, REFERENCE, called, file_of, why_none
from skilloc.report.pictures import DATES, PANELS, save_figure

TITLE, TITLE_ALONE = 45, 75
"""Letters in a line of the title of a circuit."""


def draw_circuits(circuits: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw each circuit as a layered diagram with the edges that matter (`claims.few`), and of several one figure with
    the first side by side on one layout.

    Args:
        circuits: graphs by subtask, as `tracing.trace_study` returns them.
        folder: gets NAME.png for each, and `circuits.png` for all of them.

    Returns:
        The PNG files, that of all last; an SVG and a PDF lie beside each.
    """
    paths = []
    with plots.style():
        for name, graph in circuits.items():
            paths.append(save_figure(_circuits({name: graph}), folder / file_of(folder, name).stem, tuple(DATES)))
        if len(circuits) > 1:
            paths.append(save_figure(_circuits(circuits), folder / "circuits", tuple(DATES)))
    return paths


def _circuits(circuits: Mapping[str, Any]) -> Any:
    """At most three panels beside each other, so high that the nodes of the fullest column are apart."""
    names = list(circuits)[:PANELS]
    diagram = _few_edges(joint_diagram({name: circuits[name] for name in names}), circuits)
    across = min(len(names), 3)
    down = -(-len(names) // across)
    height = float(np.clip(0.13 * np.bincount(diagram.columns).max(), 2.6, 5.5))
    titles = _titles({name: circuits[name] for name in names})
    figure, axes = plots.figure(
        down, across, width=max(plots.WIDE, 4.2 * across), height=0.7 + height * down, squeeze=False
    )
    for ax, name in zip(axes.flat, names, strict=False):
        plots.circuit_diagram(ax, diagram, subtask=name, most_edges=len(diagram.edges))
        ax.set_title(titles[name])
    for ax in axes.flat[len(names) :]:
        ax.remove()
    plots.circuit_legend(figure, diagram, subtask=names[0], most_edges=len(diagram.edges))
    return figure


def _few_edges(diagram: Any, circuits: Mapping[str, Any]) -> Any:
    """Leave each circuit the strengths of the few edges that it is drawn with: no other is drawn or sets the scale."""
    strengths = np.zeros_like(diagram.strengths)
    for row, name in enumerate(diagram.subtasks):
        kept = np.argsort(diagram.strengths[row], kind="stable")[diagram.strengths.shape[1] - few(circuits[name]) :]
        strengths[row, kept] = diagram.strengths[row, kept]
    return diagram._replace(strengths=strengths)


def _titles(circuits: Mapping[str, Any]) -> dict[str, str]:
    """What each panel is called, in lines that it has room for, and all in as many lines."""
    lines, width = {}, TITLE if len(circuits) > 1 else TITLE_ALONE
    for name, graph in circuits.items():
        about, what = graph.graph, called(graph)
        reason = [] if what == CIRCUIT else [f"{what}, {why_none(graph)}"]
        edges = [f"{few(graph):,} of {graph.number_of_edges():,} edges"] if graph.number_of_edges() else []
        told = [f"{name}: {about[CHOSEN]}, reference {about[REFERENCE]}", *edges, *reason]
        lines[name] = [part for line in told for part in textwrap.wrap(line, width)]
    most = max(map(len, lines.values()))
    return {name: "\n".join([*own, *[""] * (most - len(own))]) for name, own in lines.items()}
