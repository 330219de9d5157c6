"""By what should one choose which neurons to keep?

Question: networks have learned three atomic parities and their composite (24 bits, width 64). Keep n of the 128 neurons
for the composite, chosen by weight norm, by effects (attribution or exact ablation, taken once), by effects that are
measured again after every two dropped neurons, at random, or by a search that swaps neurons as long as that helps. An
answer: the composite's loss against n, on examples that chose nothing, and the fewest neurons that keep 98 % accuracy,
with intervals over networks. The search says how good a mask of that size can be: what lies between it and a criterion
is lost by choosing, not by being small.

Minutes on two cores: half for `--scale quick`, 3 for `cpu` (8 networks); `paper` takes the networks of the paper's
figure 3 (18 bits, six atoms, width 256), for a GPU.
"""

import math
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np

from skilloc import plots, store
from skilloc.experiments.choosing_masks import CRITERIA, MaskChoice
from skilloc.experiments.parity import ParityTraining
from skilloc.experiments.script import Run, analyse
from skilloc.experiments.worlds import nonlocality_network
from skilloc.intervals import mean_interval
from skilloc.plots.learning import interval_rows
from skilloc.plots.style import CONTROL

TRAIN, CHOOSE = "skilloc.experiments.parity:train_parity", "skilloc.experiments.choosing_masks:choose_masks"
LINE, LEARNED = 0.98, 0.1
ONCE = ("random", "weight norm", "attribution", "ablation")
AGAIN = ("random", "ablation", "attribution, again", "ablation, again", "search")


class Scale(NamedTuple):
    """Networks, one per seed, and how masks are chosen for them."""

    networks: list[ParityTraining]
    choice: MaskChoice


SMALL = ParityTraining(steps=5000, stop_on=("composite_012",))
TINY = replace(SMALL, n=6, sets=((0,), (1,), (2,)), width=16, steps=400, each=100)
SCALES = {
    "quick": Scale(
        [replace(TINY, seed=seed) for seed in range(3)],
        MaskChoice("", "", counts=(32, 24, 16, 8), every=4, examples=400, draws=2, swaps=20),
    ),
    "cpu": Scale([replace(SMALL, seed=seed) for seed in range(8)], MaskChoice("", "")),
    "paper": Scale(
        [nonlocality_network(256, seed) for seed in range(5)],
        MaskChoice("", "", counts=tuple(range(512, 0, -16)), every=4, swaps=2000),
    ),
}


def measure(scale: Scale, run: Run) -> dict[str, Any]:
    """Train the networks and choose masks for those that have learned the composite; losses in bits."""
    networks = run(TRAIN, [asdict(network) for network in scale.networks])
    target = scale.choice.subtask
    learned = [one for one in networks if one.metrics["bits"][target] < LEARNED]
    base = replace(scale.choice, networks=str(run.folder))
    cells = run(CHOOSE, [asdict(replace(base, network=store.key(one.spec))) for one in learned])
    counts = list(scale.choice.counts)
    losses, accuracies = (
        np.array([cell.arrays[name].values for cell in cells]) for name in ("losses", "accuracies")
    )  # seed criterion count
    bits = losses / math.log(2)
    fewest = {name: _fewest(counts, accuracies[:, c]) for c, name in enumerate(CRITERIA)}
    return {
        "subtask": target,
        "counts": counts,
        "seeds": [one.spec["seed"] for one in learned],
        "not_learned": [one.spec["seed"] for one in networks if one not in learned],
        "criteria": {
            name: {
                "bits": [mean_interval(bits[:, c, i]).record() for i in range(len(counts))],
                "by_seed": {
                    "bits": bits[:, c].tolist(),
                    "accuracy": accuracies[:, c].tolist(),
                    "fewest": fewest[name].tolist(),
                },
                "fewest": mean_interval(fewest[name]).record(),
                # The same networks for all criteria, so that differences between these are known better than each.
                "fewest - ablation": mean_interval(fewest[name] - fewest["ablation"]).record(),
            }
            for c, name in enumerate(CRITERIA)
        },
    }


def _fewest(counts: list[int], accuracies: np.ndarray) -> np.ndarray:
    """Return, per seed, the number of neurons just before the accuracy first falls below the line."""
    below = np.concatenate([accuracies < LINE, np.ones((len(accuracies), 1), dtype=bool)], axis=1)
    first = below.argmax(axis=1)
    return np.array([counts[max(0, place - 1)] for place in first], dtype=float)


def draw(found: dict[str, Any]) -> Any:
    """The composite's loss by criteria that look once, by those that look again, and how few neurons each needs."""
    figure, (once, again, rows) = plots.figure(1, 3, height=2.8, width_ratios=(1, 1, 0.9))
    counts, criteria = np.array(found["counts"]), found["criteria"]
    names = dict.fromkeys([*ONCE, *AGAIN])
    coloured = [name for name in names if name != "random"]
    colours = {"random": CONTROL, **{name: plots.colour_of(place) for place, name in enumerate(coloured)}}
    for ax, shown, title in ((once, ONCE, "scored once"), (again, AGAIN, "scored again, or searched")):
        for name in shown:
            bits = criteria[name]["bits"]
            value, low, high = (np.array([one[end] for one in bits]) for end in ("value", "low", "high"))
            ax.fill_between(counts, np.maximum(low, 0), high, color=colours[name], alpha=0.18, lw=0)
            ax.plot(counts, value, color=colours[name], ls="--" if name == "random" else "-", label=name)
        ax.axhline(1, color="black", lw=0.5, ls=":")
        ax.set(xlabel="neurons kept", title=title, xlim=(counts[0], counts[-1]), ylim=(0, 4))
    once.set_ylabel(f"loss on {found['subtask'].replace('_', ' ')} (bits)")
    order = sorted(CRITERIA, key=lambda name: criteria[name]["fewest"]["value"])
    fewest = [criteria[name]["fewest"] for name in order]
    tints = [colours.get(name, colours.get(name.partition(",")[0], CONTROL)) for name in order]
    interval_rows(rows, order, fewest, colours=tints, beside=[f"{one['value']:.0f}" for one in fewest])
    rows.set(title=f"needed for {100 * LINE:.0f} %", xlabel="neurons kept", xlim=(0, counts[0]))
    labels = {
        label: handle for ax in (once, again) for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=len(labels))
    return figure


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
