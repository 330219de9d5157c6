"""Which units carry Python, C++ and English in a language model, and are so few units the skill?

Question: in the embedded model and in SmolLM2-135M, which neurons and heads does each corpus need, how do they feed
each other, do the corpora share them, and what is left of the skill when only they are kept and all others are held at
their mean? An answer: a circuit for each corpus; what it keeps of the skill on text that did not choose it, by the
number of units, beside random circuits with as many units on every hook; and the overlap of circuits beside chance.
Where a circuit keeps hardly more than a random one, its units are the ones needed most, but they are not the skill.

Effects are exact in the embedded model. In SmolLM2 they are attributions with curvature, and the top units exact.

CPU minutes: half of one for `--scale quick` (the embedded model, few tokens), 16 for `cpu`, some hours for `paper`.
Needs `skilloc fetch smollm2`, but for `quick`.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import networkx as nx
import numpy as np

from _frame import Cells, analyse
from skilloc import plots
from skilloc.circuits import graph as g
from skilloc.circuits.diagram import joint_diagram
from skilloc.circuits.trace import Tracing
from skilloc.models.language import digest, open_model
from skilloc.plots.style import CONTROL
from skilloc.plots.style import Drawing as Figure
from skilloc.report.circuits_found import circuits_found
from skilloc.report.record import as_json
from skilloc.store import Labelled
from skilloc.study.draws import subtasks_of
from skilloc.study.measure import measure as measure_study
from skilloc.study.settings import Settings
from skilloc.study.tracing import Choice, trace_study


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


SCALES = {
    "quick": [
        CorpusCircuits(
            method="two-stage", ranked=8, curvature=0, sequences=4, length=16, folds=4, top=8, sizes=(64,), draws=2
        )
    ],
    "cpu": [
        CorpusCircuits(length=64),
        CorpusCircuits(
            model="smollm2", method="two-stage", ranked=20, length=32, top=20, sizes=(200, 2000, 20_000), draws=3
        ),
    ],
    "paper": [
        CorpusCircuits(sequences=32, top=100, sizes=(10, 40, 160, 640), draws=10),
        CorpusCircuits(
            model="smollm2", method="two-stage", ranked=100, sequences=32, length=128, top=100,
            sizes=(20, 500, 2000, 8000, 20_000), draws=10,
        ),
    ],
}  # fmt: skip
EDGES = 120
LOWEST = -1.0
"""Where the shares kept are cut off: of few random circuits, intervals are wide."""


def measure_circuits(settings: CorpusCircuits) -> tuple[dict[str, Any], dict[str, Labelled]]:
    """Measure the effects of all neurons and heads on some corpora, and trace the circuit of each.

    Units are chosen on the selection split, everything about the circuits is measured on the report split. All other
    units are held at their mean over other text and all positions.

    Returns:
        What the circuits say (`circuits_found`); each as node-link JSON, slimmed to what a drawing needs; the CPU
        seconds of everything, of all threads. The effects on `fold subtask unit`, in nats.
    """
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
        effects = measure_study(opened, subtasks, asked, Path(aside) / "study").effects
        cpu["effects"], cpu["circuits"] = spent.since_last(), {}
        found: dict[str, Any] = {}
        for name in effects.subtasks:
            found |= trace_study(
                opened, effects, Path(aside), Choice(settings.top, subtasks=(name,)), config, drawn_from=subtasks
            )
            cpu["circuits"][name] = spent.since_last()
    told = as_json(circuits_found(found, effects))
    for name, graph in found.items():
        curve = graph.graph[g.FAITHFULNESS]
        circuit = next((one for one in curve if one["size"] == told["subtasks"][name]["size"]), None)
        told["subtasks"][name] |= {"curve": curve, "circuit": circuit}
    metrics = {
        "model": digest(opened.model),
        "units": len(effects.units),
        "exact": int(effects.exact.sum()),
        "examples": dict(effects.made["tokens"]),
        "loss": {name: effects.baseline[:, place].mean() for place, name in enumerate(effects.subtasks)},
        "cpu_seconds": cpu,
        **told,
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


def measure(models: list[CorpusCircuits], run: Cells) -> dict[str, Any]:
    """Trace the circuits of all models."""
    results = run(measure_circuits, models)
    return {
        "models": [{"settings": asdict(spec), **result.metrics} for spec, result in zip(models, results, strict=True)]
    }


def draw(found: dict[str, Any]) -> Any:
    """One row per model: the circuits of the corpora side by side, and what circuits keep by their size."""
    models = found["models"]
    figure = Figure(figsize=(11.5, 4.1 * len(models)))
    for part, model in zip(figure.subfigures(len(models), 1, squeeze=False, hspace=0.03)[:, 0], models, strict=True):
        names = model["settings"]["sources"]
        diagram = joint_diagram({name: g.from_json(json.dumps(model["graphs"][name])) for name in names})
        *axes, curve = part.subplots(1, len(names) + 1, width_ratios=[1] * len(names) + [0.75])
        for ax, name in zip(axes, names, strict=True):
            plots.circuit_diagram(ax, diagram, subtask=name, most_edges=EDGES)
            kept = model["subtasks"][name]["circuit"]
            ax.set_title(name)
            said = f"{kept['size']} units keep {_said(kept['faithfulness'])}, random {_said(kept['random'])}"
            ax.set_title(said, loc="right", fontsize=7, fontweight="normal")
        _kept(curve, model, names)
        plots.circuit_legend(part, diagram, subtask=names[0])
        part.suptitle(_about(model), fontsize=9)
    return figure


def _kept(ax: Any, model: dict[str, Any], names: list[str]) -> None:
    for place, name in enumerate(names):
        curve = model["subtasks"][name]["curve"]
        # Side by side, so that intervals can be told apart.
        sizes = np.array([one["size"] for one in curve]) * 1.08 ** (place - 1)
        for key, ends, look in (
            ("faithfulness", ("low", "high"), {"fmt": "o-", "label": name}),
            ("random", ("random_low", "random_high"), {"fmt": "o:", "mfc": "white", "alpha": 0.6}),
        ):
            value, low, high = (np.array([one[end] for one in curve], dtype=float) for end in (key, *ends))
            ax.errorbar(sizes, value, [value - low, high - value], color=plots.colour_of(place), lw=1, ms=3.5, **look)
    ax.errorbar([], [], fmt="o:", mfc="white", color=CONTROL, ms=3.5, lw=1, label="random units, same layers")
    ticks = [one["size"] for one in model["subtasks"][names[0]]["curve"]]
    ax.set(xscale="log", xlabel="units kept, all others at their mean", title="share of the skill kept")
    ax.set_xticks(ticks, [f"{size:,}" for size in ticks])
    ax.xaxis.minorticks_off()
    for share in (0, 1):
        ax.axhline(share, color=CONTROL, lw=0.5)
    lowest = max(ax.get_ylim()[0], LOWEST)
    ax.set_ylim(lowest, 1 + 0.4 * (1 - lowest))
    ax.legend(loc="upper left")


def _said(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def _about(model: dict[str, Any]) -> str:
    settings, seconds = model["settings"], model["cpu_seconds"]
    each = sorted(seconds["circuits"].values())
    return (
        f"{settings['model']}: effects of {model['units']:,} neurons and heads ({model['exact']:,} measured exactly) "
        f"on {settings['sequences']} × {settings['length']} tokens per corpus in {seconds['effects']:,.0f} CPU s; "
        f"a circuit in {each[0]:,.0f} to {each[-1]:,.0f} CPU s; its {EDGES} strongest edges"
    )


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
