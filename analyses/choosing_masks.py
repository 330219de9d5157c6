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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from _frame import Cells, analyse
from _parity import LEARNED, ParityTraining, open_network, train_parity
from _worlds import nonlocality_network
from skilloc import plots, store
from skilloc.ablation import ablation_effects
from skilloc.attribution import attribution_effects
from skilloc.experiment import Experiment
from skilloc.lasso import group_norms
from skilloc.locality.intervals import mean_interval
from skilloc.masks import Mask
from skilloc.plots.learning import interval_rows
from skilloc.plots.style import CONTROL
from skilloc.pruning import effects_again, mask_curve, masks_of
from skilloc.store import Labelled
from skilloc.units import Units

LINE = 0.98
CRITERIA = (
    "random",
    "weight norm",
    "attribution",
    "attribution, signed",
    "ablation",
    "ablation, signed",
    "attribution, again",
    "ablation, again",
    "search",
)
"""Magnitudes of effects where not said otherwise; `again` is iterative, and signed: after every few dropped units, the
effects of what is left are measured again. `search` swaps units of the best of these masks for dropped ones while that
lowers the loss: how good a mask of the same size can be."""
ONCE = ("random", "weight norm", "attribution", "ablation")
AGAIN = ("random", "ablation", "attribution, again", "ablation, again", "search")


@dataclass(frozen=True)
class MaskChoice:
    """The spec of one cell: a trained network, and how masks are chosen for it."""

    network: str
    """key of a network among the results, from `train_parity`"""
    subtask: str = "composite_012"
    """units are kept for it"""
    counts: tuple[int, ...] = tuple(range(128, 0, -8))
    """numbers of units to keep, falling"""
    every: int = 2
    """dropped units between two measurements of the effects, where they are measured again"""
    held_out: int = 2000
    """per split: masks are chosen on the selection split, losses are those on the report split"""
    draws: int = 10
    """random masks"""
    swaps: int = 600
    """swaps that the search tries for each number of units"""

    def __post_init__(self) -> None:
        for name in ("every", "held_out", "draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; use at least 1")


class Scale(NamedTuple):
    """Networks, one per seed, and how masks are chosen for them."""

    networks: list[ParityTraining]
    choice: MaskChoice


SMALL = ParityTraining(steps=5000, stop_on=("composite_012",))
TINY = replace(SMALL, n=6, sets=((0,), (1,), (2,)), width=16, steps=400, examples=100)
SCALES = {
    "quick": Scale(
        [replace(TINY, seed=seed) for seed in range(3)],
        MaskChoice("", counts=(32, 24, 16, 8), every=4, held_out=400, draws=2, swaps=20),
    ),
    "cpu": Scale([replace(SMALL, seed=seed) for seed in range(8)], MaskChoice("")),
    "paper": Scale(
        [nonlocality_network(256, seed) for seed in range(5)],
        MaskChoice("", counts=tuple(range(512, 0, -16)), every=4, swaps=2000),
    ),
}


def choose_masks(settings: MaskChoice, results: Path) -> tuple[dict[str, Any], dict[str, Labelled]]:
    """Choose masks of several sizes for one subtask by each criterion, and measure that subtask under each.

    Args:
        settings: which network, and how masks are chosen.
        results: folder that holds the network.

    Returns:
        The losses of the whole network in nats; and on `criterion count`, losses and accuracies on the report split,
        and losses on the selection split; and the masks, on `criterion count unit` (one of the random ones).
    """
    model, world, seed = open_network(results, settings.network)
    draw = world[settings.subtask].draw
    chosen_on = draw(settings.held_out, split="selection", seed=seed)
    report = draw(settings.held_out, split="report", seed=seed)
    selection = Experiment(model, {settings.subtask: chosen_on}, folds=1)
    units = selection.units
    measured_on = Experiment(model, {"selection": chosen_on, "report": report}, folds=1)
    masks: dict[str, list[Mask]] = {
        name: masks_of(units, scores, settings.counts, every=settings.every if callable(scores) else None)
        for name, scores in _scores(selection, settings, seed).items()
    }
    random = [_random(units, settings.counts, seed * settings.draws + d) for d in range(settings.draws)]
    measured = {name: _measured(measured_on, found) for name, found in masks.items()}
    measured["random"] = np.mean([_measured(measured_on, found) for found in random], axis=0)
    masks["search"] = _searched(selection, masks, measured, settings, seed)
    measured["search"] = _measured(measured_on, masks["search"])
    masks["random"] = random[0]
    parts = np.stack([measured[name] for name in CRITERIA])  # criterion part count
    axes = {"criterion": CRITERIA, "count": [str(n) for n in settings.counts]}
    arrays = {
        name: Labelled(parts[:, i], ("criterion", "count"), axes)
        for i, name in enumerate(("selection_losses", "losses", "accuracies"))
    }
    kept = np.stack([[mask.keep for mask in masks[name]] for name in CRITERIA])
    arrays["masks"] = Labelled(kept, ("criterion", "count", "unit"), axes)
    whole = _measured(measured_on, masks_of(units, np.zeros(len(units)), [len(units)]))
    return {"seed": seed, "whole": {"selection": whole[0, 0], "report": whole[1, 0]}}, arrays


def _scores(experiment: Experiment, settings: MaskChoice, seed: int) -> dict[str, Any]:
    """Return the scores of each criterion, or a function that scores again."""
    attribution = partial(attribution_effects, curvature=8, seed=seed)
    ablated, attributed = (measure(experiment).mean(settings.subtask) for measure in (ablation_effects, attribution))
    return {
        "weight norm": group_norms(experiment.model, experiment.units),
        "attribution": np.abs(attributed),
        "attribution, signed": attributed,
        "ablation": np.abs(ablated),
        "ablation, signed": ablated,
        "attribution, again": effects_again(experiment, attribution),
        "ablation, again": effects_again(experiment, ablation_effects),
    }


def _random(units: Units, counts: Sequence[int], seed: int) -> list[Mask]:
    return masks_of(units, np.random.default_rng(seed).random(len(units)), counts)


def _measured(experiment: Experiment, masks: Sequence[Mask]) -> np.ndarray:
    """Return, on `part count`: loss where the masks were chosen, loss and accuracy on the report split."""
    curve = mask_curve(experiment, masks, draws=0)
    return np.stack([curve.losses[:, 0, 0], curve.losses[:, 0, 1], curve.accuracies[:, 0, 1]])


def _searched(
    experiment: Experiment,
    masks: Mapping[str, Sequence[Mask]],
    measured: Mapping[str, np.ndarray],
    settings: MaskChoice,
    seed: int,
) -> list[Mask]:
    """Start from the best mask of each size, and keep every swap of a kept for a dropped unit that lowers the loss."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(len(settings.counts)):
        best = min(masks, key=lambda name: measured[name][0, i])
        mask, lowest = masks[best][i], measured[best][0, i]
        for _ in range(settings.swaps if 0 < mask.dropped < len(mask.keep) else 0):
            keep = mask.keep.copy()
            keep[[rng.choice(np.flatnonzero(keep)), rng.choice(np.flatnonzero(~keep))]] = False, True
            tried = Mask(mask.units, keep)
            loss = float(experiment.losses(tried).mean())
            if loss < lowest:
                mask, lowest = tried, loss
        found.append(mask)
    return found


def measure(scale: Scale, run: Cells) -> dict[str, Any]:
    """Train the networks and choose masks for those that have learned the composite; losses in bits."""
    networks = run(train_parity, scale.networks)
    target = scale.choice.subtask
    learned = [one for one in networks if one.metrics["bits"][target] < LEARNED]
    cells = run(choose_masks, [replace(scale.choice, network=store.key(one.spec)) for one in learned])
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
