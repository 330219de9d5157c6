"""Settings of a training run, and what may act in it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from skilloc.losses import Loss
from skilloc.tasks import Examples

Sample = Callable[[int], Examples]
"""The examples of a step, as a pure function of the step, counted from 0."""

Term = Callable[[nn.Module], Tensor]
"""A scalar that is added to the loss, from the model."""

Products = Literal["float32", "bfloat16"]
"""Types of the matrix products of a training step; weights, sums over blocks and the optimiser are float32."""

Optimiser = Literal["adam", "adamw", "sgd"]

MOMENTUM = 0.9
"""Of SGD."""


@runtime_checkable
class Rule(Protocol):
    """What acts on the weights after each optimiser step; see `pruning.keep` and `lasso.localize`."""

    def after_step(self, optimiser: torch.optim.Optimizer) -> None:
        """Change weights, and the optimiser's state that belongs to them, in place."""

    def after_evaluation(self, row: Mapping[str, float]) -> Mapping[str, float]:
        """Look at a new row of the history, adapt, and return columns to add to it; always the same names."""

    def state(self) -> Mapping[str, float]:
        """Return what a checkpoint must hold of this rule."""

    def restore(self, state: Mapping[str, float]) -> None:
        """Put back what `state` returned."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run. The defaults are those of the paper's parity experiments.

    Attributes:
        steps: number of optimiser steps.
        lr: rate of the optimiser.
        optimiser: "adam", "adamw" or "sgd" (with momentum 0.9).
        eps: added to the root in Adam and AdamW.
        weight_decay: added to gradients as weight_decay * weights; in AdamW, weights shrink by lr * weight_decay.
        evaluate_every: steps between evaluations; there is one before the first step and one after the last.
        evaluate_at: evaluate after these numbers of steps instead, for instance on a logarithmic scale.
        until: stop at the evaluation where the loss on each of these subtasks is below its value.
        products: type of the matrix products, "float32" or "bfloat16"; weights, gradients and Adam stay float32. It is
            part of the record and never chosen by what is faster here: see `training.products`.
    """

    steps: int
    lr: float = 1e-3
    optimiser: Optimiser = "adam"
    eps: float = 1e-5
    weight_decay: float = 0.0
    evaluate_every: int = 250
    evaluate_at: tuple[int, ...] = ()
    until: Mapping[str, float] = field(default_factory=dict)
    products: Products = "float32"


def check(config: TrainConfig, evaluate: Mapping[str, Examples], terms: Mapping[str, Term]) -> None:
    """Refuse settings that are out of range or do not go together.

    Raises:
        ValueError: if so.
    """
    if config.steps < 1 or config.evaluate_every < 1:
        raise ValueError(
            f"`steps` is {config.steps} and `evaluate_every` {config.evaluate_every}; use at least 1 of each"
        )
    if config.evaluate_at and not 1 <= min(config.evaluate_at) <= max(config.evaluate_at) <= config.steps:
        raise ValueError(f"`evaluate_at` is {config.evaluate_at} but `steps` {config.steps}; use steps from 1 to that")
    if config.lr <= 0 or config.eps <= 0 or config.weight_decay < 0:
        raise ValueError(
            f"`lr` is {config.lr}, `eps` {config.eps} and `weight_decay` {config.weight_decay}; use positive numbers"
        )
    if config.optimiser not in get_args(Optimiser):
        raise ValueError(f'unknown `optimiser` "{config.optimiser}"; use one of {", ".join(get_args(Optimiser))}')
    if config.products not in get_args(Products):
        raise ValueError(f'unknown `products` "{config.products}"; use one of {", ".join(get_args(Products))}')
    if taken := {"step", "examples", "loss", "unit"} & {*evaluate, *terms} or set(evaluate) & set(terms):
        raise ValueError(f"{sorted(taken)} name several columns of the history; use other names")
    for name in set(config.until) - set(evaluate):
        raise ValueError(f'`until` names "{name}", which is not evaluated; add its batch to `evaluate`')


def check_loss(loss: Loss, *, kept: bool) -> None:
    """Refuse a loss that cannot be trained on.

    Args:
        loss: the loss.
        kept: whether the run leaves something on disk that a later call goes on from.

    Raises:
        ValueError: if it has no gradient, or something is to be kept under a name that the loss has not.
    """
    if not loss.differentiable:
        raise ValueError(
            f'`loss` is "{loss.name}", which is a count and has no gradient to train by; train on a smooth loss such '
            f"as cross_entropy, and measure {loss.name} of what comes of it"
        )
    if kept and loss.identity is None:
        raise ValueError(
            f'`loss` is "{loss.name}", which has no name that a later call could compare, so that this run cannot be '
            "gone on with; define it at the top level of a module that can be imported, or keep nothing on disk"
        )


def optimiser_of(parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimiser of a run."""
    # The fused step takes one pass over the memory, and no Python per tensor.
    if config.optimiser == "sgd":
        return torch.optim.SGD(
            parameters, lr=config.lr, momentum=MOMENTUM, weight_decay=config.weight_decay, fused=True
        )
    kind = torch.optim.Adam if config.optimiser == "adam" else torch.optim.AdamW
    return kind(parameters, lr=config.lr, eps=config.eps, weight_decay=config.weight_decay, fused=True)
