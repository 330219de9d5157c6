"""Pruned parity networks, what retraining brings back at every sparsity, and what it brings back to their controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float

from _parity import open_network, weights_of
from skilloc.ablation import ablation_effects
from skilloc.experiment import Experiment, losses
from skilloc.lasso import LocalizeConfig, localize
from skilloc.masks import Mask
from skilloc.models.makers import units_of
from skilloc.models.mlp import MLP
from skilloc.pruning import masks_of, prune, recover
from skilloc.relearning.controls import untrained
from skilloc.store import Labelled
from skilloc.tasks import Examples, Subtask
from skilloc.tasks.streams import stream
from skilloc.training import TrainConfig

KEPT, OTHER = "composite_012", "composite_345"
"""Units are kept for the first; the question is what becomes of the second."""

VARIANTS = ("as trained", "random units", "never trained", "plain finetuning", "group lasso")
LINE = 0.98
"""Accuracy on the kept composite that a pruned network must get back to."""


@dataclass(frozen=True)
class Nonlocality:
    """The spec of one cell: a trained network, what is done to it before pruning, and how it is retrained."""

    network: str
    """key of a network among the results, from `train_parity`"""
    variant: str = "as trained"
    """as trained; random units: dropped in random order; never trained: fresh weights in the shapes of `as trained`;
    plain finetuning on the kept composite; group lasso: the same with the penalty"""
    sparsities: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9,
                                     0.92, 0.94, 0.96, 0.98)  # fmt: skip
    """shares of units that are dropped"""
    held_out: int = 2000
    """held-out examples per subtask and split"""
    finetuning: int = 10_000
    """steps of finetuning"""
    finetuning_examples: int = 2000
    """examples per step of finetuning"""
    strength: float = 1e-3
    """of the penalty, in nats"""
    steps: int = 1000
    """of retraining"""
    examples: int = 1000
    """examples per step of retraining"""
    rate: float = 1e-3
    """rate of Adam, in finetuning and retraining"""

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f'unknown `variant` "{self.variant}"; use one of {", ".join(VARIANTS)}')


QUICK = Nonlocality(
    "", sparsities=(0.0, 0.3, 0.6, 0.9), steps=50, examples=100, finetuning=100, finetuning_examples=100
)
PAPER = Nonlocality("", sparsities=tuple(round(0.01 * i, 2) for i in range(99)), examples=5000)
"""How networks are pruned and retrained in seconds, and in the paper."""


def measure_nonlocality(settings: Nonlocality, results: Path) -> tuple[dict[str, Any], dict[str, Labelled]]:
    """Prune a network by the effects of its neurons on one composite, to every sparsity, and retrain what is left.

    As in the paper [Michaud et al. 2025, figures 3 and 10]: a neuron's score is the magnitude of its effect at the zero
    reference, scores are taken once, and all layers share one list. Scores are from the selection split, accuracies
    from both.

    Args:
        settings: which network, and what is done to it.
        results: folder that holds the network.

    Returns:
        Losses in nats before pruning; numbers of live units; and on `attack sparsity step batch`, where the attack is
        retraining on the kept or on the other composite and the steps are 0 and the last, accuracies and losses. And
        the weights of the variant before pruning.
    """
    original, world, seed = open_network(results, settings.network)
    model, live = _variant(settings, original, world, seed)
    masks = _masks(settings, model, world, seed)
    batches = _batches(world, settings.held_out, seed)
    found = [_recovered(settings, model, masks, world[name], batches, seed) for name in (KEPT, OTHER)]
    dims = ("attack", "sparsity", "step", "batch")
    axes = {"attack": (KEPT, OTHER), "batch": tuple(batches)}
    arrays = {
        "accuracies": Labelled(np.stack([accuracies for _, accuracies in found]), dims, axes),
        "losses": Labelled(np.stack([nats for nats, _ in found]), dims, axes),
        **weights_of(model, "model."),
    }
    metrics = {
        "seed": seed,
        "widths": list(original.cfg.widths),
        "before": {name: float(losses(model, batch).mean()) for name, batch in batches.items()},
        "live": live,
        "widths_at": [[int(mask.keep[mask.units.span(h)].sum()) for h in mask.units.hooks] for mask in masks],
    }
    return metrics, arrays


def curves(accuracies: Float[np.ndarray, "attack sparsity step batch"]) -> dict[str, Any]:
    """Return what is shown of `measure_nonlocality`: each composite's accuracy before and after retraining on it.

    Args:
        accuracies: as it measured them.

    Returns:
        `kept` and `other`, each the values by sparsity before and after, on the report split; and `selection`, those of
        the kept composite after retraining, on the selection split. JSON only.
    """
    return {
        "selection": accuracies[0, :, 1, 0].tolist(),
        "kept": accuracies[0, :, :, 1].T.tolist(),
        "other": accuracies[1, :, :, 2].T.tolist(),
    }


def line_of(sparsities: Sequence[float], shown: Mapping[str, Any]) -> float | None:
    """Return the largest sparsity at which the kept composite comes back to `LINE`, by the selection split.

    Args:
        sparsities: in the order of the values.
        shown: as of `curves`.

    Returns:
        The sparsity; None if the composite is never there, not even in the whole network.
    """
    back = [share for share, accuracy in zip(sparsities, shown["selection"], strict=True) if accuracy >= LINE]
    return max(back, default=None)


def _recovered(
    settings: Nonlocality,
    model: MLP,
    masks: list[Mask],
    target: Subtask,
    batches: Mapping[str, Examples],
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Retrain at every sparsity; return losses and accuracies on `sparsity step batch`."""
    config = TrainConfig(steps=settings.steps, rate=settings.rate, eps=1e-8)
    # A stream of its own: pretraining had `seed`, and finetuning 100 + `seed`.
    sample = stream([target], settings.examples, seed=200 + seed)
    if settings.variant != "never trained":
        found = recover(Experiment(model, batches, folds=1), masks, sample, config)
        return found.losses[:, :, 0], found.accuracies[:, :, 0]
    # Each has the initial values that a network of its own shape gets.
    fresh = [untrained(prune(model, mask), seed=1000 + seed) for mask in masks]
    whole = [Mask(units, np.ones(len(units), dtype=bool)) for units in map(units_of, fresh)]
    alone = [
        recover(Experiment(network, batches, folds=1), [mask], sample, config)
        for network, mask in zip(fresh, whole, strict=True)
    ]
    joined = [np.concatenate([getattr(one, name)[:, :, 0] for one in alone]) for name in ("losses", "accuracies")]
    return joined[0], joined[1]


def _variant(
    settings: Nonlocality, original: MLP, world: Mapping[str, Subtask], seed: int
) -> tuple[MLP, dict[str, int]]:
    """Return the network that is pruned, and its live units by layer."""
    units = units_of(original)
    everything = dict(zip(units.hooks, units.widths, strict=True))
    if settings.variant in ("as trained", "random units", "never trained"):
        return original, everything
    config = LocalizeConfig(
        training=TrainConfig(steps=settings.finetuning, rate=settings.rate, eps=1e-8, evaluate_every=1000),
        solver="subgradient",
        strength=settings.strength if settings.variant == "group lasso" else 0.0,
        examples=settings.finetuning_examples,
    )
    model, history = localize(original, [world[KEPT]], config, seed=100 + seed)
    return cast(MLP, model), {hook: int(history.of(f"live.{hook}")[-1]) for hook in units.hooks}


def _masks(settings: Nonlocality, model: MLP, world: Mapping[str, Subtask], seed: int) -> list[Mask]:
    units = units_of(model)
    if settings.variant == "random units":
        scores = np.random.default_rng(seed).permutation(len(units)).astype(np.float64)
    else:
        scores = magnitudes(model, world, settings.held_out, seed)
    return masks_of(units, scores, [count_at(len(units), share) for share in settings.sparsities])


def count_at(units: int, sparsity: float) -> int:
    """Return the number of units that are kept."""
    return units - int(units * sparsity + 1e-9)


def magnitudes(model: MLP, world: Mapping[str, Subtask], examples: int, seed: int) -> np.ndarray:
    """Return the magnitudes of the neurons' effects on the kept composite, on the selection split."""
    batch = world[KEPT].draw(examples, split="selection", seed=seed)
    effects: np.ndarray = ablation_effects(Experiment(model, {KEPT: batch}, folds=1)).mean(KEPT)
    return np.asarray(np.abs(effects))


def _batches(world: Mapping[str, Subtask], examples: int, seed: int) -> dict[str, Examples]:
    """What is measured: the kept composite, to choose the line by; and both, to state numbers on."""
    # The selection batch is not the one that units were scored on.
    chosen = world[KEPT].draw(examples, split="selection", seed=500 + seed)
    return {"selection": chosen, **{name: world[name].draw(examples, seed=seed) for name in (KEPT, OTHER)}}
