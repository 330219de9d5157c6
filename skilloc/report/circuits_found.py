"""What circuits say: what their units keep of the skill, their strongest units and edges, what they share."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import networkx as nx

from skilloc.circuits import graph as g
from skilloc.circuits.claims import few, reads_inputs, strength
from skilloc.circuits.diagram import drawn_subtasks
from skilloc.circuits.overlap import Overlap, mask_of, overlap
from skilloc.effects import Effects
from skilloc.locality.intervals import Interval
from skilloc.report.bounds import CIRCUITS


class Kept(NamedTuple):
    """What circuits of one size keep: shares of the skill, with 95 % intervals; NaN where they were not measured."""

    size: int
    faithfulness: Interval
    random: Interval
    blind: Interval
    completeness: Interval
    completeness_random: Interval


class Strong(NamedTuple):
    """A unit or an edge of a circuit, with its effects by subtask and what it adds to the circuit."""

    name: str
    kind: str
    effect: dict[str, Interval]
    adds: Interval | None


@dataclass(frozen=True)
class CircuitFound:
    """What one circuit says.

    Attributes:
        subtask: whose circuit it is.
        called: a circuit, or only units that matter most.
        chosen: how its units were chosen.
        size: number of units.
        edges: number of edges.
        few: how many of them matter, and are drawn.
        drawn_on: of wires, the examples that these were chosen on.
        scored: whether edges are drawn by what they lower the loss on other examples than their effects are stated on.
        reads: whether a path of these leads from the inputs to the outputs.
        kinds: number of units by kind.
        unit: of effects.
        subtasks: whose effects are shown: those on which they were measured, or the first of many and its own.
        curve: what circuits keep, by size.
        wired: what the circuit keeps with only the edges it is drawn with, and with all; sizes count edges.
        untested: else why that was not measured.
        unable: where the model cannot do the subtask, how often it is right.
        each: of a consensus, what its units keep in each run, by the run and its reference.
        strongest_units: units by |effect| on the circuit's own subtask.
        strongest_edges: edges by what they are drawn by.
    """

    subtask: str
    called: str
    chosen: str
    size: int
    edges: int
    few: int
    drawn_on: str
    scored: bool
    reads: bool
    kinds: dict[str, int]
    unit: str
    subtasks: tuple[str, ...]
    curve: tuple[Kept, ...]
    wired: tuple[Kept, ...]
    untested: str
    unable: str
    strongest_units: tuple[Strong, ...]
    strongest_edges: tuple[Strong, ...]
    each: dict[str, Interval] = field(default_factory=dict)

    @property
    def kept(self) -> Kept | None:
        """What the circuit itself keeps, where that was measured."""
        return next((kept for kept in self.curve if kept.size == self.size), None)


@dataclass(frozen=True)
class CircuitsFound:
    """What circuits say, by subtask, and what they share; of very many the first, and `every` is the number of all."""

    subtasks: dict[str, CircuitFound]
    overlap: Overlap | None
    every: int = field(default=0, repr=False)


def circuits_found(
    circuits: Mapping[str, nx.DiGraph], effects: Effects | None, *, n: int = 10, every: int = 0
) -> CircuitsFound:
    """Return what circuits say, with the n strongest units and edges of each, and what they share of all units.

    Args:
        circuits: by subtask; of very many the first are taken.
        effects: whose units the circuits are of; without them nothing is said of what circuits share.
        n: number of units and edges.
        every: number of circuits that there are, where more than were read.
    """
    shared, every = None, every or len(circuits)
    circuits = dict(list(circuits.items())[:CIRCUITS])
    if effects is not None and len(circuits) > 1 and _fits(circuits, effects):
        shared = overlap({name: mask_of(graph, effects) for name, graph in circuits.items()})
    return CircuitsFound({name: circuit_found(graph, n=n) for name, graph in circuits.items()}, shared, every)


def _fits(circuits: Mapping[str, nx.DiGraph], effects: Effects) -> bool:
    known = set(effects.units.names)
    return all(g.units_in(graph) and known.issuperset(g.units_in(graph)) for graph in circuits.values())


def circuit_found(graph: nx.DiGraph, *, n: int = 10) -> CircuitFound:
    """Return what one circuit says: its size, faithfulness, strongest units and edges."""
    subtasks = tuple(graph.graph.get(g.SUBTASKS, ()))
    subtask = graph.graph.get(g.SUBTASK, subtasks[0])
    members, shown = g.units_in(graph), set(drawn_subtasks(graph))

    def strongest(entries: list[tuple[str, str, Mapping[str, Any]]]) -> tuple[Strong, ...]:
        return tuple(
            Strong(
                name,
                kind,
                {on: _interval(one) for on, one in entry.get(g.EFFECT, {}).items() if on in shown},
                _interval(entry[g.ADDS][subtask]) if subtask in entry.get(g.ADDS, {}) else None,
            )
            for name, kind, entry in sorted(entries, key=lambda one: -strength(one[2], subtask))[:n]
        )

    edges = [(f"{a} → {b}", graph.edges[a, b].get(g.MEASURED, ""), graph.edges[a, b]) for a, b in graph.edges]
    return CircuitFound(
        subtask=subtask,
        called=g.called(graph),
        chosen=str(graph.graph.get(g.CHOSEN, "")),
        size=len(members),
        edges=graph.number_of_edges(),
        few=few(graph),
        reads=reads_inputs(graph),
        scored=any(g.SCORE in edge for *_, edge in graph.edges(data=True)),
        drawn_on=graph.graph.get(g.DRAWN, {}).get(g.DRAWN_ON, ""),
        kinds=dict(Counter(graph.nodes[name][g.KIND] for name in members)),
        unit=g.unit_of(graph),
        subtasks=drawn_subtasks(graph),
        curve=tuple(_kept(one) for one in graph.graph.get(g.FAITHFULNESS) or []),
        wired=tuple(_kept(one) for one in graph.graph.get(g.EDGES_KEEP) or []),
        untested=str(graph.graph.get(g.UNTESTED, "")),
        unable=str(graph.graph.get(g.UNABLE, "")),
        strongest_units=strongest([(name, graph.nodes[name][g.KIND], graph.nodes[name]) for name in members]),
        strongest_edges=strongest(edges),
        each={f"run {one['run']} ({one['reference']})": _interval(one) for one in graph.graph.get(g.EACH, ())},
    )


def _interval(record: Mapping[str, Any], value: str = "value", ends: str = "") -> Interval:
    """Return an interval of a circuit's file; what is not there is NaN."""
    parts = (record.get(key) for key in (value, f"{ends}low", f"{ends}high"))
    return Interval(*(float("nan") if part is None else float(part) for part in parts))


def _kept(record: Mapping[str, Any]) -> Kept:
    names = ("random", "blind", "completeness", "completeness_random")
    return Kept(
        record["size"], _interval(record, "faithfulness"), *(_interval(record, name, f"{name}_") for name in names)
    )
