"""Recovery: train what pruning left, at many sparsity levels, for less than training each alone.

All networks see the same examples at each step, and those of about the same size take their steps together (`stack`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int
from torch import Tensor
from tqdm import tqdm

from skilloc.intervene import Folded, fold
from skilloc.masks import Mask
from skilloc.models.mlp import MLP
from skilloc.pruning.scored import scored
from skilloc.pruning.smaller import prune
from skilloc.pruning.stack import Stack, stackable
from skilloc.tasks import Examples
from skilloc.training import Sample, TrainConfig
from skilloc.training.settings import check, optimiser_of
from skilloc.training.step import gradients_of, take_step

WIDTH = 400
"""Neurons of the widest layer of a stack, together: more would leave too few examples per block of activations."""


@dataclass(frozen=True)
class Recovery:
    """How smaller networks do after retraining.

    Attributes:
        losses: nats, on `mask step fold subtask`.
        accuracies: share of examples that are right, on the same axes.
        steps: optimiser steps taken, on `step`; the first is 0, no recovery.
        kept: number of units that each mask keeps.
        subtasks: names on the subtask axis.
    """

    losses: Float64[np.ndarray, "mask step fold subtask"]
    accuracies: Float64[np.ndarray, "mask step fold subtask"]
    steps: tuple[int, ...]
    kept: Int[np.ndarray, " mask"]
    subtasks: tuple[str, ...]


def recover(
    model: MLP,
    masks: Sequence[Mask],
    sample: Sample,
    config: TrainConfig,
    *,
    batches: Mapping[str, Examples],
    folds: int = 8,
) -> Recovery:
    """Prune a network by each mask, and train each of the smaller networks on the same examples.

    The result is that of pruning by each mask and training alone (to float tolerance), at 1.4 to 5 times the speed.

    Args:
        model: the network; it is left as it was.
        masks: which units each smaller network keeps.
        sample: the examples of each step, in nats per example, the same for all networks.
        config: steps, rate, optimiser; `evaluate_at` says after which steps to measure besides before the first and
            after the last. Rules, terms and `until` have no place here.
        batches: what is measured, by subtask.
        folds: disjoint parts of each batch.

    Raises:
        ValueError: if there are no masks, or a setting is out of range.
        FloatingPointError: if a loss is not finite, with the step.
    """
    check(config, batches, {})
    if not masks or config.until or config.products != "float32":
        raise ValueError(
            f"`masks` has {len(masks)} masks, `config.until` is {dict(config.until)} and `config.products` "
            f'"{config.products}"; pass at least one mask, and leave the others out'
        )
    folded = fold(batches, folds)
    at = tuple(sorted({0, *config.evaluate_at, config.steps}))
    networks = [prune(model, mask) for mask in masks]
    order = sorted(range(len(masks)), key=lambda i: max(networks[i].cfg.widths))
    found = np.empty((len(masks), len(at), 2, folded.folds, len(folded.subtasks)))
    with tqdm(total=len(masks), desc="recovering", disable=None) as bar:
        for group in _groups(networks, order):
            found[group] = _trained([networks[i] for i in group], sample, config, folded, at)
            bar.update(len(group))
    kept = np.array([mask.keep.sum() for mask in masks])
    return Recovery(found[:, :, 0], found[:, :, 1], at, kept, folded.subtasks)


def _groups(networks: Sequence[MLP], order: Sequence[int]) -> list[list[int]]:
    """Return neighbours in size, as many as fit into a stack."""
    groups: list[list[int]] = []
    total = WIDTH
    for i in order:
        width = max(networks[i].cfg.widths)
        total += width
        if total > WIDTH or not stackable([networks[i], networks[groups[-1][0]]]):
            groups.append([])
            total = width
        groups[-1].append(i)
    return groups


def _trained(
    networks: Sequence[MLP], sample: Sample, config: TrainConfig, folded: Folded, at: Sequence[int]
) -> Float64[np.ndarray, "network step 2 fold subtask"]:
    """Train some networks together, and score them at each of some steps."""
    found = [[scored(net, folded) for net in networks]]
    take = _steps(networks, config)
    for step in range(config.steps):
        loss = take(*sample(step))
        if not np.isfinite(loss):
            raise FloatingPointError(
                f"loss is {loss} at step {step} with `lr` {config.lr}; use a smaller `lr`, and look for NaN in the data"
            )
        if step + 1 in at:
            found.append([scored(net, folded) for net in networks])
    return np.stack(found, axis=1)


def _steps(networks: Sequence[MLP], config: TrainConfig) -> Callable[[Tensor, Tensor], float]:
    """Return a function of examples that takes one step of all networks, and returns the sum of their losses."""
    if stackable(networks):
        stack = Stack(networks)
        together = optimiser_of([stack.weights], config)

        def take(inputs: Tensor, targets: Tensor) -> float:
            losses = stack.gradients(inputs, targets)
            together.step()
            return float(losses.sum())

        return take
    (network,) = networks
    alone, gradients = optimiser_of(list(network.parameters()), config), gradients_of(network, products="float32")
    return lambda inputs, targets: take_step(network, alone, (inputs, targets), gradients, {})[0]["loss"]
