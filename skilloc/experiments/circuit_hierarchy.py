"""Circuits of atoms and of their composite in one network: how far the composite's circuit reuses the atoms' units."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from skilloc.experiments.parity import ParityTraining
from skilloc.experiments.specs import settings_of

if TYPE_CHECKING:
    import numpy as np

    from skilloc.effects import Effects
    from skilloc.experiment import Experiment
    from skilloc.masks import Mask
    from skilloc.models.mlp import MLP
    from skilloc.store import Labelled

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
    examples: int = 2000
    """examples per subtask and split that circuits are chosen and measured on"""
    share: float = 0.95
    """of the skill that a circuit keeps where it is chosen"""
    tops: tuple[int, ...] = (8, 16)
    """numbers of top units that are compared between subtasks"""
    draws: int = 20
    """random circuits beside each"""
    folds: int = 8
    """disjoint parts of the examples"""


def measure_hierarchy(spec: Mapping[str, Any]) -> "tuple[dict[str, Any], dict[str, Labelled]]":
    """Train a network on atoms and a composite, and compare their circuits.

    Units, and the sizes that keep the share, are chosen on the selection split; all else is measured on the report
    split. The reference is the mean activation, over the selection split.

    Args:
        spec: the fields of `CircuitHierarchy`.

    Returns:
        Losses in bits; for each subtask the circuit that keeps the share; for each number of top units what subtasks
        have in common and what removing those of one does to all, in nats. The effects on `fold subtask unit` of both
        splits, and the weights.
    """
    # Late: `skilloc sweep list` reads this file, and must not wait for torch.
    from skilloc.ablation import ablation_effects
    from skilloc.experiment import Experiment
    from skilloc.experiments.parity import train_parity, world_of
    from skilloc.store import Labelled

    settings = settings_of(CircuitHierarchy, spec)
    training = {field.name: getattr(settings, field.name) for field in fields(ParityTraining)}
    trained, weights = train_parity(training)
    model = _network(settings, weights)
    drawn = {
        split: {
            name: subtask.draw(settings.examples, split=split, seed=settings.seed + DRAW_SEED)
            for name, subtask in world_of(asdict(settings)).items()
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


def _network(settings: CircuitHierarchy, weights: "Mapping[str, Labelled]") -> "MLP":
    import torch

    from skilloc.models.mlp import MLP

    model = MLP(len(settings.sets) + settings.n, 2, settings.width, settings.depth)
    model.load_state_dict({name: torch.from_numpy(array.values) for name, array in weights.items()})
    return model


def _circuits(
    experiments: "Mapping[str, Experiment]", effects: "Effects", settings: CircuitHierarchy
) -> dict[str, Any]:
    """Return, per subtask, the smallest circuit that keeps the share, measured on the report split, and their overlap.

    Units are ranked in two ways, by their effects and by elimination, and the ranking that needs fewer units is taken.
    """
    from skilloc.circuits.elimination import elimination_ranking
    from skilloc.circuits.faithfulness import enough, faithfulness
    from skilloc.circuits.overlap import reuse
    from skilloc.masks import Mask, top

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
    experiment: "Experiment", effects: "Mapping[str, Effects]", n: int, settings: CircuitHierarchy
) -> dict[str, Any]:
    """Compare the top n units of all subtasks: in common, mass of effects on them, and losses without them."""
    from skilloc.ablation import mask_effects
    from skilloc.circuits.overlap import overlap
    from skilloc.masks import Mask, matched_random, top

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


def _masses(masks: "Sequence[Mask]", effects: "Sequence[np.ndarray]") -> list[float]:
    """Return, for each subtask, the share of its positive effects that lies on some units; the mean over masks."""
    shares = [[float(one[mask.keep].clip(0).sum() / one.clip(0).sum()) for one in effects] for mask in masks]
    return [sum(column) / len(masks) for column in zip(*shares, strict=True)]
