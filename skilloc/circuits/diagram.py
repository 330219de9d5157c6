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


def diagram_of(graph: Any) -> Diagram:
    """Return a circuit, as `skilloc.circuits` makes it, as arrays.

    Raises:
        ValueError: if the graph has no nodes, or names no subtasks.
    """
    subtasks = tuple(graph.graph.get(names.SUBTASKS, ()))
    if not len(graph) or not subtasks:
        raise WrongValue(f"`graph` has {len(graph)} nodes and {len(subtasks)} subtasks; pass a circuit with at least 1")
    order = names.in_order(graph)
    place = {name: i for i, name in enumerate(order)}
    edges = sorted((place[a], place[b]) for a, b in graph.edges)
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
