"""Recovery: train what pruning left, at many sparsity levels, for less than training each alone.

All networks see the same examples at each step, and those of about the same size take their steps together (`stack`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import nn
from tqdm import tqdm

from skilloc.ablation import check_masks
from skilloc.experiment import Experiment
from skilloc.masks import Mask
from skilloc.models.face import Chain
from skilloc.models.makers import face_of
from skilloc.pruning.scored import scored
from skilloc.pruning.scoring import check_prunable, loss_of_whole
from skilloc.pruning.smaller import prune
from skilloc.pruning.stack import Stack, stackable
from skilloc.training import Sample, TrainConfig, train
from skilloc.training.optimisers import optimiser_of, set_rates
from skilloc.training.settings import check

WIDTH = 400
"""Neurons of the widest layer of a stack, together: more would leave too few examples per block of activations."""


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
        raise ValueError(
            f"`masks` has {len(masks)} masks, `config.until` is {dict(config.until)} and `config.products` "
            f'"{config.products}"; pass at least one mask, and leave the others out'
        )
    check(config, {}, {})
    check_masks(experiment, masks)
    experiment.metric.check_differentiable()
    folded, at = experiment.folded, tuple(sorted({0, *config.evaluate_at, config.steps}))
    check_prunable(experiment)
    found = np.empty((len(masks), len(at), 2, folded.folds, len(folded.subtasks)))
    with tqdm(total=len(masks), desc="recovering", disable=None) as bar:
        by_one = bool(config.groups) or config.clip is not None or config.optimiser == "muon"
        if by_one or experiment.metric.targets is None or not stackable(experiment.face.chain):
            for i, mask in enumerate(masks):
                found[i] = _alone(experiment, _pruned(experiment, mask), sample, config, at)
                bar.update()
        else:
            models = [_pruned(experiment, mask) for mask in masks]
            for group in _groups(models):
                found[group] = _together(experiment, [models[i] for i in group], sample, config, at)
                bar.update(len(group))
    kept = np.array([mask.keep.sum() for mask in masks])
    return Recovery(found[:, :, 0], found[:, :, 1], at, kept, folded.subtasks, experiment.metric.unit)


def _pruned(experiment: Experiment, mask: Mask) -> nn.Module:
    return prune(experiment.model, mask, reference=experiment.held, examples=experiment.folded.examples)


def _chain(model: nn.Module) -> Chain:
    chain = face_of(model).chain
    assert chain is not None
    return chain


def _groups(models: Sequence[nn.Module]) -> list[list[int]]:
    """Return neighbours in size, as many as fit into a stack."""
    widths = [max(len(linear.bias) for linear in _chain(model).linears[:-1]) for model in models]
    groups: list[list[int]] = []
    total = WIDTH
    for i in sorted(range(len(models)), key=widths.__getitem__):
        total += widths[i]
        if total > WIDTH:
            groups.append([])
            total = widths[i]
        groups[-1].append(i)
    return groups


def _together(
    experiment: Experiment, models: Sequence[nn.Module], sample: Sample, config: TrainConfig, at: Sequence[int]
) -> Float64[np.ndarray, "network step 2 fold subtask"]:
    """Train some networks as a stack, and score them at each of some steps."""
    targets_of = experiment.metric.targets
    assert targets_of is not None
    stack = Stack([_chain(model) for model in models])
    optimiser = optimiser_of([("stack", stack.weights)], config)
    found = [[scored(experiment, model=model) for model in models]]
    for step in range(config.steps):
        set_rates(optimiser, step, config)
        examples = sample(step)
        loss = float(stack.gradients(examples.first, targets_of(examples)).sum())
        optimiser.step()
        if not np.isfinite(loss):
            raise FloatingPointError(
                f"loss is {loss} at step {step} with `lr` {config.lr}; use a smaller `lr`, and look for NaN in the data"
            )
        if step + 1 in at:
            found.append([scored(experiment, model=model) for model in models])
    return np.stack(found, axis=1)


def _alone(
    experiment: Experiment, model: nn.Module, sample: Sample, config: TrainConfig, at: Sequence[int]
) -> Float64[np.ndarray, "step 2 fold subtask"]:
    """Train one model by the training loop, and score it at each of some steps."""
    look = _Look(experiment, model)
    model.requires_grad_(True)
    own = replace(config, evaluate_at=tuple(at[1:]))
    train(model, sample, own, loss=loss_of_whole(experiment), evaluate={}, rules=[look], progress=False)
    return np.stack(look.found)


class _Look:
    """Scores a model whenever the training loop evaluates it; a rule that changes nothing."""

    def __init__(self, experiment: Experiment, model: nn.Module) -> None:
        self.experiment, self.model = experiment, model
        self.found = [scored(experiment, model=model)]

    def after_step(self, optimiser: torch.optim.Optimizer) -> None:
        """Change nothing."""

    def after_evaluation(self, row: Mapping[str, float]) -> Mapping[str, float]:
        """Score the model; the row before the first step comes after it, when it is too late."""
        if row["step"] > 0:
            self.found.append(scored(self.experiment, model=self.model))
        return {}

    def state(self) -> Mapping[str, float]:
        """Return nothing: these runs write no checkpoints."""
        return {}

    def restore(self, state: Mapping[str, float]) -> None:
        """Put back nothing."""
