"""Effects of every neuron of a trained parity network on every subtask of its world, and how local they are."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from skilloc.ablation import ablation_effects
from skilloc.effects import Effects
from skilloc.experiment import Experiment
from skilloc.experiments.parity import network_of, world_of
from skilloc.intervals import Interval, mean_interval
from skilloc.locality import chance, overlap, table
from skilloc.store import Result

EXAMPLES = 2000
"""Per subtask, of the report split, in `FOLDS` folds."""

FOLDS = 8

SCORES = ("effective_number", "gini", "hoyer", "locality")
PAIRS = ("two atoms", "composite and own atom", "composite and other atom", "two composites")


def effects_of(result: Result) -> Effects:
    """Measure what a trained network loses without each neuron, exactly, at the zero reference.

    Args:
        result: of the cell `train_parity`.
    """
    model, seed = network_of(result), result.spec["seed"]
    return ablation_effects(Experiment(model, world_of(result.spec), folds=FOLDS, count=EXAMPLES, seed=seed))


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
