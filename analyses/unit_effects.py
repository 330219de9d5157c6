"""Which neurons does each subtask of a parity network need, and are composites less local than their atoms?

Question (the paper's figures 8 and 9): six atomic parities and two composites of three of them, in one network. Every
neuron is ablated, exactly, and its signed effect on every subtask measured on held-out examples. An answer: the picture
of one network, and over networks the effective number of units, Gini, Hoyer and locality of atoms and composites beside
their chance levels, the difference in pairs, and how far the two composites need the same neurons.

Minutes on two cores: under one for `--scale quick` (24 bits, 3 networks), 20 for `cpu` (the paper's networks, 12 seeds,
products in bfloat16; 2.5 to 3.3 core-minutes a seed); `paper` trains in float32, and twice as long.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from _frame import Cells, analyse
from _parity import LEARNED, ParityTraining, network_of, train_parity, training_of, world_of
from _worlds import nonlocality_network
from skilloc import plots
from skilloc.ablation import ablation_effects
from skilloc.effects import Effects
from skilloc.experiment import Experiment
from skilloc.locality import chance, overlap, table
from skilloc.locality.intervals import Interval, mean_interval
from skilloc.plots.learning import interval_rows
from skilloc.plots.neurons import bands, effect_image, effect_scatter, paired_dots
from skilloc.report.about import noise_of
from skilloc.store import Result

EXAMPLES = 2000
"""Per subtask, of the report split, in `FOLDS` folds."""

FOLDS = 8

SCORES = ("effective_number", "gini", "hoyer", "locality")
PAIRS = ("two atoms", "composite and own atom", "composite and other atom", "two composites")
FAMILIES = (("#7fb2de", "#0b4f8a"), ("#f2a878", "#b3420a"))  # light for atoms, dark for the composite of them
LARGE = nonlocality_network(64, 0)
SCALES: dict[str, list[ParityTraining]] = {
    "quick": [replace(LARGE, n=24, examples=250, steps=2000, rate=5e-3, seed=seed) for seed in range(3)],
    "cpu": [replace(nonlocality_network(64, seed), products="bfloat16") for seed in range(12)],
    "paper": [replace(nonlocality_network(64, seed), steps=40_000) for seed in range(20)],
}


def measure(networks: list[ParityTraining], run: Cells) -> dict[str, Any]:
    """Train the networks, ablate their neurons, and score; the first that learned all subtasks is the one shown."""
    records: list[dict[str, Any]] = []
    shown: dict[str, Any] = {}
    for result in run(train_parity, networks):
        effects = effects_of(result)
        learned = [name for name, bits in result.metrics["bits"].items() if bits < LEARNED]
        found = {"learned": locality_of(effects, learned), "all": locality_of(effects, effects.subtasks)}
        records.append({"bits": result.metrics["bits"], **found})
        if not shown or (len(learned) == len(effects.subtasks) and not shown["whole"]):
            values = effects.values.mean(axis=0)
            shown = {
                "whole": len(learned) == len(effects.subtasks),
                "bits": result.metrics["bits"],
                "seed": result.spec["seed"],
                "subtasks": list(effects.subtasks),
                "noise": noise_of(effects).tolist(),
                "layers": effects.units.layers.tolist(),
                "values": [[float(f"{v:.4g}") for v in row] for row in values],
            }
    return {
        "settings": asdict(networks[0]),
        "learned_below": LEARNED,
        "examples": EXAMPLES,
        "networks": records,
        "shown": shown,
        # A composite that is not learned is no skill yet: its effects are about what little there is.
        "over_seeds": {which: over_seeds([one[which] for one in records]) for which in ("learned", "all")},
    }


def effects_of(result: Result) -> Effects:
    """Measure what a trained network loses without each neuron, exactly, at the zero reference.

    Args:
        result: of the cell `train_parity`.
    """
    model, training = network_of(result), training_of(result.spec)
    return ablation_effects(Experiment(model, world_of(training), folds=FOLDS, count=EXAMPLES, seed=training.seed))


def locality_of(effects: Effects, subtasks: Collection[str]) -> dict[str, Any]:
    """Return scores of subtasks, and the overlap of the units that pairs of them need. JSON only.

    Args:
        effects: of one network.
        subtasks: those that count, for instance those that the network has learned.

    Returns:
        "scores": by subtask, by score, its value, and interval over folds. "atoms" and "composites": by score, the mean
        over these subtasks. "chance": by score. "overlap": by kind of pair, its mean, and "chance", the mean for
        shuffled units. None stands for what cannot be told from noise; means are over the rest.
    """
    names = [name for name in effects.subtasks if name in subtasks]
    values = effects.values[:, [effects.subtasks.index(name) for name in names]]
    found = table(values, names) if names else {}
    pairs: dict[str, list[float]] = {kind: [] for kind in (*PAIRS, "chance")}
    if len(names) > 1:
        shared = overlap(values)
        for i, j in zip(*np.triu_indices(len(names), 1), strict=True):
            pairs[_pair(names[i], names[j])].append(float(shared.value[i, j]))
            pairs["chance"].append(float(shared.chance[i, j]))
    kinds = {"atoms": "parity_", "composites": "composite_"}
    return {
        "scores": {name: {s: _plain(found[name][s].record()) for s in SCORES} for name in names},
        **{
            kind: {s: _mean([found[name][s].value for name in names if name.startswith(start)]) for s in SCORES}
            for kind, start in kinds.items()
        },
        "chance": {s: chance(len(effects.units))[s] for s in SCORES},
        "overlap": {kind: _mean(values) for kind, values in pairs.items()},
    }


def _pair(first: str, second: str) -> str:
    composites = [name for name in (first, second) if name.startswith("composite_")]
    if len(composites) != 1:
        return PAIRS[0] if not composites else PAIRS[3]
    atom = (first if composites[0] == second else second).removeprefix("parity_")
    return PAIRS[1] if atom in composites[0].removeprefix("composite_") else PAIRS[2]


def over_seeds(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return means over networks with intervals: of `locality_of`'s numbers, and of composites minus atoms in pairs.

    Args:
        records: what `locality_of` returned for each network.

    Returns:
        By score, and for "overlap" by kind of pair: value, low, high, and the number of networks that are in the mean.
        None where there is no such network, or for the interval only one.
    """
    summary: dict[str, Any] = {}
    for score in SCORES:
        atoms, composites = (
            np.array([_number(one[kind][score]) for one in records]) for kind in ("atoms", "composites")
        )
        several = {"atoms": atoms, "composites": composites, "composites - atoms": composites - atoms}
        summary[score] = {name: _over(values) for name, values in several.items()}
        summary[score]["chance"] = records[0]["chance"][score]
    kinds = (*PAIRS, "chance")
    summary["overlap"] = {kind: _over(np.array([_number(one["overlap"][kind]) for one in records])) for kind in kinds}
    return summary


def _over(values: np.ndarray) -> dict[str, Any]:
    known = values[np.isfinite(values)]
    found = mean_interval(known) if len(known) else Interval(np.nan, np.nan, np.nan)
    return {**_plain(found.record()), "networks": len(known)}


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else None


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _plain(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: float(value) if np.isfinite(value) else None for name, value in numbers.items()}


def draw(found: dict[str, Any]) -> Any:
    """One network's neurons: dots per layer, and an image. Below, scores of atoms and composites over networks."""
    shown = found["shown"]
    names, layers, values = shown["subtasks"], np.array(shown["layers"]), np.array(shown["values"])
    composites = [name for name in names if name.startswith("composite")]
    family = {name: next(i for i, c in enumerate(composites) if set(name.split("_")[1]) <= set(c)) for name in names}
    large = [name in composites for name in names]
    colours = [FAMILIES[family[name]][name in composites] for name in names]
    several = np.unique(layers)
    figure, (top, middle, bottom) = bands((2.6, 3.3, 1.9))
    linear, largest = float(np.median(shown["noise"])), float(values.max())
    ends = min(1.6 * float(values.min()), -4 * linear), 2 * largest
    panels = top.subplots(1, len(several), sharey=True)
    for layer, ax in zip(several, panels, strict=True):
        part = values[:, layers == layer]
        effect_scatter(ax, part, colours=colours, large=large, linear=linear, ends=ends)
        ax.set_title(f"seed {shown['seed']}, layer {layer}")
    panels[0].set_ylabel("effect (nats)")
    for (light, dark), composite in zip(FAMILIES, composites, strict=True):
        final = shown["bits"][composite]
        panels[-1].plot([], [], "o", color=dark, label=f"{composite.replace('_', ' ')}: {final:.2f} bits")
        panels[-1].plot([], [], "o", color=light, label="its atoms")
    top.legend(*panels[-1].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    # Neurons that the first composite needs more stand at the left, those of the second at the right.
    first, second = (values[names.index(composite)] for composite in composites)
    order = np.lexsort((second - first, layers))
    norm, image = plots.effect_norm(values, noise=linear), middle.subplots()
    effect_image(image, values[:, order], layers[order], [name.replace("_", " ") for name in names], norm=norm)
    image.set_title(
        f"seed {shown['seed']}: neurons in order of effect on {composites[0][10:]} − effect on {composites[1][10:]}"
    )
    plots.colour_bar(middle, [image], norm=norm, label="effect (nats)")
    _locality(bottom.subplots(1, len(SCORES) + 1), found)
    bits = [one["bits"][name] for one in found["networks"] for name in composites]
    bottom.supxlabel(
        f"{len(found['networks'])} networks; {sum(b < LEARNED for b in bits)} of {len(bits)} composites below "
        f"{LEARNED} bits, the others left out. Bars: means, 95 %. Dashed: chance. Shaded: noise of a typical neuron.",
        fontsize=6.5,
    )
    return figure


def _locality(panels: Any, found: dict[str, Any]) -> None:
    """Draw the scores of all networks, and how far subtasks need the same neurons."""
    networks, summary = [one["learned"] for one in found["networks"]], found["over_seeds"]["learned"]
    kinds, colours = ("atoms", "composites"), ("#8a8a8a", "black")
    for score, ax in zip(SCORES, panels, strict=False):
        both = np.array([[one[kind][score] for one in networks] for kind in kinds], dtype=float)
        means = [_ends(summary[score][kind]) for kind in kinds]
        paired_dots(ax, both, kinds, means=means, chance=summary[score]["chance"], colours=colours)
        ax.set_title(score.replace("effective_number", "effective units"))
    pairs = {kind: _ends(one) for kind, one in summary["overlap"].items() if kind != "chance"}
    beside = [f"{one['value']:.2f}" for one in pairs.values()]
    ax = panels[-1]
    interval_rows(
        ax,
        [kind.replace(" and ", "\nand ") for kind in pairs],
        list(pairs.values()),
        colours=["black"] * len(pairs),
        beside=beside,
    )
    ax.axvline(_ends(summary["overlap"]["chance"])["value"], color="black", lw=0.7, ls=(0, (4, 3)))
    ax.set(title="overlap", xlim=(0, 1), xticks=(0, 0.5, 1))


def _ends(one: dict[str, Any]) -> dict[str, float]:
    return {end: np.nan if one[end] is None else one[end] for end in ("value", "low", "high")}


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
