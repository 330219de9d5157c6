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
from dataclasses import asdict
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from skilloc import plots
from skilloc.circuits.graph import from_json
from skilloc.experiments.corpus_circuits import CorpusCircuits
from skilloc.experiments.script import Run, analyse
from skilloc.plots.style import CONTROL

CELL = "skilloc.experiments.corpus_circuits:measure_circuits"
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


def measure(models: list[CorpusCircuits], run: Run) -> dict[str, Any]:
    """Trace the circuits of all models."""
    results = run(CELL, [asdict(spec) for spec in models])
    return {
        "models": [{"settings": asdict(spec), **result.metrics} for spec, result in zip(models, results, strict=True)]
    }


def draw(found: dict[str, Any]) -> Any:
    """One row per model: the circuits of the corpora side by side, and what circuits keep by their size."""
    models = found["models"]
    figure = Figure(figsize=(11.5, 4.1 * len(models)), layout="constrained")
    for part, model in zip(figure.subfigures(len(models), 1, squeeze=False, hspace=0.03)[:, 0], models, strict=True):
        names = model["settings"]["sources"]
        diagram = plots.joint_diagram({name: from_json(json.dumps(model["graphs"][name])) for name in names})
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
