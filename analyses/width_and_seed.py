"""How does it depend on width and seed what pruning for one composite leaves of another?

Question (the paper's figure 10): networks are pruned for composite 012 by their neurons' effects, to many sparsities,
and what is left is retrained for 1,000 steps, on 012 or on 345. Each network has a line: the largest sparsity at which
012 comes back to 98 % (chosen on the selection split). An answer: how much of 345 comes back there, beside what comes
back to controls of the same shape: neurons dropped at random, and never-trained networks. What a never-trained network
learns in as many steps was not hidden in the pruned one.

Minutes on two cores: one for `--scale quick`; `cpu` about 35 (widths 32, 64 and 128, 5 seeds, trained with
products in bfloat16, retraining with 1,000 examples a step instead of 5,000, every tenth of the paper's sparsities and
more near the line); `paper` takes widths up to 1024, for a GPU.
"""

from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np

from _frame import Cells, analyse
from _nonlocality import PAPER, QUICK, Nonlocality, curves, line_of, measure_nonlocality
from _parity import ParityTraining, train_parity
from _worlds import nonlocality_network, tiny_nonlocality_network
from skilloc import plots, store
from skilloc.locality.intervals import mean_interval

VARIANTS = ("as trained", "random units", "never trained")
PUBLISHED = {64: (0.48, 0.65), 128: (0.74, 0.61), 256: (0.88, 0.80), 512: (0.94, 0.74), 1024: (0.97, 0.74)}
"""Mean over seeds of the line, and of the accuracy of 345 after retraining there (paper.md 4, read off the plot)."""


class Scale(NamedTuple):
    """Networks by width, and how they are pruned."""

    widths: dict[int, list[ParityTraining]]
    pruning: Nonlocality


SCALES = {
    "quick": Scale({16: [tiny_nonlocality_network(seed) for seed in range(2)]}, QUICK),
    "cpu": Scale(
        {w: [replace(nonlocality_network(w, s), products="bfloat16") for s in range(5)] for w in (32, 64, 128)},
        Nonlocality(""),
    ),
    "paper": Scale({w: [nonlocality_network(w, s) for s in range(5)] for w in (32, 64, 128, 256, 512, 1024)}, PAPER),
}


def measure(scale: Scale, run: Cells) -> dict[str, Any]:
    """Train, prune and retrain, all widths and seeds."""
    records = []
    for width, trainings in scale.widths.items():
        networks = run(train_parity, trainings)
        for variant in VARIANTS:
            base = replace(scale.pruning, variant=variant)
            cells = run(measure_nonlocality, [replace(base, network=store.key(one.spec)) for one in networks])
            for network, cell in zip(networks, cells, strict=True):
                records.append(
                    {
                        "width": width,
                        "seed": network.spec["seed"],
                        "variant": variant,
                        "bits": network.metrics["bits"],
                        **curves(cell.arrays["accuracies"].values),
                    }
                )
    first = next(iter(scale.widths.values()))[0]
    return {
        "settings": {"network": asdict(first), "pruning": asdict(scale.pruning)},
        "sparsities": list(scale.pruning.sparsities),
        "records": records,
        "lines": _lines(scale, records),
    }


def _lines(scale: Scale, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Per width: the line of each seed, and the other composite's accuracy there, of every variant."""
    found: dict[str, Any] = {}
    for width in scale.widths:
        of = {(r["seed"], r["variant"]): r for r in records if r["width"] == width}
        seeds = sorted({seed for seed, _ in of})
        lines = {seed: line_of(scale.pruning.sparsities, of[seed, "as trained"]) for seed in seeds}
        # A network that never gets back to the line, even whole, has none.
        known = [(seed, line) for seed, line in lines.items() if line is not None]
        sparsity = np.array([line for _, line in known])
        places = [(seed, scale.pruning.sparsities.index(line)) for seed, line in known]
        at = {v: np.array([of[seed, v]["other"][1][place] for seed, place in places]) for v in VARIANTS}
        lead = at["as trained"] - at["never trained"] if known else np.array([])
        several = {"sparsity": sparsity, **at, "as trained - never trained": lead}
        found[str(width)] = {
            "seeds": [seed for seed, _ in known],
            "by_seed": {name: values.tolist() for name, values in several.items()},
            "mean": {
                name: mean_interval(values).record() if len(values) > 1 else None for name, values in several.items()
            },
            "paper": PUBLISHED.get(width),
        }
    return found


def draw(found: dict[str, Any]) -> Any:
    """One row per width, one column per seed: accuracies after retraining, against the share of units dropped."""
    records = found["records"]
    widths, seeds = sorted({r["width"] for r in records}), sorted({r["seed"] for r in records})
    figure, axes = plots.figure(
        len(widths), len(seeds), height=0.5 + 1.45 * len(widths), squeeze=False, sharex=True, sharey=True
    )
    for i, width in enumerate(widths):
        lines = found["lines"][str(width)]
        line = dict(zip(lines["seeds"], lines["by_seed"]["sparsity"], strict=True))
        for ax, seed in zip(axes[i], seeds, strict=True):
            of = {r["variant"]: r for r in records if (r["width"], r["seed"]) == (width, seed)}
            own, controls = of["as trained"], {f"345, {name}": of[name]["other"][1] for name in VARIANTS[1:]}
            before, after = {"012": own["kept"][0]}, {"012": own["kept"][1], "345": own["other"][1]}
            plots.retraining_curves(ax, found["sparsities"], before, after, controls, line=line.get(seed))
            ax.tick_params(axis="x", labelrotation=60)
            ax.label_outer()
        axes[i, 0].set_ylabel(f"width {width}\naccuracy")
    for ax, seed in zip(axes[0], seeds, strict=True):
        ax.set_title(f"seed {seed}")
    # By label: not every network has a line.
    entries = {label: line for ax in axes.flat for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=3)
    return figure


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
