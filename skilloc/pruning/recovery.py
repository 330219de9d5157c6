"""Recovery: train what pruning left, at many sparsity levels, for less than training each alone (`training.many`)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int
from torch import nn

from skilloc.experiment import Experiment
from skilloc.masks import Mask
from skilloc.mistakes import WrongValue
from skilloc.pruning.scored import scored
from skilloc.pruning.scoring import check_prunable, loss_of_whole
from skilloc.pruning.smaller import prune
from skilloc.store.progress import counter
from skilloc.training import Sample, TrainConfig
from skilloc.training.many import retrain


@dataclass(frozen=True)
class Recovery:
    """How smaller networks do after retraining.

    Attributes:
        losses: in the unit of the loss, on `mask step fold subtask`.
        accuracies: share of examples that are right, on the same axes; NaN where examples are sequences.
        steps: optimiser steps taken, on `step`; the first is 0, no recovery.
        kept: number of units that each mask keeps.
        subtasks: names on the subtask axis.
        unit: of the loss: "nats", "logits", "share" or a user's own.
    """

    losses: Float64[np.ndarray, "mask step fold subtask"]
    accuracies: Float64[np.ndarray, "mask step fold subtask"]
    steps: tuple[int, ...]
    kept: Int[np.ndarray, " mask"]
    subtasks: tuple[str, ...]
    unit: str = "nats"


def recover(experiment: Experiment, masks: Sequence[Mask], sample: Sample, config: TrainConfig) -> Recovery:
    """Prune a model by each mask, and train each of the smaller ones on the same examples, to lower the same loss.

    The result is that of pruning by each mask and training alone (to float tolerance). Chains of ReLUs take their steps
    together, at 1.4 to 5 times the speed, where the loss is the negative log-likelihood of targets; other models and
    losses are trained one after the other.

    Args:
        experiment: the model, which is left as it was, the loss, and the examples that are measured. Dropped units are
            cut out at its reference.
        masks: which units each smaller model keeps.
        sample: the examples of each step, the same for all models.
        config: steps, rate, optimiser; `evaluate_at` says after which steps to measure besides before the first and
            after the last. Rules, terms and `until` have no place here.

    Raises:
        ValueError: if there are no masks, units cannot be cut out, the loss cannot be trained on, or a setting is out
            of range.
        FloatingPointError: if a loss is not finite, with the step.
    """
    if not masks or config.until or config.products != "float32":
        raise WrongValue(
            f"`masks` has {len(masks)} masks, `config.until` is {dict(config.until)} and `config.products` "
            f'"{config.products}"; pass at least one mask, and leave the others out'
        )
    experiment.check_masks(masks)
    experiment.metric.check_differentiable()
    folded, at = experiment.folded, tuple(sorted({0, *config.evaluate_at, config.steps}))
    check_prunable(experiment)
    found = np.empty((len(masks), len(at), 2, folded.folds, len(folded.subtasks)))
    models = (_pruned(experiment, mask) for mask in masks)
    with counter(len(masks), "recovering") as bar:
        for i, seen in retrain(
            models, sample, config, lambda model: scored(experiment, model=model), loss=loss_of_whole(experiment)
        ):
            found[i] = seen
            bar.update()
    kept = np.array([mask.keep.sum() for mask in masks])
    return Recovery(found[:, :, 0], found[:, :, 1], at, kept, folded.subtasks, experiment.metric.unit)


def _pruned(experiment: Experiment, mask: Mask) -> nn.Module:
    smaller = prune(experiment.model, mask, reference=experiment.held, examples=experiment.folded.examples)
    return smaller.requires_grad_(True)
