"""What circuits share: between subtasks, between seeds, between references.

The chance level is that of random circuits with as many units on every hook. Circuits of networks that were trained
from different seeds share no more than that by their units' positions, since hidden units have no order: compare
circuits of one network, from other examples, references or subtasks.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import networkx as nx
import numpy as np
from jaxtyping import Float

from skilloc.circuits import graph as g
from skilloc.effects import Effects
from skilloc.masks import Mask
from skilloc.mistakes import WrongValue, in_share

DRAWS = 2000
"""Random pairs that a chance level is made of."""


class Overlap(NamedTuple):
    """How much pairs of circuits share, on `circuit circuit`.

    Attributes:
        names: of the circuits.
        jaccard: units in both / units in either.
        chance: the same for random circuits with as many units on every hook: mean,
        chance_low: lower end of the range of 95 % of them, and
        chance_high: upper end.
    """

    names: tuple[str, ...]
    jaccard: Float[np.ndarray, "circuit circuit"]
    chance: Float[np.ndarray, "circuit circuit"]
    chance_low: Float[np.ndarray, "circuit circuit"]
    chance_high: Float[np.ndarray, "circuit circuit"]


class Reuse(NamedTuple):
    """The part of one circuit that is in another, beside chance.

    Attributes:
        value: units in both / units in the first.
        chance: the same for a random circuit with as many units on every hook as the first: mean,
        chance_low: lower end of the range of 95 % of them, and
        chance_high: upper end.
    """

    value: float
    chance: float
    chance_low: float
    chance_high: float


def overlap(circuits: Mapping[str, Mask], *, seed: int = 0) -> Overlap:
    """Return the Jaccard index of every two circuits, beside that of random circuits of equal size on every hook.

    Raises:
        ValueError: if there is no circuit, one is empty, or they are of different units.
    """
    names = tuple(circuits)
    masks = [circuits[name] for name in names]
    _check(masks)
    shape = (len(names), len(names))
    values, chances = np.ones(shape), np.ones((3, *shape))
    for a in range(len(names)):
        for b in range(len(names)):
            if a != b:
                either = int((masks[a].keep | masks[b].keep).sum())
                values[a, b] = (masks[a].keep & masks[b].keep).sum() / either
                both = int(masks[a].keep.sum() + masks[b].keep.sum())
                # The same draws for a and b as for b and a.
                shared = _shared(masks[min(a, b)], masks[max(a, b)], seed)
                chances[:, a, b] = _mean_and_range(shared / (both - shared))
    return Overlap(names, values, *chances)


def reuse(circuit: Mask, other: Mask, *, seed: int = 0) -> Reuse:
    """Return the share of a circuit's units that are in another one, beside chance.

    Raises:
        ValueError: if one is empty, or they are of different units.
    """
    _check([circuit, other])
    size = int(circuit.keep.sum())
    chance = _mean_and_range(_shared(circuit, other, seed) / size)
    return Reuse(float((circuit.keep & other.keep).sum() / size), *map(float, chance))


def consensus(graphs: Sequence[nx.DiGraph], *, share: float = 0.5) -> nx.DiGraph:
    """Return the circuit that several runs agree on: seeds of the examples, references, of one model and subtask.

    A node or an edge is in it if it is in at least `share` of the runs, and says in how many (`share`). Its effects are
    means over the runs that have it, with 95 % intervals over these runs.

    Raises:
        ValueError: if there is no run, or they are of different subtasks, models or losses.
    """
    in_share("share", share)
    if not graphs:
        raise WrongValue("`graphs` is empty; pass at least one circuit")
    about = [(graph.graph[g.SUBTASK], graph.graph[g.MODEL]["digest"]) for graph in graphs]
    if len(set(about)) > 1:
        raise WrongValue(f"`graphs` are of {sorted(set(about))}; take a consensus of one subtask and one model")
    losses = {json.dumps(graph.graph.get(g.LOSS, g.loss_record()), sort_keys=True) for graph in graphs}
    if len(losses) > 1:
        raise WrongValue(f"`graphs` are about the losses {', '.join(sorted(losses))}; take a consensus under one loss")
    first = graphs[0].graph
    kept = {g.SUBTASK, g.SUBTASKS, g.MODEL, g.VERSION, g.LOSS}
    found = nx.DiGraph(**{name: first[name] for name in first if name in kept})
    found.graph[g.REFERENCE] = " and ".join(sorted({graph.graph[g.REFERENCE] for graph in graphs}))
    found.graph[g.CHOSEN] = f"consensus {share:g} of {len(graphs)} runs"
    found.graph[g.MADE] = {"runs": [graph.graph[g.MADE] for graph in graphs]}
    least = share * len(graphs) - 1e-9

    def merged(having: list[g.Record]) -> g.Record:
        subtasks = having[0][g.EFFECT]
        effect = {name: _over_runs([one[g.EFFECT][name]["value"] for one in having]) for name in subtasks}
        plain = {name: value for name, value in having[0].items() if name not in (g.EFFECT, g.ADDS, g.SCORE)}
        return {**plain, g.EFFECT: effect, g.SHARE: g.number(len(having) / len(graphs))}

    for name in dict.fromkeys(name for graph in graphs for name in g.in_order(graph)):
        having = [graph.nodes[name] for graph in graphs if name in graph]
        if len(having) >= least:
            found.add_node(name, **merged(having))
    for ends in dict.fromkeys(ends for graph in graphs for ends in graph.edges):
        having = [graph.edges[ends] for graph in graphs if graph.has_edge(*ends)]
        if len(having) >= least and set(ends) <= set(found):
            found.add_edge(*ends, **merged(having))
    return found


def _over_runs(values: Sequence[float]) -> g.Record:
    return g.interval_record(np.array(values, dtype=float))


def _shared(a: Mask, b: Mask, seed: int) -> Float[np.ndarray, " draw"]:
    """Draw how many units two random circuits share that have as many units as these on every hook."""
    rng = np.random.default_rng(seed)
    shared = np.zeros(DRAWS)
    for hook in a.units.hooks:
        part = a.units.span(hook)
        width, in_a, in_b = part.stop - part.start, int(a.keep[part].sum()), int(b.keep[part].sum())
        shared += rng.hypergeometric(in_a, width - in_a, in_b, DRAWS) if in_b else 0
    return shared


def _mean_and_range(values: Float[np.ndarray, " draw"]) -> Float[np.ndarray, "3"]:
    return np.array([values.mean(), *np.quantile(values, (0.025, 0.975))])


def _check(masks: Sequence[Mask]) -> None:
    if not masks:
        raise WrongValue("`circuits` is empty; pass at least one")
    for mask in masks:
        if mask.units != masks[0].units:
            raise WrongValue("`circuits` are of different units; compare circuits of one model")
        if not mask.keep.any():
            raise WrongValue("`circuits` has one without units; choose at least one unit for each")


def mask_of(graph: nx.DiGraph, effects: Effects) -> Mask:
    """Return the units of a circuit as a mask."""
    return Mask(effects.units, effects.units.named(g.units_in(graph)))
