"""Settings of a training run, and what may act in it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from skilloc.mistakes import WrongType, WrongValue, positive, real, whole
from skilloc.tasks import Examples
from skilloc.tasks.losses import Loss
from skilloc.training.spread import Spread

Sample = Callable[[int], Examples]
"""The examples of a step, as a pure function of the step, counted from 0."""

Term = Callable[[nn.Module], Tensor]
"""A scalar that is added to the loss, from the model."""

Products = Literal["float32", "bfloat16"]
"""Types of the matrix products of a training step; weights, sums over blocks and the optimiser are float32."""

Optimiser = Literal["adam", "adamw", "sgd", "muon"]

Decay = Literal["none", "linear", "cosine"]


@dataclass(frozen=True)
class Objective:
    """What is descended, where that is more than a loss.

    Attributes:
        loss: the loss that is descended.
        measured: the loss that is measured on the way, and that `until` asks about; `loss` if not given.
        teacher: the model that a loss compares with; the trained one, as it was, if not given. It stays as it is.
        match: hooks of the teacher by hooks of the model of the same shape, whose activations are to agree.
        weight: of their disagreement, in units of the loss: for each example the mean over the pairs of
            |a - a_teacher|^2 / |a_teacher|^2.
    """

    loss: Loss
    measured: Loss | None = None
    teacher: nn.Module | None = None
    match: Mapping[str, str] = field(default_factory=dict)
    weight: float = 1.0

    def record(self) -> dict[str, Any]:
        """Return what names the objective, but for its teacher. JSON only."""
        measured = None if self.measured is None else self.measured.record()
        return {**self.loss.record(), "measured": measured, "match": dict(self.match), "weight": self.weight}


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
class Group:
    """Weights that are trained in a way of their own.

    Attributes:
        weights: a regular expression, searched in the names of weights; the first group that fits counts.
        optimiser: as in `TrainConfig`; "muon" for matrices only.
        rate: its rate at full height; the schedule is the run's.
        weight_decay: as in `TrainConfig`.
    """

    weights: str
    optimiser: Optimiser
    rate: float
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        positive("rate", self.rate)
        real("weight_decay", self.weight_decay, 0.0)


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run. The defaults are those of the paper's parity experiments.

    Attributes:
        steps: number of optimiser steps.
        rate: rate of the optimiser.
        optimiser: "adam", "adamw", "sgd" with momentum, or "muon" (orthogonalised momentum, for matrices only).
        eps: added to the root in Adam and AdamW.
        betas: decay of the two averages in Adam and AdamW.
        momentum: of SGD and Muon.
        weight_decay: added to gradients as weight_decay * weights; in AdamW, weights shrink by rate * weight_decay.
        evaluate_every: steps between evaluations; there is one before the first step and one after the last.
        evaluate_at: evaluate after these numbers of steps instead, for instance on a logarithmic scale.
        until: stop at the evaluation where the loss on each of these subtasks is below its value; so may a column of
            the history that a rule adds.
        products: type of the matrix products, "float32" or "bfloat16"; weights, gradients and Adam stay float32. It is
            part of the record and never chosen by what is faster here: see `training.products`.
        warm_up: part of the steps over which the rate rises linearly to its full height.
        decay: what the rate does after that: "none", or "linear" or "cosine" to 0 where the steps end.
        clip: scale all gradients down together where their norm is above this; None for never.
        groups: weights with an optimiser, a rate and a decay of their own; the others have those above.
        spread: over how many processes, and in how many pieces.

    Example:
        >>> import skilloc as sk
        >>> sk.TrainConfig(steps=100, rate=1e-2).optimiser
        'adam'
    """

    steps: int
    rate: float = 1e-3
    optimiser: Optimiser = "adam"
    eps: float = 1e-5
    weight_decay: float = 0.0
    evaluate_every: int = 250
    evaluate_at: tuple[int, ...] = ()
    until: Mapping[str, float] = field(default_factory=dict)
    products: Products = "float32"
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    warm_up: float = 0.0
    decay: Decay = "none"
    clip: float | None = None
    groups: tuple[Group, ...] = ()
    spread: Spread = field(default_factory=Spread)

    def __post_init__(self) -> None:
        whole("steps", self.steps)
        whole("evaluate_every", self.evaluate_every)
        for step in self.evaluate_at:
            whole("evaluate_at", step)
        for name in ("rate", "eps"):
            positive(name, getattr(self, name))
        real("weight_decay", self.weight_decay, 0.0)
        real("momentum", self.momentum, 0.0, 1.0, open_ends=(False, True))
        for beta in self.betas:
            real("betas", beta, 0.0, 1.0, open_ends=(False, True))
        for name, value in self.until.items():
            real(f"until[{name}]", value)
        real("warm_up", self.warm_up, 0.0, 1.0, open_ends=(False, True))
        if self.clip is not None:
            positive("clip", self.clip)

    def record(self) -> dict[str, Any]:
        """Return what names a run's settings: not how it is spread, which changes nothing but rounding. JSON only."""
        return {name: value for name, value in asdict(self).items() if name != "spread"}


def check(config: TrainConfig, evaluate: Mapping[str, Examples], terms: Mapping[str, Term]) -> None:
    """Refuse settings that are out of range or do not go together.

    Raises:
        ValueError: if so.
    """
    for name, batch in evaluate.items():
        if not isinstance(batch, Examples):
            raise WrongType(
                f'`evaluate` has a {type(batch).__name__} as "{name}"; pass examples, such as subtask.draw(256)'
            )
    if config.evaluate_at and not 1 <= min(config.evaluate_at) <= max(config.evaluate_at) <= config.steps:
        raise WrongValue(f"`evaluate_at` is {config.evaluate_at} but `steps` {config.steps}; use steps from 1 to that")
    for name, value, allowed in (
        *(("optimiser", kind, Optimiser) for kind in (config.optimiser, *(group.optimiser for group in config.groups))),
        ("products", config.products, Products),
        ("decay", config.decay, Decay),
    ):
        if value not in get_args(allowed):
            raise WrongValue(f'unknown `{name}` "{value}"; use one of {", ".join(get_args(allowed))}')
    if taken := {"step", "examples", "loss", "unit"} & {*evaluate, *terms} or set(evaluate) & set(terms):
        raise WrongValue(f"{sorted(taken)} name several columns of the history; use other names")


def check_loss(loss: Loss, *, kept: bool) -> None:
    """Refuse a loss that cannot be trained on.

    Args:
        loss: the loss.
        kept: whether the run leaves something on disk that a later call goes on from.

    Raises:
        ValueError: if it has no gradient, or something is to be kept under a name that the loss has not.
    """
    if not loss.differentiable:
        raise WrongValue(
            f'`loss` is "{loss.name}", which is a count and has no gradient to train by; train on a smooth loss such '
            f"as cross_entropy, and measure {loss.name} of what comes of it"
        )
    if kept and loss.identity is None:
        raise WrongValue(
            f'`loss` is "{loss.name}", which has no name that a later call could compare, so that this run cannot be '
            "gone on with; define it at the top level of a module that can be imported, or keep nothing on disk"
        )
