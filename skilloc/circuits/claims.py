"""Are the edges that a circuit is drawn with how it works? They are claims, and tested: all others are cut.

Drawn are the fewest edges whose |effects| add up to `SHARE` of those of all, `MOST` at most. What the circuit keeps
with these alone (`wired.edge_faithfulness`) stands beside what it keeps with all its edges, and with as many random
ones between the same banks. An edge that is measured along all paths says that an effect passes there, not that it
needs no other edge on its way: only this test says that.
"""

from collections.abc import Sequence

import networkx as nx
import numpy as np
from jaxtyping import Float

from skilloc.circuits import graph as g
from skilloc.circuits.wired import Keep, edge_faithfulness
from skilloc.circuits.wires import Wiring, closed_form_holds, unwired, wiring
from skilloc.experiment import Experiment
from skilloc.masks import DRAWS, Mask

SHARE, MOST = 0.8, 60
"""The edges that matter: the fewest whose |effect| adds up to this share of that of all, and at most so many."""

TESTED = 100
"""Edges are tested in circuits of at most this many units, where that takes a run per unit and set of edges."""


def few(flows: Float[np.ndarray, " edge"]) -> int:
    """Return how many of the largest |flows| add up to the share `SHARE` of all, at most `MOST`."""
    sizes = np.sort(np.abs(np.nan_to_num(flows)))[::-1]
    if not sizes.sum():
        return 0
    return min(MOST, int(np.searchsorted(np.cumsum(sizes) / sizes.sum(), SHARE - 1e-9)) + 1)


def claim_edges(
    experiment: Experiment,
    circuit: Mask,
    graph: nx.DiGraph,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    inputs: Sequence[str] | None = None,
) -> None:
    """Measure what a circuit keeps with only its drawn edges, and with all, and add it to its graph; or say why not.

    Args:
        experiment: what is measured on what; not on the examples that the units were chosen by.
        circuit: the circuit's units.
        graph: the circuit with its edges; gets `graph.EDGES_KEEP`, or `graph.UNTESTED`.
        draws: number of random sets of edges.
        seed: of the random sets.
        inputs: names of the inputs of an `MLP`.

    Raises:
        ValueError: if holding all units costs nothing.
    """
    own = experiment.only(graph.graph[g.SUBTASK])
    why = _untested(own, circuit, graph)
    if not why:
        places = wiring(own, circuit, inputs=inputs)
        drawn = drawn_edges(places, graph)
        if drawn is None:
            why = "some of its edges run past the units between, which no wire does; direct edges can be tested"
        else:
            sets = [drawn] if drawn.all() else [drawn, np.ones_like(drawn)]
            rest = closed_form_holds(own)
            graph.graph[g.EDGES_KEEP] = edge_faithfulness(places, sets, draws=draws, seed=seed, rest=rest).records()
    if why:
        graph.graph[g.UNTESTED] = why


def drawn_edges(places: Wiring, graph: nx.DiGraph) -> Keep | None:
    """Return which edges a circuit is drawn with, on the axis of `places`; None if one of them is not there."""
    subtask, index = graph.graph[g.SUBTASK], {ends: edge for edge, ends in enumerate(places.names)}
    flows = {(a, b): edge[g.EFFECT][subtask]["value"] or 0.0 for a, b, edge in graph.edges(data=True)}
    strongest = sorted(flows, key=lambda ends: -abs(flows[ends]))
    most = strongest[: few(np.array(list(flows.values())))]
    if not index.keys() >= set(most):
        return None
    keep = np.zeros(len(places), dtype=bool)
    keep[[index[ends] for ends in most]] = True
    return keep


def _untested(own: Experiment, circuit: Mask, graph: nx.DiGraph) -> str:
    size = int(circuit.keep.sum())
    if not graph.number_of_edges():
        return "it has no edges"
    if why := unwired(own):
        return why
    if size > TESTED and not closed_form_holds(own):
        return f"it has {size:,} units, and that takes a run per unit and set of edges: {TESTED} units at most"
    return ""
