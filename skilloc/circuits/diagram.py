"""Circuits as arrays, to be drawn."""

from collections.abc import Mapping, Sequence
from typing import Any

import networkx as nx
import numpy as np
from jaxtyping import Float

from skilloc.circuits import graph as names
from skilloc.circuits.claims import strength
from skilloc.mistakes import WrongValue
from skilloc.plots import Diagram

UNITS, EDGES, SUBTASKS = 1000, 5000, 12
"""What is drawn of a circuit, at most: the units and edges strongest on its own subtask (`claims.strength`), and
effects on its own and the first other subtasks."""


def drawn_subtasks(graph: nx.DiGraph) -> tuple[str, ...]:
    """Return the subtasks whose effects are drawn: all, or the first, its own among them."""
    every = tuple(graph.graph.get(names.SUBTASKS, ()))
    own = graph.graph.get(names.SUBTASK)
    if len(every) <= SUBTASKS:
        return every
    return every[:SUBTASKS] if own not in every[SUBTASKS:] else (*every[: SUBTASKS - 1], own)


def diagram_of(graph: Any) -> Diagram:
    """Return a circuit, as `skilloc.circuits` makes it, as arrays; of a large one, the strongest units and edges.

    Raises:
        ValueError: if the graph has no nodes, or names no subtasks.
    """
    subtasks = drawn_subtasks(graph)
    if not len(graph) or not subtasks:
        raise WrongValue(f"`graph` has {len(graph)} nodes and {len(subtasks)} subtasks; pass a circuit with at least 1")
    order = _strongest(graph, subtasks)
    place = {name: i for i, name in enumerate(order)}
    between = [(a, b) for a, b in graph.edges if a in place and b in place]
    if len(between) > EDGES:
        between = sorted(between, key=lambda ends: -_strength(graph.edges[ends], _judged(graph, subtasks)))[:EDGES]
    edges = sorted((place[a], place[b]) for a, b in between)
    nodes = [graph.nodes[name] for name in order]
    flows = [graph.edges[order[a], order[b]] for a, b in edges]
    strengths = [[strength(edge, name) for edge in flows] for name in subtasks]
    return Diagram(
        names=tuple(order),
        kinds=tuple(node[names.KIND] for node in nodes),
        layers=np.array([node[names.LAYER] for node in nodes], dtype=np.int64),
        columns=np.array([node[names.COLUMN] for node in nodes], dtype=np.int64),
        effects=_ends(nodes, subtasks, "value"),
        low=_ends(nodes, subtasks, "low"),
        high=_ends(nodes, subtasks, "high"),
        edges=np.array(edges, dtype=np.int64).reshape(-1, 2),
        flows=_ends(flows, subtasks, "value"),
        flows_low=_ends(flows, subtasks, "low"),
        flows_high=_ends(flows, subtasks, "high"),
        strengths=np.array(strengths).reshape(len(subtasks), len(edges)),
        subtasks=subtasks,
        unit=names.unit_of(graph),
    )


def _judged(graph: nx.DiGraph, subtasks: Sequence[str]) -> Sequence[str]:
    """Return the subtasks on which the strength of a unit or edge is judged: the circuit's own; of a joint one, all."""
    own = graph.graph.get(names.SUBTASK)
    return subtasks if own is None else (own,)


def _strength(entry: Mapping[str, Any], subtasks: Sequence[str]) -> float:
    return max(strength(entry, name) for name in subtasks)


def _strongest(graph: nx.DiGraph, subtasks: Sequence[str]) -> list[str]:
    """Return inputs, outputs and the strongest units, in forward order."""
    order, members = names.in_order(graph), names.units_in(graph)
    if len(members) <= UNITS:
        return order
    judged = _judged(graph, subtasks)
    weak = set(sorted(members, key=lambda name: -_strength(graph.nodes[name], judged))[UNITS:])
    return [name for name in order if name not in weak]


def joint_diagram(circuits: Mapping[str, Any]) -> Diagram:
    """Return several circuits of one model as one diagram, to be drawn side by side on one layout.

    It has the nodes and edges of all. The effects of a subtask are those that its own circuit states; of nodes and
    edges that are not in that circuit they are NaN.

    Args:
        circuits: graphs as `skilloc.circuits` makes them, by name; the names become the subtasks.

    Raises:
        ValueError: if there is none, or none has a node.
    """
    first = next(iter(circuits.values()), nx.DiGraph())
    joint = nx.DiGraph(**{names.SUBTASKS: list(circuits), names.LOSS: first.graph.get(names.LOSS, names.loss_record())})
    for name, graph in circuits.items():
        own = graph.graph[names.SUBTASK]
        for node, found in graph.nodes.items():
            if node not in joint:
                joint.add_node(node, **{**found, names.EFFECT: {}})
            joint.nodes[node][names.EFFECT][name] = found[names.EFFECT].get(own, {})
        for ends, found in graph.edges.items():
            if not joint.has_edge(*ends):
                joint.add_edge(*ends, **{names.EFFECT: {}, names.SCORE: {}})
            joint.edges[ends][names.EFFECT][name] = found[names.EFFECT].get(own, {})
            if own in found.get(names.SCORE, {}):
                joint.edges[ends][names.SCORE][name] = found[names.SCORE][own]
    return diagram_of(joint)


def _ends(holders: Sequence[Any], subtasks: Sequence[str], end: str) -> Float[np.ndarray, "subtask holder"]:
    found = [[holder.get(names.EFFECT, {}).get(name, {}).get(end) for holder in holders] for name in subtasks]
    return np.array([[np.nan if value is None else value for value in row] for row in found], dtype=float)
