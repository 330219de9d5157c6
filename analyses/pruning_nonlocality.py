"""If a network is pruned for one composite parity, is another one gone? And after group lasso?

Question (the paper's figure 3): a network with six atoms and the composites 012 and 345 is pruned for 012, as trained
and after finetuning on 012 with group lasso; what is left is retrained on 012 or on 345. An answer: accuracies against
the share of dropped units, beside controls of the same shape (units dropped at random, never-trained networks, plain
finetuning without the penalty), and, at the largest sparsity that brings 012 back to 98 %, the information about 345
that was removed, with its interval over seeds: 1 - (pruned - never) / (original - never), where "never" was trained on
all atoms and 012, but never on 345, and all networks are attacked at the best of several rates. Networks that have not
learned both composites are left out: there is nothing to keep, or nothing to remove.

Minutes on two cores: one for `--scale quick`; for `cpu` (width 64, the first 5 of 7 seeds that learned, products in
bfloat16, retraining with 1,000 examples a step instead of 5,000) 30, or 15 if the networks of unit_effects are there
(same `--runs`); `paper` takes width 256 and all 99 sparsities, for a GPU.
"""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from _frame import Cells, analyse
from _nonlocality import (
    KEPT,
    OTHER,
    PAPER,
    QUICK,
    VARIANTS,
    Nonlocality,
    count_at,
    curves,
    line_of,
    magnitudes,
    measure_nonlocality,
)
from _parity import LEARNED, ParityTraining, open_network, train_parity, with_weights
from _worlds import nonlocality_network, tiny_nonlocality_network
from skilloc import plots, store
from skilloc.locality.intervals import Interval
from skilloc.masks import Mask
from skilloc.models.makers import units_of
from skilloc.models.mlp import MLP
from skilloc.pruning import masks_of, prune
from skilloc.relearning import (
    NEVER,
    ORIGINAL,
    PLAIN,
    RANDOM,
    UNSEEN,
    Grid,
    Relearning,
    over_seeds,
    record,
    relearn_probe,
)
from skilloc.relearning.controls import randomly_pruned, untrained
from skilloc.store import Labelled
from skilloc.tasks import Subtask

CANDIDATES = ("naive pruning", "group lasso")
SHOWN = (*CANDIDATES, RANDOM, PLAIN)
SEEN = (*(f"parity_{i}" for i in range(6)), "composite_012")
PRUNED = {"as trained": "random units", "group lasso": "plain finetuning"}
"""Networks that are pruned by effects, and the first control of each."""
SEEDS = 5
DRAWN = 0.3
"""Weights of larger magnitude are drawn, as in the paper."""


@dataclass(frozen=True)
class Attacked:
    """The spec of one cell: pruned networks and their controls under one attack."""

    network: str
    """key of the network among the results, from `train_parity`"""
    unseen: str
    """key of one that was never trained on the other composite; empty for none"""
    plain: str
    """key of its `plain finetuning`, from `measure_nonlocality`"""
    lasso: str
    """key of its `group lasso`"""
    naive_sparsity: float
    """share of units dropped from the network as trained"""
    lasso_sparsity: float
    """share of units dropped after group lasso"""
    held_out: int = 2000
    """held-out examples per subtask and split"""
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    """of Adam"""
    budgets: tuple[int, ...] = (16, 64, 250, 1000)
    """steps of the attack"""
    examples: int = 1000
    """examples per step"""
    repair: int = 500
    """steps of repair on the kept composite, at most"""


class Scale(NamedTuple):
    """Networks, one per seed, of which the first five that learn are taken; and how they are pruned and attacked."""

    networks: list[ParityTraining]
    pruning: Nonlocality
    attack: Attacked


FULL = Attacked("", "", "", "", 0.0, 0.0, rates=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2))
SCALES = {
    "quick": Scale(
        [tiny_nonlocality_network(seed) for seed in range(3)],
        QUICK,
        replace(FULL, held_out=200, rates=(1e-3, 1e-2), budgets=(4, 30), examples=50, repair=30),
    ),
    "cpu": Scale(
        [replace(nonlocality_network(64, seed), products="bfloat16") for seed in range(7)], Nonlocality(""), FULL
    ),
    "paper": Scale([nonlocality_network(256, seed) for seed in range(5)], PAPER, replace(FULL, examples=5000)),
}


def attack_pruned(settings: Attacked, results: Path) -> tuple[dict[str, Any], dict[str, Labelled]]:
    """Retrain pruned networks and all controls on the other composite, over a grid of rates.

    Args:
        settings: which networks, how they are pruned, and the attack.
        results: folder that holds the networks.

    Returns:
        The record and the arrays of a `Relearning` with one seed; see `relearning.over_seeds`.
    """
    original, world, seed = open_network(results, settings.network)
    naive = prune(original, _dropped(original, settings.naive_sparsity, world, settings.held_out, seed))
    localized = _finetuned(original, results / settings.lasso)
    pruned = prune(localized, _dropped(localized, settings.lasso_sparsity, world, settings.held_out, seed))
    models: dict[str, Any] = {
        ORIGINAL: original,
        NEVER: untrained(naive, seed=seed),
        RANDOM: randomly_pruned(original, naive, seed=seed),
        PLAIN: _finetuned(original, results / settings.plain),
        CANDIDATES[0]: naive,
        CANDIDATES[1]: pruned,
    }
    if settings.unseen:
        models[UNSEEN] = open_network(results, settings.unseen)[0]
    found = relearn_probe(models, [world[OTHER]], world[OTHER], _grid(settings), (seed,), kept=[world[KEPT]])
    relearning, arrays = store.to_parts(found)
    return {"relearning": relearning, "units": {n: len(units_of(m)) for n, m in models.items()}}, arrays


def _grid(settings: Attacked) -> Grid:
    return Grid(
        rates=settings.rates,
        budgets=settings.budgets,
        examples=settings.examples,
        held_out=settings.held_out,
        repair=settings.repair,
    )


def _dropped(model: MLP, sparsity: float, world: Mapping[str, Subtask], examples: int, seed: int) -> Mask:
    units = units_of(model)
    return masks_of(units, magnitudes(model, world, examples, seed), [count_at(len(units), sparsity)])[0]


def _finetuned(original: MLP, folder: Path) -> MLP:
    """Return what finetuning made of a network, from its result."""
    return with_weights(copy.deepcopy(original), store.read(folder).arrays, "model.")


def measure(scale: Scale, run: Cells) -> dict[str, Any]:
    """Train, finetune, prune, retrain; then attack what the lines chose."""
    trained = run(train_parity, scale.networks)
    chosen = [i for i, one in enumerate(trained) if max(one.metrics["bits"][name] for name in (KEPT, OTHER)) < LEARNED]
    networks, trainings = [trained[i] for i in chosen[:SEEDS]], [scale.networks[i] for i in chosen[:SEEDS]]
    if not networks:
        raise ValueError("no network learned both composites; train for longer, or take more seeds")
    unseen = run(train_parity, [replace(training, trained=SEEN, watched=(OTHER,)) for training in trainings])
    cells = {}
    for variant in VARIANTS:
        base = replace(scale.pruning, variant=variant)
        cells[variant] = run(measure_nonlocality, [replace(base, network=store.key(one.spec)) for one in networks])
    shown = {v: [curves(cell.arrays["accuracies"].values) for cell in cells[v]] for v in VARIANTS}
    lines = {v: [line_of(scale.pruning.sparsities, one) or 0.0 for one in shown[v]] for v in PRUNED}
    attacks = [
        replace(
            scale.attack,
            network=store.key(networks[i].spec),
            unseen=store.key(unseen[i].spec),
            plain=store.key(cells["plain finetuning"][i].spec),
            lasso=store.key(cells["group lasso"][i].spec),
            naive_sparsity=lines["as trained"][i],
            lasso_sparsity=lines["group lasso"][i],
        )
        for i in range(len(networks))
    ]
    found = run(attack_pruned, attacks)
    parts = [store.from_parts(Relearning, one.metrics["relearning"], one.arrays) for one in found]
    return {
        "sparsities": list(scale.pruning.sparsities),
        "seeds": [training.seed for training in trainings],
        "left_out": [training.seed for i, training in enumerate(scale.networks) if i not in chosen],
        "settings": {
            "network": asdict(scale.networks[0]),
            "pruning": asdict(scale.pruning),
            "attack": asdict(scale.attack),
        },
        "lines": lines,
        "units": [one.metrics["units"] for one in found],
        "live": {v: [cell.metrics["live"] for cell in cells[v]] for v in VARIANTS},
        "before": {v: [cell.metrics["before"] for cell in cells[v]] for v in VARIANTS},
        "curves": shown,
        "weights": {v: _weights(cells[v][0]) for v in PRUNED},
        "probe": record(over_seeds(parts)),
    }


def _weights(cell: store.Result) -> list[list[list[float]]]:
    arrays = {name: array.values for name, array in cell.arrays.items() if name.endswith("weight")}
    return [[[round(float(w), 3) for w in row] for row in arrays[name]] for name in sorted(arrays)]


def draw(found: dict[str, Any]) -> Any:
    """One network before and after group lasso, its curves, and information removed over seeds."""
    figure, axes = plots.figure(3, 2, height=8.4, height_ratios=[1.15, 1, 1])
    for column, (variant, control) in enumerate(PRUNED.items()):
        weights = [np.array(w) for w in found["weights"][variant]]
        plots.mlp_network(axes[0, column], weights, threshold=DRAWN, largest=2.0)
        axes[0, column].set_title(f"{variant}: weights above {DRAWN}")
        own = found["curves"][variant][0]
        controls = {f"345, {name}": found["curves"][name][0]["other"][1] for name in (control, "never trained")}
        before, after = ({"012": own["kept"][when], "345": own["other"][when]} for when in (0, 1))
        line = found["lines"][variant][0]
        plots.retraining_curves(axes[1, column], found["sparsities"], before, after, controls, line=line)
        axes[1, column].set_title(f"{variant}, seed {found['seeds'][0]}: pruned")
        _legend_below(axes[1, column])
    probe = found["probe"]
    names = list(probe["models"])
    ends = [probe["models"][name]["sizes"][0]["loss"] for name in names]
    losses = Interval(*(np.array([one[end] for one in ends], dtype=float) for end in ("value", "low", "high")))
    plots.recovery_curves(axes[2, 0], probe["steps"], losses, names, chance=probe["chance"])
    axes[2, 0].set_title(f"345 under attack, {len(probe['seeds'])} seeds")
    _legend_below(axes[2, 0])
    plots.information_dots(axes[2, 1], probe, SHOWN, candidates=CANDIDATES)
    return figure


def _legend_below(ax: Any) -> None:
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), fontsize=6, handlelength=2.6, ncols=2, columnspacing=1)


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
