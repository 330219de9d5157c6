"""Does the circuit of a composite parity reuse the units of the atoms that it is made of?

Question: in networks that learn four atomic parities and the composite of three of them, are the units that the
composite needs those that its own atoms need, more than those of the fourth atom? An answer: the share of the
composite's effect that lies on the top units of its own atoms, beside the same for the atom that it does not contain
and for random units of the same layers, over seeds; the same the other way round; and what removing these units does.
First, whether the circuits are the skills: what the smallest circuit that keeps 95 % on one split keeps on another,
beside random circuits of as many units per layer. Units are ranked by their effects, or by what a shrinking circuit can
spare, whichever needs fewer.

CPU minutes: 1 for `--scale quick` (2 seeds), 5 for `cpu` (8 seeds), 20 for `paper` (40 seeds).
"""

from dataclasses import asdict
from typing import Any

import numpy as np

from skilloc import plots
from skilloc.experiments.circuit_hierarchy import CircuitHierarchy
from skilloc.experiments.script import Run, analyse
from skilloc.intervals import mean_interval
from skilloc.plots.style import CONTROL

CELL = "skilloc.experiments.circuit_hierarchy:measure_hierarchy"
COMPOSITE, OWN, OTHER = "composite_012", ("parity_0", "parity_1", "parity_2"), "parity_3"
SCALES = {"quick": 2, "cpu": 8, "paper": 40}
TOP = 16
LEARNED = 0.1
ATOMS = ("its atoms", "the other atom")
SHOWN = {
    "of the composite, on units of its atoms": "its atoms'",
    "of the composite, on units of the other atom": "other atom's",
    "of the composite, on random units": "random",
    "of its atoms, on units of the composite": "its atoms",
    "of the other atom, on units of the composite": "other atom",
    "of its atoms, on random units": "its atoms,\nrandom units",
}


def measure(seeds: int, run: Run) -> dict[str, Any]:
    """Train and compare the networks of all seeds; of those that did not learn everything, say how many."""
    specs = [asdict(CircuitHierarchy(seed=seed)) for seed in range(seeds)]
    metrics = [result.metrics for result in run(CELL, specs)]
    learned = [one for one in metrics if max(one["bits"].values()) < LEARNED]
    return {
        "settings": asdict(CircuitHierarchy()),
        "seeds": seeds,
        "learned": len(learned),
        "faithfulness": {name: _summary([one["circuits"][name] for one in learned]) for name in learned[0]["circuits"]},
        "reuse": {n: _reuse([one["tops"][n] for one in learned]) for n in learned[0]["tops"]},
        "circuits": [one["circuits"] for one in learned],
    }


def _summary(circuits: list[dict[str, Any]]) -> dict[str, Any]:
    kept = np.array([one["faithfulness"] for one in circuits])
    return {
        "size": mean_interval(np.array([one["size"] for one in circuits], dtype=float)).record(),
        "sizes_by": {
            by: mean_interval(np.array([one["sizes"][by] for one in circuits], dtype=float)).record()
            for by in circuits[0]["sizes"]
        },
        "whole": sum(one["random_best"] > 0.999 for one in circuits),
        "kept": mean_interval(kept).record(),
        "kept_least": float(kept.min()),
        "random": mean_interval(np.array([one["random"] for one in circuits])).record(),
        "random_best": float(max(one["random_best"] for one in circuits)),
    }


def _reuse(tops: list[dict[str, Any]]) -> dict[str, Any]:
    """Return, for each comparison, one value per seed and its mean: of own atoms, of the other atom, and chance."""
    names = tops[0]["names"]
    own, other, whole = [names.index(name) for name in OWN], names.index(OTHER), names.index(COMPOSITE)
    found: dict[str, Any] = {}
    for part in ("mass", "removed", "jaccard"):
        # On `seed, chosen by, measured on`.
        table, chance = (np.array([one[key] for one in tops]) for key in (part, f"{part}_chance"))
        pairs = {
            f"{part}: of the composite, on units of its atoms": table[:, own, whole].mean(axis=1),
            f"{part}: of the composite, on units of the other atom": table[:, other, whole],
            f"{part}: of the composite, on random units": chance[:, own, whole].mean(axis=1),
            f"{part}: of its atoms, on units of the composite": table[:, whole, own].mean(axis=1),
            f"{part}: of the other atom, on units of the composite": table[:, whole, other],
            f"{part}: of its atoms, on random units": chance[:, whole, own].mean(axis=1),
            f"{part}: own": table[:, range(len(names)), range(len(names))].mean(axis=1),
        }
        found |= {
            key: {**mean_interval(values).record(), "seeds": values.round(4).tolist()} for key, values in pairs.items()
        }
    difference = np.subtract(*(found[f"mass: of the composite, on units of {of}"]["seeds"] for of in ATOMS))
    return {**found, "mass: own atoms minus other atom": mean_interval(difference).record()}


def draw(found: dict[str, Any]) -> Any:
    """Losses with only a circuit; where the composite's effect lies, and the atoms'; losses without these units."""
    figure, (alone, mass, removed) = plots.figure(1, 3, height=3.0)
    _losses(alone, found)
    reuse = found["reuse"][str(TOP)]
    for axes, part in ((mass, "mass"), (removed, "removed")):
        for place, key in enumerate(SHOWN):
            one = reuse[f"{part}: {key}"]
            colour = CONTROL if "random" in key or "other" in key else plots.colour_of(place // 3)
            spread = np.linspace(-0.2, 0.2, len(one["seeds"]))
            axes.scatter(place + spread, one["seeds"], s=7, color=colour, alpha=0.6, lw=0)
            error = [[one["value"] - one["low"]], [one["high"] - one["value"]]]
            axes.errorbar(place, one["value"], error, fmt="_", color="black", ms=12, lw=1, capsize=2)
        axes.set_xticks(range(len(SHOWN)), SHOWN.values(), rotation=40, ha="right", rotation_mode="anchor")
        axes.axvline(2.5, color=CONTROL, lw=0.6, ls=":")
        axes.set_ylim(0, 1.3 * axes.get_ylim()[1])
        said = {"transform": axes.get_xaxis_transform(), "fontsize": 6.5, "va": "top", "ha": "center"}
        axes.text(1, 0.99, "of the composite,\non units of ...", **said)
        axes.text(4, 0.99, "on the composite's\nunits, of ...", **said)
    mass.set(title=f"effect on top {TOP} units", ylabel="share of a subtask's effect")
    removed.set(title=f"top {TOP} units removed", ylabel="loss increase (nats)")
    return figure


def _losses(axes: Any, found: dict[str, Any]) -> None:
    names = [OTHER, *OWN, COMPOSITE]
    for place, name in enumerate(names):
        runs = [circuits[name] for circuits in found["circuits"]]
        for key, colour, shift, label in (
            ("baseline", "black", -0.3, "whole network"),
            ("loss", plots.colour_of(0), -0.1, "only the circuit"),
            ("random_loss", CONTROL, 0.1, "only a random circuit"),
            ("floor", plots.colour_of(1), 0.3, "all at the mean"),
        ):
            values = [one[key] for one in runs]
            axes.scatter([place + shift] * len(values), values, s=7, color=colour, alpha=0.6, lw=0)
            if not place:
                axes.scatter([], [], s=10, color=colour, label=label)
    shown = [found["faithfulness"][name] for name in names]
    labels = [
        f"{name.partition('_')[2]}\n{one['size']['value']:.0f}\n{one['kept']['value']:.2f}"
        for name, one in zip(names, shown, strict=True)
    ]
    axes.set_xticks(range(len(names)), labels)
    axes.text(
        -0.75, -0.03, "parity\nunits\nkept", ha="right", va="top", fontsize=7, transform=axes.get_xaxis_transform()
    )
    axes.set(yscale="log", ylabel="loss (nats)", title=f"circuits of {2 * found['settings']['width']} neurons")
    axes.set_ylim(axes.get_ylim()[0], 1e3)
    axes.legend(loc="upper right", ncols=2, fontsize=6, columnspacing=0.6, handletextpad=0, borderaxespad=0)


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
