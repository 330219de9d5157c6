"""Are the edges that a circuit is drawn with how it works? They are claims, and tested: all others are cut.

Drawn are, of wires, so many that they keep `SHARE` of what all keep, in the order of what they lower the loss by, both
on the train split; of other edges, and of wires of which no such number keeps that much, or that together do not lower
the loss, the fewest whose |effects|, or scores, add up to `SHARE` of those of all; and `MOST` at most. What the circuit
keeps with these alone (`wired.edge_faithfulness`) stands beside what it keeps with all its edges, and with as many
random ones between the same banks. An edge that is measured along all paths says that an effect passes there, not that
it needs no other edge on its way: only this test says that.
"""

from collections.abc import Sequence
from typing import Any

import networkx as nx
import numpy as np
from jaxtyping import Float

from skilloc.circuits import graph as g
from skilloc.circuits.choosing import on_train
from skilloc.circuits.edge_gates import edge_scores, gates_on
from skilloc.circuits.edges import why_no_wires
from skilloc.circuits.gated import Gated
from skilloc.circuits.wired import Keep, edge_faithfulness
from skilloc.circuits.wires import Wiring, closed_form_holds, wiring
from skilloc.experiment import Experiment
from skilloc.experiment.threads import one_thread
from skilloc.masks import DRAWS, Mask

SHARE, MOST = 0.8, 60
"""The edges that matter: the fewest that keep, or carry, this share of what all do, and at most so many."""

SCORED = 16
"""Examples of the train split, at most, that drawn edges are chosen on."""


def strength(edge: Any, subtask: str) -> float:
    """Return what an edge is drawn by, the strongest first: its score where it has one, else |effect|."""
    if subtask in edge.get(g.SCORE, {}):
        return float(edge[g.SCORE][subtask])
    return abs(float(edge.get(g.EFFECT, {}).get(subtask, {}).get("value") or 0.0))


def few(graph: nx.DiGraph) -> int:
    """Return how many edges a circuit is drawn with, the strongest."""
    if g.DRAWN in graph.graph:
        return int(graph.graph[g.DRAWN][g.DRAWN_COUNT])
    subtask = _subtask(graph)
    sizes = np.maximum(np.sort([strength(edge, subtask) for *_, edge in graph.edges(data=True)])[::-1], 0)
    if not sizes.sum():
        return 0
    return min(MOST, int(np.searchsorted(np.cumsum(sizes) / sizes.sum(), SHARE - 1e-9)) + 1)


def _subtask(graph: nx.DiGraph) -> str:
    return str(graph.graph.get(g.SUBTASK, (graph.graph.get(g.SUBTASKS) or [""])[0]))


def _score(experiment: Experiment, circuit: Mask, graph: nx.DiGraph, inputs: Sequence[str] | None) -> None:
    """Measure what every wire lowers the loss by, and how many are to be drawn, on other examples than they are stated
    on: of the train split, or, where an experiment was given its examples, these themselves."""
    subtask = graph.graph[g.SUBTASK]
    chosen_on = on_train(experiment, min(SCORED, experiment.count)) if experiment.draws else experiment
    places = wiring(chosen_on.only(subtask), circuit, inputs=inputs)
    gates = gates_on(places)
    with one_thread():
        scores = edge_scores(gates)
        drawn = _enough(gates, scores)
    index = {ends: edge for edge, ends in enumerate(places.names)}
    for a, b, edge in graph.edges(data=True):
        edge[g.SCORE] = {subtask: g.number(float(scores[index[a, b]]))}
    if drawn is None:
        return
    apart = experiment.draws and experiment.split != "train"
    where = f"the {chosen_on.split} split" if apart else "the same examples"
    graph.graph[g.DRAWN] = {g.DRAWN_COUNT: min(drawn, graph.number_of_edges()), g.DRAWN_ON: where}


def _enough(gates: Gated, scores: Float[np.ndarray, " edge"]) -> int | None:
    """Return how many of the largest scores keep `SHARE` of what all edges keep, by bisection; at most `MOST`.

    None where all edges together do not lower the loss, so that there is nothing to keep a share of, and where none of
    the numbers tried keeps so much.
    """
    every, order = [slice(0, len(gates))], np.argsort(-scores, kind="stable")

    def loss(count: int) -> float:
        return gates.loss(np.isin(np.arange(gates.count), order[:count]).astype(float), every)

    most = min(MOST, int((scores > 0).sum()))
    floor, least = loss(0), loss(gates.count)
    if floor <= least:
        return None
    wanted = floor - SHARE * (floor - least)
    if not most or loss(most) > wanted:
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if loss(middle) <= wanted else (middle, high)
    return high


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
        graph: the circuit with its edges; gets `graph.EDGES_KEEP`, or `graph.UNTESTED`, and of wires `graph.DRAWN`.
        draws: number of random sets of edges.
        seed: of the random sets.
        inputs: names of the inputs of an `MLP`.

    Raises:
        ValueError: if holding all units costs nothing.
    """
    own = experiment.only(graph.graph[g.SUBTASK])
    why = _untested(own, circuit, graph)
    if not why:
        if any(edge[g.MEASURED] == g.WIRES for *_, edge in graph.edges(data=True)):
            _score(experiment, circuit, graph, inputs)
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


def drawn_ends(graph: nx.DiGraph) -> list[tuple[str, str]]:
    """Return source and target of the edges that a circuit is drawn with, the strongest first."""
    subtask = _subtask(graph)
    strengths = {(a, b): strength(edge, subtask) for a, b, edge in graph.edges(data=True)}
    return sorted(strengths, key=lambda ends: -strengths[ends])[: few(graph)]


def reads_inputs(graph: nx.DiGraph) -> bool:
    """Whether a path of drawn edges leads from an input to an output; true where no inputs are known."""
    kinds = nx.get_node_attributes(graph, g.KIND)
    inputs, outputs = ([name for name, kind in kinds.items() if kind == end] for end in (g.INPUT, g.OUTPUT))
    drawn = nx.DiGraph(drawn_ends(graph))
    drawn.add_nodes_from(kinds)
    return not inputs or any(nx.has_path(drawn, a, b) for a in inputs for b in outputs)


def drawn_edges(places: Wiring, graph: nx.DiGraph) -> Keep | None:
    """Return which edges a circuit is drawn with, on the axis of `places`; None if one of them is not there."""
    index, most = {ends: edge for edge, ends in enumerate(places.names)}, drawn_ends(graph)
    if not index.keys() >= set(most):
        return None
    keep = np.zeros(len(places), dtype=bool)
    keep[[index[ends] for ends in most]] = True
    return keep


def _untested(own: Experiment, circuit: Mask, graph: nx.DiGraph) -> str:
    return why_no_wires(own, int(circuit.keep.sum())) if graph.number_of_edges() else "it has no edges"
