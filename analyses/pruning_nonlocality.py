"""If a network is pruned for one composite parity, is another one gone? And after group lasso?

Question (the paper's figure 3): a network with six atoms and the composites 012 and 345 is pruned for 012, as trained
and after finetuning on 012 with group lasso; what is left is retrained on 012 or on 345. An answer: accuracies against
the share of dropped units, beside controls of the same shape (units dropped at random, never-trained networks, plain
finetuning without the penalty), and, at the largest sparsity that brings 012 back to 98 %, the information about 345
that was removed, with its interval over seeds: 1 - (pruned - never) / (original - never), where "never" was trained on
all atoms and 012, but never on 345, and all networks are attacked at the best of several rates. Networks that have not
learned both composites are left out: there is nothing to keep, or nothing to remove.

Minutes on two cores: one for `--scale quick`; for `cpu` (width 64, the first 5 of 7 seeds that learned, retraining with
1,000 examples a step instead of 5,000) 30, or 15 if the networks of unit_effects are there (same `--runs`); `paper`
takes width 256 and all 99 sparsities, for a GPU.
"""

from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np

from skilloc import plots, store
from skilloc.experiments.arms import LEARNED
from skilloc.experiments.nonlocality import KEPT, LINE, OTHER, VARIANTS, Nonlocality
from skilloc.experiments.parity import ParityTraining
from skilloc.experiments.parity_unlearning import Attacked
from skilloc.experiments.script import Run, analyse
from skilloc.experiments.worlds import nonlocality_network
from skilloc.plots.style import CONTROL
from skilloc.relearning import PLAIN, RANDOM, Relearning, over_seeds, record

TRAIN = "skilloc.experiments.parity:train_parity"
MEASURE = "skilloc.experiments.nonlocality:measure_nonlocality"
ATTACK = "skilloc.experiments.parity_unlearning:attack_pruned"
CANDIDATES = ("naive pruning", "group lasso")
SHOWN = (*CANDIDATES, RANDOM, PLAIN)
SEEN = (*(f"parity_{i}" for i in range(6)), "composite_012")
SEEDS = 5
DRAWN = 0.3
"""Weights of larger magnitude are drawn, as in the paper."""


class Scale(NamedTuple):
    """Networks, one per seed, of which the first five that learn are taken; and how they are pruned and attacked."""

    networks: list[ParityTraining]
    pruning: Nonlocality
    attack: Attacked


FULL = Attacked("", "", "", "", "", 0.0, 0.0, rates=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2))
TINY = replace(nonlocality_network(16, 0), n=9, sets=((0,), (1,), (2,), (3,), (4,), (5,)), each=100, steps=400, lr=5e-3)
SHORT = Nonlocality("", "", sparsities=(0.0, 0.3, 0.6, 0.9), steps=50, each=100, finetuning=100, finetuning_each=100)
EVERY = Nonlocality("", "", sparsities=tuple(round(0.01 * i, 2) for i in range(99)), each=5000)
SCALES = {
    "quick": Scale(
        [replace(TINY, seed=seed) for seed in range(3)],
        SHORT,
        replace(FULL, examples=200, rates=(1e-3, 1e-2), budgets=(4, 30), each=50, repair=30),
    ),
    "cpu": Scale([nonlocality_network(64, seed) for seed in range(7)], Nonlocality("", ""), FULL),
    "paper": Scale(
        [replace(nonlocality_network(256, s), bf16=False) for s in range(5)], EVERY, replace(FULL, each=5000)
    ),
}


def measure(scale: Scale, run: Run) -> dict[str, Any]:
    """Train, finetune, prune, retrain; then attack what the lines chose."""
    trained = run(TRAIN, [asdict(training) for training in scale.networks])
    chosen = [i for i, one in enumerate(trained) if max(one.metrics["bits"][name] for name in (KEPT, OTHER)) < LEARNED]
    networks, trainings = [trained[i] for i in chosen[:SEEDS]], [scale.networks[i] for i in chosen[:SEEDS]]
    if not networks:
        raise ValueError("no network learned both composites; train for longer, or take more seeds")
    unseen = run(TRAIN, [asdict(replace(training, trained=SEEN, watched=(OTHER,))) for training in trainings])
    cells = {}
    for variant in VARIANTS:
        base = replace(scale.pruning, networks=str(run.folder), variant=variant)
        cells[variant] = run(MEASURE, [asdict(replace(base, network=store.key(one.spec))) for one in networks])
    lines = {v: [_line(cell, scale.pruning.sparsities) for cell in cells[v]] for v in ("as trained", "group lasso")}
    attacks = [
        replace(
            scale.attack,
            networks=str(run.folder),
            network=store.key(networks[i].spec),
            unseen=store.key(unseen[i].spec),
            plain=store.key(cells["plain finetuning"][i].spec),
            lasso=store.key(cells["group lasso"][i].spec),
            naive_sparsity=lines["as trained"][i],
            lasso_sparsity=lines["group lasso"][i],
        )
        for i in range(len(networks))
    ]
    found = run(ATTACK, [asdict(attack) for attack in attacks])
    parts = [Relearning.of(one.metrics["relearning"], one.arrays) for one in found]
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
        "curves": {v: [_curves(cell) for cell in cells[v]] for v in VARIANTS},
        "weights": {v: _weights(cells[v][0]) for v in ("as trained", "group lasso")},
        "probe": record(over_seeds(parts)),
    }


def _line(cell: store.Result, sparsities: tuple[float, ...]) -> float:
    """Return the largest sparsity with which the kept composite comes back; 0 if it is never there."""
    back = np.flatnonzero(cell.arrays["accuracies"].values[0, :, 1, 0] >= LINE)
    return sparsities[back[-1]] if len(back) else 0.0


def _curves(cell: store.Result) -> dict[str, Any]:
    """Accuracies on the report split before and after retraining, of the composite that was retrained."""
    values = cell.arrays["accuracies"].values  # attack sparsity step batch
    return {"kept": values[0, :, :, 1].T.tolist(), "other": values[1, :, :, 2].T.tolist()}


def _weights(cell: store.Result) -> list[list[list[float]]]:
    arrays = {name: array.values for name, array in cell.arrays.items() if name.endswith("weight")}
    return [[[round(float(w), 3) for w in row] for row in arrays[name]] for name in sorted(arrays)]


def draw(found: dict[str, Any]) -> Any:
    """One network before and after group lasso, its curves, and information removed over seeds."""
    figure, axes = plots.figure(3, 2, height=8.4, height_ratios=[1.15, 1, 1])
    pairs = (("as trained", ("random units", "never trained")), ("group lasso", ("plain finetuning", "never trained")))
    x = -np.log10(1 - np.array(found["sparsities"]))
    for column, (variant, controls) in enumerate(pairs):
        plots.mlp_network(
            axes[0, column], [np.array(w) for w in found["weights"][variant]], threshold=DRAWN, largest=2.0
        )
        axes[0, column].set_title(f"{variant}: weights above {DRAWN}")
        ax, own = axes[1, column], found["curves"][variant][0]
        for name, colour, label in (("kept", plots.colour_of(0), "012"), ("other", plots.colour_of(1), "345")):
            ax.plot(x, own[name][1], color=colour, label=f"{label}, retrained on it")
            ax.plot(x, own[name][0], color=colour, lw=0.8, ls=(0, (2, 1.5)), label=f"{label}, not retrained")
        for control, dashes in zip(controls, ((0, (4, 1.5)), (0, (1, 1))), strict=True):
            ax.plot(
                x, found["curves"][control][0]["other"][1], color=CONTROL, lw=1.1, ls=dashes, label=f"345, {control}"
            )
        ax.axvline(-np.log10(1 - found["lines"][variant][0]), color=plots.colour_of(2), lw=1.0, label="98 % line")
        shown = [s for s in (0, 0.5, 0.8, 0.9, 0.96, 0.98) if s <= max(found["sparsities"])]
        ax.set_xticks([-np.log10(1 - s) for s in shown], [f"{s:.0%}" for s in shown])
        ax.set(
            xlabel="units dropped",
            ylabel="accuracy",
            ylim=(0.45, 1.02),
            title=f"{variant}, seed {found['seeds'][0]}: pruned",
        )
        _legend_below(ax)
    probe = found["probe"]
    names = list(probe["models"])
    curves = [probe["models"][name]["sizes"][0] for name in names]
    value, low, high = (np.array([c["loss"][end] for c in curves], dtype=float) for end in ("value", "low", "high"))
    plots.recovery_curves(axes[2, 0], probe["steps"], value, low, high, names, chance=probe["chance"])
    axes[2, 0].set_title(f"345 under attack, {len(probe['seeds'])} seeds")
    _legend_below(axes[2, 0])
    plots.information_dots(axes[2, 1], probe, SHOWN, candidates=CANDIDATES)
    return figure


def _legend_below(ax: Any) -> None:
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), fontsize=6, handlelength=2.6, ncols=2, columnspacing=1)


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
