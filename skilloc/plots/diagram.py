"""A circuit as arrays, and where its nodes stand: what the drawings and the page are both made from."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

NEURON, HEAD, INPUT, OUTPUT, WHOLE_MLP = "neuron", "head", "input", "output", "mlp"
"""Kinds of node that are drawn in a way of their own."""

SWEEPS = 12
"""Passes of the ordering; it settles after fewer."""

TALLEST = 40
"""Nodes above each other; a column with more is staggered over several lanes."""

GOLDEN = (np.sqrt(5) - 1) / 2
"""Columns are shifted by multiples of it, so that no two are alike."""

LANE, GAP = 0.22, 1.0
"""Distance between the lanes of a column and between columns."""


class Diagram(NamedTuple):
    """A circuit as arrays. An end of an interval that is not known is NaN.

    Attributes:
        names: of the nodes, in forward order.
        kinds: "neuron", "head", "input", "output" or "mlp", on the node axis.
        layers: of the model; -1 for inputs, on the node axis.
        columns: place in forward order, on the node axis.
        effects: loss without the node minus loss with it; NaN where there is none (outputs).
        low: lower ends of their intervals.
        high: upper ends.
        edges: source and target, as places on the node axis.
        flows: effect of each edge: how much the source lowers the loss through the target.
        flows_low: lower ends of their intervals.
        flows_high: upper ends.
        strengths: what edges are drawn by, the strongest first.
        subtasks: names on the subtask axis.
        unit: of the loss that effects are in.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    layers: Int[np.ndarray, "node"]
    columns: Int[np.ndarray, "node"]
    effects: Float[np.ndarray, "subtask node"]
    low: Float[np.ndarray, "subtask node"]
    high: Float[np.ndarray, "subtask node"]
    edges: Int[np.ndarray, "edge 2"]
    flows: Float[np.ndarray, "subtask edge"]
    flows_low: Float[np.ndarray, "subtask edge"]
    flows_high: Float[np.ndarray, "subtask edge"]
    strengths: Float[np.ndarray, "subtask edge"]
    subtasks: tuple[str, ...]
    unit: str = "nats"


def uncertain(low: Float[np.ndarray, "*axes"], high: Float[np.ndarray, "*axes"]) -> Any:
    """Return True where an interval contains 0; one that is not known counts as certain."""
    return (low <= 0) & (high >= 0)


def place(diagram: Diagram) -> Float[np.ndarray, "node 2"]:
    """Return where each node stands: x by column, y from 0 (below) to 1.

    Inputs and outputs keep their order. Units are ordered so that few edges cross: each moves to the mean height of
    its neighbours, weighted by the edges' largest |effect|, to and fro over the columns. A column of more than 40 is
    staggered over several lanes. Neighbouring columns are shifted a little against each other, so that edges do not
    pass through the units between.
    """
    columns = [np.flatnonzero(diagram.columns == column) for column in np.unique(diagram.columns)]
    weights = np.nan_to_num(np.abs(diagram.flows)).max(axis=0, initial=0.0) + 1e-12
    heights = np.zeros(len(diagram.names))
    for members in columns:
        heights[members] = _even(len(members))
    free = [members for members in columns if diagram.kinds[members[0]] not in (INPUT, OUTPUT)]
    ordered = list(enumerate(free))
    for sweep in range(SWEEPS):
        for i, members in ordered if sweep % 2 == 0 else ordered[::-1]:
            wanted = _mean_heights(diagram.edges, weights, heights)[members]
            order = np.argsort(-np.where(np.isfinite(wanted), wanted, heights[members]), kind="stable")
            heights[members[order]] = _even(len(members), (i * GOLDEN % 1 - 0.5) / 2)
    places = np.empty((len(heights), 2))
    places[:, 1] = heights
    x, outer = 0.0, max(GAP, len(columns) / 16)  # inputs and outputs keep away, also where columns are narrow
    for i, members in enumerate(columns):
        lanes = -(-len(members) // TALLEST)
        rank = np.argsort(np.argsort(-heights[members], kind="stable"), kind="stable")
        places[members, 0] = x + LANE * (rank % lanes)
        x += LANE * (lanes - 1) + (outer if i in (0, len(columns) - 2) else GAP)
    return places


def _even(n: int, shift: float = 0.0) -> Float[np.ndarray, " n"]:
    """Heights of n nodes, from the top down, shifted by a part of their distance."""
    return 1 - (np.arange(n) + 0.5 + shift) / n


def _mean_heights(
    edges: Int[np.ndarray, "edge 2"], weights: Float[np.ndarray, " edge"], heights: Float[np.ndarray, " node"]
) -> Float[np.ndarray, " node"]:
    total, mass = np.zeros_like(heights), np.zeros_like(heights)
    for here, there in ((0, 1), (1, 0)):
        np.add.at(total, edges[:, here], weights * heights[edges[:, there]])
        np.add.at(mass, edges[:, here], weights)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / mass)
