"""Ways to choose which units of a parity network are kept for a subtask, and what each keeps of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from skilloc.experiments.specs import settings_of

if TYPE_CHECKING:
    from skilloc.experiment import Experiment
    from skilloc.masks import Mask
    from skilloc.store import Labelled
    from skilloc.units import Units

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


@dataclass(frozen=True)
class MaskChoice:
    """The spec of one cell: a trained network, and how masks are chosen for it."""

    networks: str
    """folder of a sweep"""
    network: str
    """key of a network in it, from `train_parity`"""
    subtask: str = "composite_012"
    """units are kept for it"""
    counts: tuple[int, ...] = tuple(range(128, 0, -8))
    """numbers of units to keep, falling"""
    every: int = 2
    """dropped units between two measurements of the effects, where they are measured again"""
    examples: int = 2000
    """per split: masks are chosen on the selection split, losses are those on the report split"""
    draws: int = 10
    """random masks"""
    swaps: int = 600
    """swaps that the search tries for each number of units"""

    def __post_init__(self) -> None:
        for name in ("every", "examples", "draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; use at least 1")


def choose_masks(spec: Mapping[str, Any]) -> "tuple[dict[str, Any], dict[str, Labelled]]":
    """Choose masks of several sizes for one subtask by each criterion, and measure that subtask under each.

    Args:
        spec: the fields of `MaskChoice`.

    Returns:
        The losses of the whole network in nats; and on `criterion count`, losses and accuracies on the report split,
        and losses on the selection split; and the masks, on `criterion count unit` (one of the random ones).
    """
    # Late: `skilloc sweep list` reads this file, and must not wait for torch.
    from skilloc.experiment import Experiment
    from skilloc.experiments.nonlocality import open_network
    from skilloc.pruning import masks_of
    from skilloc.store import Labelled

    settings = settings_of(MaskChoice, spec)
    model, world, seed = open_network(settings.networks, settings.network)
    draw = world[settings.subtask].draw
    chosen_on = draw(settings.examples, split="selection", seed=seed)
    report = draw(settings.examples, split="report", seed=seed)
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


def _scores(experiment: "Experiment", settings: MaskChoice, seed: int) -> dict[str, Any]:
    """Return the scores of each criterion, or a function that scores again."""
    from skilloc.ablation import ablation_effects
    from skilloc.attribution import attribution_effects
    from skilloc.lasso import group_norms
    from skilloc.pruning import effects_again

    attribution = partial(attribution_effects, curvature=8, seed=seed)
    ablated, attributed = (measure(experiment).mean(settings.subtask) for measure in (ablation_effects, attribution))
    return {
        "weight norm": group_norms(experiment.model, experiment.units),
        "attribution": np.abs(attributed),
        "attribution, signed": attributed,
        "ablation": np.abs(ablated),
        "ablation, signed": ablated,
        "attribution, again": effects_again(experiment, measure=attribution),
        "ablation, again": effects_again(experiment),
    }


def _random(units: "Units", counts: Sequence[int], seed: int) -> "list[Mask]":
    from skilloc.pruning import masks_of

    return masks_of(units, np.random.default_rng(seed).random(len(units)), counts)


def _measured(experiment: "Experiment", masks: "Sequence[Mask]") -> np.ndarray:
    """Return, on `part count`: loss where the masks were chosen, loss and accuracy on the report split."""
    from skilloc.pruning import mask_curve

    curve = mask_curve(experiment, masks, draws=0)
    return np.stack([curve.losses[:, 0, 0], curve.losses[:, 0, 1], curve.accuracies[:, 0, 1]])


def _searched(
    experiment: "Experiment",
    masks: "Mapping[str, Sequence[Mask]]",
    measured: Mapping[str, np.ndarray],
    settings: MaskChoice,
    seed: int,
) -> "list[Mask]":
    """Start from the best mask of each size, and keep every swap of a kept for a dropped unit that lowers the loss."""
    from skilloc.masks import Mask

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
