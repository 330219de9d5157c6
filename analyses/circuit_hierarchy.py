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

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from _frame import Cells, analyse
from _parity import LEARNED, ParityTraining, network_of, train_parity, world_of
from skilloc import plots
from skilloc.ablation import ablation_effects, mask_effects
from skilloc.circuits.elimination import elimination_ranking
from skilloc.circuits.faithfulness import enough, faithfulness
from skilloc.circuits.overlap import overlap, reuse
from skilloc.effects import Effects
from skilloc.experiment import Experiment
from skilloc.locality.intervals import mean_interval
from skilloc.masks import Mask, matched_random, top
from skilloc.plots.style import CONTROL
from skilloc.store import Labelled, Result

COMPOSITE, OWN, OTHER = "composite_012", ("parity_0", "parity_1", "parity_2"), "parity_3"
SCALES = {"quick": 2, "cpu": 8, "paper": 40}
TOP = 16
ATOMS = ("its atoms", "the other atom")
SHOWN = {
    "of the composite, on units of its atoms": "its atoms'",
    "of the composite, on units of the other atom": "other atom's",
    "of the composite, on random units": "random",
    "of its atoms, on units of the composite": "its atoms",
    "of the other atom, on units of the composite": "other atom",
    "of its atoms, on random units": "its atoms,\nrandom units",
}
DRAW_SEED = 1_000_000
"""Added to the seed of the examples, so that they are none of those that training was watched on."""


@dataclass(frozen=True)
class CircuitHierarchy(ParityTraining):
    """The spec of one cell: a network and its training, and how its circuits are measured.

    The world needs a composite and at least one atom that is not part of it: the control.
    """

    sets: tuple[tuple[int, ...], ...] = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 10, 11))
    """index set of each atom"""
    steps: int = 6000
    """steps of Adam, at most"""
    stop_on: tuple[str, ...] = ("parity_0", "parity_1", "parity_2", "parity_3", "composite_012")
    """stop when all these subtasks are below `stop_below`"""
    held_out: int = 2000
    """examples per subtask and split that circuits are chosen and measured on"""
    share: float = 0.95
    """of the skill that a circuit keeps where it is chosen"""
    tops: tuple[int, ...] = (8, 16)
    """numbers of top units that are compared between subtasks"""
    draws: int = 20
    """random circuits beside each"""
    folds: int = 8
    """disjoint parts of the examples"""


def measure_hierarchy(settings: CircuitHierarchy) -> tuple[dict[str, Any], dict[str, Labelled]]:
    """Train a network on atoms and a composite, and compare their circuits.

    Units, and the sizes that keep the share, are chosen on the selection split; all else is measured on the report
    split. The reference is the mean activation, over the selection split.

    Returns:
        Losses in bits; for each subtask the circuit that keeps the share; for each number of top units what subtasks
        have in common and what removing those of one does to all, in nats. The effects on `fold subtask unit` of both
        splits, and the weights.
    """
    trained, weights = train_parity(settings)
    model = network_of(Result(asdict(settings), trained, weights))
    drawn = {
        split: {
            name: subtask.draw(settings.held_out, split=split, seed=settings.seed + DRAW_SEED)
            for name, subtask in world_of(settings).items()
        }
        for split in ("selection", "report")
    }
    experiments = {
        split: Experiment(model, own, reference="flat mean", other=drawn["selection"], folds=settings.folds)
        for split, own in drawn.items()
    }
    effects = {split: ablation_effects(experiment) for split, experiment in experiments.items()}
    chosen = effects["selection"]
    metrics = {
        "steps": trained["steps"],
        "bits": trained["bits"],
        "circuits": _circuits(experiments, chosen, settings),
        "tops": {str(n): _compared(experiments["report"], effects, n, settings) for n in settings.tops},
    }
    labels = {"subtask": list(chosen.subtasks)}
    arrays = {
        f"effects_{split}": Labelled(found.values, ("fold", "subtask", "unit"), labels)
        for split, found in effects.items()
    }
    return metrics, {**arrays, **weights}


def _circuits(experiments: Mapping[str, Experiment], effects: Effects, settings: CircuitHierarchy) -> dict[str, Any]:
    """Return, per subtask, the smallest circuit that keeps the share, measured on the report split, and their overlap.

    Units are ranked in two ways, by their effects and by elimination, and the ranking that needs fewer units is taken.
    """
    found: dict[str, Any] = {}
    circuits = {}
    selection, units = experiments["selection"], effects.units
    for name in effects.subtasks:
        rankings = {
            "effect": effects.mean(name),
            "elimination": elimination_ranking(selection, subtask=name),
        }
        sizes = {by: enough(selection, ranking, settings.share, subtask=name) for by, ranking in rankings.items()}
        best = min(sizes, key=lambda by: sizes[by])
        circuits[name] = circuit = Mask(units, top(rankings[best], sizes[best]))
        curve = faithfulness(experiments["report"], [circuit], subtask=name, draws=settings.draws, seed=settings.seed)
        random = 1 - curve.random[:, 0].mean(axis=1) / curve.floor.mean()
        found[name] = {
            **curve.records()[0],
            "sizes": sizes,
            "random_best": float(random.max()),
            "floor": float((curve.floor + curve.baseline).mean()),
            "baseline": float(curve.baseline.mean()),
            "random_loss": float((curve.random[:, 0] + curve.baseline).mean()),
        }
    for name, circuit in circuits.items():
        found[name]["part_in"] = {
            other: reuse(circuit, mask)._asdict() for other, mask in circuits.items() if other != name
        }
    return found


def _compared(
    experiment: Experiment, effects: Mapping[str, Effects], n: int, settings: CircuitHierarchy
) -> dict[str, Any]:
    """Compare the top n units of all subtasks: in common, mass of effects on them, and losses without them."""
    names, units = effects["selection"].subtasks, effects["selection"].units
    tops = {name: Mask(units, top(effects["selection"].mean(name), n)) for name in names}
    randoms = {
        name: [~matched_random(~mask, seed=settings.seed * settings.draws + d) for d in range(settings.draws)]
        for name, mask in tops.items()
    }
    shared = overlap(tops)
    masks = [~mask for name in names for mask in (tops[name], *randoms[name])]
    without, _ = mask_effects(experiment, masks)
    table = without.mean(axis=1).reshape(len(names), 1 + settings.draws, len(names))
    held_out = [effects["report"].mean(name) for name in names]
    return {
        "names": list(names),
        "jaccard": shared.jaccard.tolist(),
        "jaccard_chance": shared.chance.tolist(),
        # On `chosen by, measured on`.
        "mass": [_masses([tops[name]], held_out) for name in names],
        "mass_chance": [_masses(randoms[name], held_out) for name in names],
        "removed": table[:, 0].tolist(),
        "removed_chance": table[:, 1:].mean(axis=1).tolist(),
    }


def _masses(masks: Sequence[Mask], effects: Sequence[np.ndarray]) -> list[float]:
    """Return, for each subtask, the share of its positive effects that lies on some units; the mean over masks."""
    shares = [[float(one[mask.keep].clip(0).sum() / one.clip(0).sum()) for one in effects] for mask in masks]
    return [sum(column) / len(masks) for column in zip(*shares, strict=True)]


def measure(seeds: int, run: Cells) -> dict[str, Any]:
    """Train and compare the networks of all seeds; of those that did not learn everything, say how many."""
    specs = [CircuitHierarchy(seed=seed) for seed in range(seeds)]
    metrics = [result.metrics for result in run(measure_hierarchy, specs)]
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
