"""From chosen units to a circuit: effects, edges and faithfulness, measured on examples that did not choose them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import networkx as nx
import numpy as np
from jaxtyping import Float

from skilloc.ablation import ablation_effects
from skilloc.ablation.injection import injections
from skilloc.circuits import graph as g
from skilloc.circuits.alarms import completeness_alarms, edge_alarms, faithfulness_alarms
from skilloc.circuits.claims import claim_edges
from skilloc.circuits.edges import Edges, check_edges, edge_effects
from skilloc.circuits.faithfulness import faithfulness, minimality, sizes_up_to
from skilloc.circuits.nodes import Node, nodes_of
from skilloc.effects import Effects
from skilloc.effects.alarms import alarm_records
from skilloc.experiment import Experiment
from skilloc.masks import DRAWS, Mask, top
from skilloc.mistakes import WrongValue, a_seed, of_kind, whole

NOTHING = 1e-6
"""Edges below this in every fold and subtask, in the loss's unit, are left out: float32 losses do not show them."""

TRACED = 300
"""Edges are measured between this many units at most, those with the largest effects."""


@dataclass(frozen=True)
class Tracing:
    """How a circuit is measured.

    Attributes:
        sizes: sizes of other circuits, for the faithfulness curve; if not given, 1, 2, 4, ... up to all ranked units.
        draws: number of random circuits beside each size, and of random sets of edges beside those drawn.
        seed: of the random circuits and edges.
        paths: "wires", "total" or "direct" edges (see `edges`); if not given, wires, or where there are too many units
            for these, direct for an `MLP` and total for other models.
        edges: number of edges to keep, the largest; none are measured for 0.
        adds: whether to measure what each unit adds to the circuit; costs a run per unit.
        inputs: names of the inputs of an `MLP`.
    """

    sizes: tuple[int, ...] | None = None
    draws: int = DRAWS
    seed: int = 0
    paths: str | None = None
    edges: int = 5000
    adds: bool = True
    inputs: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for size in self.sizes or ():
            whole("sizes", size)
        whole("draws", self.draws)
        whole("edges", self.edges, 0)
        a_seed("seed", self.seed)

    def record(self) -> dict[str, Any]:
        """Return what the numbers depend on: all but names. JSON only."""
        return {name: value for name, value in asdict(self).items() if name != "inputs"}


def trace_circuit(
    experiment: Experiment,
    circuit: Mask,
    config: Tracing = Tracing(),
    *,
    subtask: str,
    chosen: str = "mask",
    ranking: Float[np.ndarray, "unit"] | Sequence[Mask] | None = None,
) -> nx.DiGraph:
    """Return a circuit as a graph (see `graph`), with everything that it says measured by one experiment.

    Args:
        experiment: what is measured on what; not on the examples that the units were chosen by.
        circuit: which units are in it.
        config: how to measure it.
        subtask: the subtask that it was chosen for.
        chosen: how the units were chosen, in words.
        ranking: what circuits of other sizes are chosen by, or these circuits; without it there are none.

    Raises:
        ValueError: if the arguments do not belong together, the circuit is empty, or edges are asked for under a loss
            that has no gradient.

    Example:
        >>> import skilloc as sk
        >>> subtasks = sk.parity_subtasks(4, atoms=2, k=2)
        >>> model = sk.MLP(6, 2, width=8, depth=3)
        >>> experiment = sk.Experiment(model, subtasks, count=64)
        >>> effects = sk.ablation_effects(experiment.on("selection"))
        >>> circuit = sk.Mask(experiment.units, sk.masks.top(effects.mean("parity_0"), 3))
        >>> graph = sk.trace_circuit(experiment, circuit, subtask="parity_0")
        >>> graph.graph["subtask"]
        'parity_0'
    """
    of_kind("experiment", experiment, Experiment, "pass Experiment(model, subtasks)")
    if not circuit.keep.any():
        raise WrongValue("`circuit` keeps no unit; choose at least one")
    paths = config.paths
    if config.edges:
        without = "trace the circuit without edges, with Tracing(edges=0) or --edges 0"
        paths, _ = check_edges(experiment, circuit.keep, paths=paths, inputs=config.inputs, cure=without)
    nodes = nodes_of(experiment.face, circuit.units, circuit.keep, config.inputs)
    rising = _rising(circuit, ranking, config.sizes)
    curve = faithfulness(experiment, rising, subtask=subtask, draws=config.draws, seed=config.seed)
    effects = ablation_effects(experiment, select=circuit.keep)
    found = None
    if config.edges:
        most = min(TRACED, int(circuit.keep.sum()))
        traced = circuit.keep & top(np.abs(effects.mean(subtask)), most)
        # Wires are those of the circuit for its own subtask; what passes in the whole model is known of all.
        about = experiment.only(subtask) if paths == g.WIRES else experiment
        found = edge_effects(about, traced, paths=paths, inputs=config.inputs)
    means = {name: g.number(float(effects.baseline[:, s].mean())) for s, name in enumerate(effects.subtasks)}
    graph = nx.DiGraph(
        **{
            g.VERSION: g.FORMAT,
            g.SUBTASK: subtask,
            g.SUBTASKS: list(effects.subtasks),
            g.MODEL: {"name": "", "digest": effects.made["model"]},
            g.REFERENCE: experiment.held.name,
            g.LOSS: g.loss_record(experiment.metric.name, experiment.metric.unit),
            g.CHOSEN: chosen,
            g.BASELINE: means,
            g.FLOOR: {subtask: g.number(float((curve.floor + curve.baseline).mean()))},
            g.FAITHFULNESS: curve.records(),
            g.MADE: {**effects.made, "method": "circuit", **config.record(), "paths": found and found.measured},
        }
    )
    _add_nodes(graph, nodes, effects, found)
    if config.adds:
        _add_minimality(graph, experiment.only(subtask), circuit)
    if found is not None:
        _add_edges(graph, found, config.edges)
        claim_edges(experiment, circuit, graph, draws=config.draws, seed=config.seed, inputs=config.inputs)
    raised = [*completeness_alarms(curve), *faithfulness_alarms(curve), *edge_alarms(found, curve, subtask)]
    if experiment.held.name != "zero":
        folded = experiment.folded
        kept = injections(experiment.model, folded.examples, experiment.units, experiment.held)
        members = {experiment.units.names[u] for u in np.flatnonzero(circuit.keep)}
        raised += [alarm for alarm in kept if alarm.about in members]
    if raised:
        graph.graph[g.MADE] = {**graph.graph[g.MADE], "alarms": alarm_records(raised)}
    idle = [name for name in graph if graph.nodes[name][g.KIND] == g.INPUT and not graph.out_degree(name)]
    graph.remove_nodes_from(idle)
    return graph


def _rising(
    circuit: Mask, ranking: Float[np.ndarray, "unit"] | Sequence[Mask] | None, sizes: Sequence[int] | None
) -> list[Mask]:
    """Return the circuit with those of other sizes, in rising order."""
    masks = {int(circuit.keep.sum()): circuit}
    if ranking is not None and not isinstance(ranking, np.ndarray):
        masks = {int(one.keep.sum()): one for one in ranking} | masks
        return [masks[size] for size in sorted(masks)]
    if ranking is None and sizes:
        raise WrongValue(f"`sizes` is {tuple(sizes)}; pass the `ranking` that these circuits are chosen by")
    if ranking is not None:
        for size in sizes_up_to(int(np.isfinite(ranking).sum())) if sizes is None else sizes:
            masks.setdefault(size, Mask(circuit.units, top(ranking, size)))
    return [masks[size] for size in sorted(masks)]


def _add_nodes(graph: nx.DiGraph, nodes: Sequence[Node], effects: Effects, found: Edges | None) -> None:
    index = {name: unit for unit, name in enumerate(effects.units.names)}
    for node in nodes:
        if node.kind == g.INPUT and found is None:
            continue
        if node.kind == g.OUTPUT:
            effect: g.Record = {}
        elif node.kind == g.INPUT:
            assert found is not None
            effect = g.effect_record(found.inputs[:, :, node.position], found.subtasks)
        else:
            effect = g.effect_record(effects.values[:, :, index[node.name]], effects.subtasks)
        attributes = {g.KIND: node.kind, g.LAYER: node.layer, g.COLUMN: node.column, g.EFFECT: effect}
        graph.add_node(node.name, **attributes, **{g.HOOK: node.hook, g.POSITION: node.position})


def _add_minimality(graph: nx.DiGraph, own: Experiment, circuit: Mask) -> None:
    found = minimality(own, circuit)
    for place, unit in enumerate(np.flatnonzero(circuit.keep)):
        record = g.effect_record(found[:, :, place], tuple(own.subtasks))
        graph.nodes[circuit.units.names[unit]][g.ADDS] = record


def _add_edges(graph: nx.DiGraph, found: Edges, most: int) -> None:
    sizes = np.abs(found.values.mean(axis=0)).max(axis=0)
    there = (np.abs(found.values) > NOTHING).any(axis=(0, 1))
    strongest = np.argsort(-np.where(there, sizes, -1.0), axis=None, kind="stable")[: min(most, int(there.sum()))]
    for place in np.sort(strongest):
        a, b = divmod(int(place), len(found.nodes))
        effect = g.effect_record(found.values[:, :, a, b], found.subtasks)
        attributes: g.Record = {g.EFFECT: effect, g.MEASURED: found.measured}
        if found.weights is not None and found.nodes[b].layer == found.nodes[a].layer + 1:
            attributes[g.WEIGHT] = g.number(float(found.weights[a, b]))
        graph.add_edge(found.nodes[a].name, found.nodes[b].name, **attributes)
