"""How does it depend on width and seed what pruning for one composite leaves of another?

Question (the paper's figure 10): networks are pruned for composite 012 by their neurons' effects, to many sparsities,
and what is left is retrained for 1,000 steps, on 012 or on 345. Each network has a line: the largest sparsity at which
012 comes back to 98 % (chosen on the selection split). An answer: how much of 345 comes back there, beside what comes
back to controls of the same shape: neurons dropped at random, and never-trained networks. What a never-trained network
learns in as many steps was not hidden in the pruned one.

Minutes on two cores: one for `--scale quick`; `cpu` about 35 (widths 32, 64 and 128, 5
seeds, retraining with 1,000 examples a step instead of 5,000, every tenth of the paper's sparsities and more near the
line); `paper` takes widths up to 1024, for a GPU.
"""

from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np

from skilloc import plots, store
from skilloc.experiments.nonlocality import LINE, Nonlocality
from skilloc.experiments.parity import ParityTraining
from skilloc.experiments.script import Run, analyse
from skilloc.experiments.worlds import nonlocality_network
from skilloc.intervals import mean_interval
from skilloc.plots.style import CONTROL

TRAIN, MEASURE = "skilloc.experiments.parity:train_parity", "skilloc.experiments.nonlocality:measure_nonlocality"
VARIANTS = ("as trained", "random units", "never trained")
PAPER = {64: (0.48, 0.65), 128: (0.74, 0.61), 256: (0.88, 0.80), 512: (0.94, 0.74), 1024: (0.97, 0.74)}
"""Mean over seeds of the line, and of the accuracy of 345 after retraining there (paper.md 4, read off the plot)."""


class Scale(NamedTuple):
    """Networks by width, and how they are pruned."""

    widths: dict[int, list[ParityTraining]]
    pruning: Nonlocality


QUICK = replace(
    nonlocality_network(16, 0), n=9, sets=((0,), (1,), (2,), (3,), (4,), (5,)), each=100, steps=400, lr=5e-3
)
SCALES = {
    "quick": Scale(
        {16: [replace(QUICK, seed=seed) for seed in range(2)]},
        Nonlocality("", "", sparsities=(0.0, 0.3, 0.6, 0.9), steps=50, each=100, finetuning=100, finetuning_each=100),
    ),
    "cpu": Scale({w: [nonlocality_network(w, seed) for seed in range(5)] for w in (32, 64, 128)}, Nonlocality("", "")),
    "paper": Scale(
        {w: [replace(nonlocality_network(w, s), bf16=False) for s in range(5)] for w in (32, 64, 128, 256, 512, 1024)},
        Nonlocality("", "", sparsities=tuple(round(0.01 * i, 2) for i in range(99)), each=5000),
    ),
}


def measure(scale: Scale, run: Run) -> dict[str, Any]:
    """Train, prune and retrain, all widths and seeds."""
    records = []
    for width, trainings in scale.widths.items():
        networks = run(TRAIN, [asdict(training) for training in trainings])
        for variant in VARIANTS:
            base = replace(scale.pruning, networks=str(run.folder), variant=variant)
            cells = run(MEASURE, [asdict(replace(base, network=store.key(one.spec))) for one in networks])
            for network, cell in zip(networks, cells, strict=True):
                accuracy = cell.arrays["accuracies"].values  # attack sparsity step batch
                records.append(
                    {
                        "width": width,
                        "seed": network.spec["seed"],
                        "variant": variant,
                        "bits": network.metrics["bits"],
                        "selection": accuracy[0, :, 1, 0].tolist(),
                        "kept": accuracy[0, :, :, 1].T.tolist(),
                        "other": accuracy[1, :, :, 2].T.tolist(),
                    }
                )
    return {"sparsities": list(scale.pruning.sparsities), "records": records, "lines": _lines(scale, records)}


def _lines(scale: Scale, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Per width: the line of each seed, and the other composite's accuracy there, of every variant."""
    found: dict[str, Any] = {}
    for width in scale.widths:
        of = {(r["seed"], r["variant"]): r for r in records if r["width"] == width}
        seeds = sorted({seed for seed, _ in of})
        places = [np.flatnonzero(np.array(of[seed, "as trained"]["selection"]) >= LINE) for seed in seeds]
        # A network that never gets back to the line, even whole, has none.
        known = [(seed, int(place[-1])) for seed, place in zip(seeds, places, strict=True) if len(place)]
        sparsity = np.array([scale.pruning.sparsities[place] for _, place in known])
        at = {v: np.array([of[seed, v]["other"][1][place] for seed, place in known]) for v in VARIANTS}
        lead = at["as trained"] - at["never trained"] if known else np.array([])
        several = {"sparsity": sparsity, **at, "as trained - never trained": lead}
        found[str(width)] = {
            "seeds": [seed for seed, _ in known],
            "by_seed": {name: values.tolist() for name, values in several.items()},
            "mean": {
                name: mean_interval(values)._asdict() if len(values) > 1 else None for name, values in several.items()
            },
            "paper": PAPER.get(width),
        }
    return found


def draw(found: dict[str, Any]) -> Any:
    """One row per width, one column per seed: accuracies after retraining, against the share of units dropped."""
    records = found["records"]
    widths, seeds = sorted({r["width"] for r in records}), sorted({r["seed"] for r in records})
    figure, axes = plots.figure(
        len(widths), len(seeds), height=0.5 + 1.45 * len(widths), squeeze=False, sharex=True, sharey=True
    )
    x = -np.log10(1 - np.array(found["sparsities"]))
    looks = {"as trained": (plots.colour_of(1), 1.4), "random units": (CONTROL, 0.9), "never trained": ("black", 0.9)}
    for r in records:
        ax = axes[widths.index(r["width"]), seeds.index(r["seed"])]
        if r["variant"] == "as trained":
            ax.plot(x, r["kept"][0], color=plots.colour_of(0), lw=0.7, ls=(0, (2, 1.5)))
            ax.plot(x, r["kept"][1], color=plots.colour_of(0))
        colour, width = looks[r["variant"]]
        ax.plot(x, r["other"][1], color=colour, lw=width, ls="-" if r["variant"] == "as trained" else (0, (4, 1.5)))
    for i, width in enumerate(widths):
        lines = found["lines"][str(width)]
        for seed, sparsity in zip(lines["seeds"], lines["by_seed"]["sparsity"], strict=True):
            axes[i, seeds.index(seed)].axvline(-np.log10(1 - sparsity), color=plots.colour_of(2), lw=1.0)
        axes[i, 0].set_ylabel(f"width {width}\naccuracy")
    for j, seed in enumerate(seeds):
        axes[0, j].set_title(f"seed {seed}")
        axes[-1, j].set_xlabel("units dropped")
    shown = [s for s in (0, 0.5, 0.8, 0.9, 0.96, 0.98) if s <= max(found["sparsities"])]
    axes[0, 0].set_xticks([-np.log10(1 - s) for s in shown], [f"{s:.0%}" for s in shown])
    axes[0, 0].set_ylim(0.45, 1.02)
    for ax in axes[-1]:
        ax.tick_params(axis="x", labelrotation=60)
    _legend(figure)
    return figure


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D

    entries = {
        "012, retrained on it": Line2D([], [], color=plots.colour_of(0)),
        "012, not retrained": Line2D([], [], color=plots.colour_of(0), lw=0.7, ls=(0, (2, 1.5))),
        "345, retrained on it": Line2D([], [], color=plots.colour_of(1)),
        "345, random units": Line2D([], [], color=CONTROL, lw=0.9, ls=(0, (4, 1.5))),
        "345, never trained": Line2D([], [], color="black", lw=0.9, ls=(0, (4, 1.5))),
        "98 % line": Line2D([], [], color=plots.colour_of(2), lw=1.0),
    }
    figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=3)


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
