"""Optimisers from settings: one for all weights, or several for groups of them, with a rate that may change."""

import math
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from skilloc.mistakes import WrongValue
from skilloc.training.settings import Group, Optimiser, TrainConfig


def optimiser_of(parameters: Iterable[tuple[str, nn.Parameter]], config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimiser of a run.

    Args:
        parameters: names and weights; those that need no gradient are left out.
        config: the settings.

    Raises:
        ValueError: if a group of `config.groups` names no weight.
    """
    rest = {name: weight for name, weight in parameters if weight.requires_grad}
    made = []
    for group in config.groups:
        own = {name: weight for name, weight in rest.items() if re.search(group.weights, name)}
        if not own:
            raise WrongValue(f'`groups` has "{group.weights}", which no weight is called by; there are {_some(rest)}')
        rest = {name: weight for name, weight in rest.items() if name not in own}
        made.append(_one(group.optimiser, list(own.values()), group, config))
    if rest:
        own_group = Group("", config.optimiser, config.rate, config.weight_decay)
        made.append(_one(config.optimiser, list(rest.values()), own_group, config))
    optimiser = made[0] if len(made) == 1 and config.clip is None else Together(made, clip=config.clip)
    for settings in optimiser.param_groups:
        settings["full_rate"] = settings["lr"]
    return optimiser


def _some(names: Iterable[str]) -> str:
    found = list(names)
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def _one(kind: Optimiser, weights: list[nn.Parameter], group: Group, config: TrainConfig) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {"lr": group.rate, "weight_decay": group.weight_decay}
    if kind == "muon":
        if flat := [tuple(weight.shape) for weight in weights if weight.ndim != 2]:
            raise WrongValue(
                f'muon is for matrices, but "{group.weights}" names weights of shape {flat[0]}; give those to another '
                "group"
            )
        make = torch.optim.Muon if config.products == "bfloat16" else Muon
        return make(weights, momentum=config.momentum, **settings)
    # The fused step takes one pass over the memory, and no Python per tensor.
    if kind == "sgd":
        return torch.optim.SGD(weights, momentum=config.momentum, fused=True, **settings)
    adam = torch.optim.Adam if kind == "adam" else torch.optim.AdamW
    return adam(weights, eps=config.eps, betas=config.betas, fused=True, **settings)


def rate_factor(step: int, config: TrainConfig) -> float:
    """Return the part of the full rate at a step, counted from 0.

    It rises linearly over the first `warm_up` of the steps, and is then 1, or falls to 0 where the steps end, along a
    line or half a cosine.
    """
    warm = round(config.warm_up * config.steps)
    rise = min(1.0, (step + 1) / max(1, warm))
    left = min(1.0, (config.steps - step) / max(1, config.steps - warm))
    if config.decay == "linear":
        return min(rise, left)
    if config.decay == "cosine":
        return min(rise, (1 - math.cos(math.pi * left)) / 2)
    return rise


def set_rates(optimiser: torch.optim.Optimizer, step: int, config: TrainConfig) -> None:
    """Give all groups of weights the rate that they have at a step."""
    factor = rate_factor(step, config)
    for group in optimiser.param_groups:
        group["lr"] = group["full_rate"] * factor


class Muon(torch.optim.Muon):
    """torch's Muon with its products in float32: torch's are in bfloat16, which many processors multiply slowly.

        W <- (1 - rate * decay) W - rate * sqrt(max(1, d_out / d_in)) * O

    with O the gradient, mixed with its running mean, made orthogonal by Newton and Schulz' iteration.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight.grad)
                mean = state["momentum_buffer"].lerp_(weight.grad, 1 - group["momentum"])
                moved = weight.grad.lerp(mean, group["momentum"]) if group["nesterov"] else mean
                rate = group["lr"] * math.sqrt(max(1.0, weight.shape[0] / weight.shape[1]))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(_orthogonal(moved, group["ns_coefficients"], group["ns_steps"], group["eps"]), alpha=-rate)


def _orthogonal(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    a, b, c = coefficients
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


class Together(torch.optim.Optimizer):
    """Several optimisers as one: their groups, states and steps, one after the other.

    Attributes:
        parts: the optimisers.
        clip: all gradients are scaled down together before a step where their norm is above this; None for never.
    """

    def __init__(self, parts: list[torch.optim.Optimizer], *, clip: float | None) -> None:
        # The base class would take the weights itself.
        self.parts, self.clip = parts, clip

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of all parts."""
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict[Any, Any]:  # type: ignore[override]
        """The state of all weights; what it holds per weight is that of its part, not a copy."""
        return {weight: kept for part in self.parts for weight, kept in part.state.items()}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step with each part."""
        if self.clip is not None:
            weights = [weight for group in self.param_groups for weight in group["params"]]
            torch.nn.utils.clip_grad_norm_(weights, self.clip)
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all parts, with the weights numbered through."""
        state: dict[int, Any] = {}
        first = 0
        for part in self.parts:
            own = part.state_dict()
            state |= {first + i: kept for i, kept in own["state"].items()}
            first += sum(len(group["params"]) for group in part.param_groups)
        return {"state": state, "param_groups": []}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        first = 0
        for part in self.parts:
            count = sum(len(group["params"]) for group in part.param_groups)
            own = {i - first: kept for i, kept in state_dict["state"].items() if first <= i < first + count}
            part.load_state_dict({**part.state_dict(), "state": own})
            first += count
