"""Circuits of the corpora in a language model: which units carry them, and whether so few are the skill."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skilloc.store import Labelled


@dataclass(frozen=True)
class CorpusCircuits:
    """The spec of one cell: a model, how its effects are measured, and how circuits are traced from them."""

    model: str = "embedded"
    """any name that `open_model` knows"""
    sources: tuple[str, ...] = ("python", "cpp", "english")
    """where texts come from, one subtask each"""
    method: str = "ablation"
    """ablation measures every neuron and head; two-stage attributes all, with curvature, and measures the top"""
    ranked: int = 40
    """of an estimate: units per subtask that are measured, the largest"""
    curvature: int = 8
    """of an estimate: label draws for the curvature"""
    sequences: int = 8
    """examples per subtask, on either split"""
    length: int = 96
    """tokens per example"""
    folds: int = 8
    """disjoint parts of the examples"""
    top: int = 40
    """units of a circuit"""
    sizes: tuple[int, ...] = (10, 160, 640)
    """other numbers of units, for the curve of what circuits keep"""
    draws: int = 3
    """random circuits beside each"""
    edges: int = 250
    """edges of a circuit that the result keeps, the strongest"""
    seed: int = 0
    """of the examples and of the random circuits"""
    device: str = "cpu"
    """where the model runs"""


def measure_circuits(spec: Mapping[str, Any]) -> "tuple[dict[str, Any], dict[str, Labelled]]":
    """Measure the effects of all neurons and heads on some corpora, and trace the circuit of each.

    Units are chosen on the selection split, everything about the circuits is measured on the report split. All other
    units are held at their mean over other text and all positions.

    Args:
        spec: the fields of `CorpusCircuits`.

    Returns:
        What the circuits say (`circuits_record`); each as node-link JSON, slimmed to what a drawing needs; the CPU
        seconds of everything, of all threads. The effects on `fold subtask unit`, in nats.
    """
    # Late: `skilloc sweep list` reads this file, and must not wait for torch.
    from skilloc.circuits.trace import Tracing
    from skilloc.models.language import digest, open_model
    from skilloc.store import Labelled
    from skilloc.study.draws import subtasks_of
    from skilloc.study.measure import measure
    from skilloc.study.settings import Settings
    from skilloc.study.tracing import Choice, circuits_record, trace_study

    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in spec.items()}
    settings = CorpusCircuits(**values)
    spent = _Spent()
    opened = open_model(settings.model, device=settings.device)
    subtasks = subtasks_of(opened, {source: source for source in settings.sources}, length=settings.length)
    estimated: dict[str, Any] = {"sample": 0, "top": settings.ranked} if settings.method == "two-stage" else {}
    asked = Settings(
        method=settings.method, reference="flat mean", sequences=settings.sequences, length=settings.length,
        folds=settings.folds, split="selection", seed=settings.seed, curvature=settings.curvature, **estimated,
    )  # fmt: skip
    config = Tracing(sizes=settings.sizes, draws=settings.draws, seed=settings.seed)
    cpu: dict[str, Any] = {"open": spent.since_last()}
    with TemporaryDirectory() as aside:
        effects = measure(opened, subtasks, asked, Path(aside) / "study").effects
        cpu["effects"], cpu["circuits"] = spent.since_last(), {}
        found: dict[str, Any] = {}
        for name in effects.subtasks:
            found |= trace_study(
                opened, effects, Path(aside), Choice(settings.top), config, subtasks=[name], drawn_from=subtasks
            )
            cpu["circuits"][name] = spent.since_last()
    metrics = {
        "model": digest(opened.model),
        "units": len(effects.units),
        "exact": int(effects.exact.sum()),
        "examples": dict(effects.made["tokens"]),
        "loss": {name: effects.baseline[:, place].mean() for place, name in enumerate(effects.subtasks)},
        "cpu_seconds": cpu,
        **circuits_record(found, effects),
        "graphs": {name: slimmed(graph, edges=settings.edges) for name, graph in found.items()},
    }
    return metrics, {"effects": Labelled(effects.values, ("fold", "subtask", "unit"), {"subtask": effects.subtasks})}


class _Spent:
    """CPU seconds of this process."""

    def __init__(self) -> None:
        self.last = time.process_time()

    def since_last(self) -> float:
        last, self.last = self.last, time.process_time()
        return round(self.last - last, 1)


def slimmed(graph: Any, *, edges: int) -> dict[str, Any]:
    """Return what a drawing needs of a circuit, as node-link JSON: its strongest edges, three digits, no tokens.

    Args:
        graph: a circuit.
        edges: number of edges to keep, those with the largest |effect| on its own subtask.
    """
    import networkx as nx

    from skilloc.circuits import graph as g

    own = graph.graph[g.SUBTASK]
    about = (g.VERSION, g.SUBTASK, g.REFERENCE, g.CHOSEN)
    slim = nx.DiGraph(**{name: graph.graph[name] for name in about}, **{g.SUBTASKS: [own]})

    def short(effects: dict[str, Any]) -> dict[str, Any]:
        ends = effects.get(own, {}).items()
        return {own: {end: None if value is None else float(f"{value:.3g}") for end, value in ends}}

    for name, node in graph.nodes.items():
        kept = {part: node[part] for part in (g.KIND, g.LAYER, g.COLUMN, g.POSITION)}
        slim.add_node(name, **kept, **{g.EFFECT: short(node[g.EFFECT])})
    flows = {ends: edge[g.EFFECT][own]["value"] or 0.0 for ends, edge in graph.edges.items()}
    for ends in sorted(flows, key=lambda ends: -abs(flows[ends]))[:edges]:
        slim.add_edge(*ends, **{g.EFFECT: short(graph.edges[ends][g.EFFECT])})
    return dict(json.loads(g.to_json(slim)))
