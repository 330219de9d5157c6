"""Networks trained in a parity world: the cells of curricula, depths, and of whatever is measured on such networks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from skilloc.experiments.specs import settings_of

if TYPE_CHECKING:
    from skilloc.models.mlp import MLP
    from skilloc.store import Labelled, Result
    from skilloc.tasks import Subtask

EVALUATED = 2000
"""Held-out examples per subtask."""


@dataclass(frozen=True)
class ParityTraining:
    """The spec of one cell: a world, what of it is trained, a network, and how it is trained."""

    n: int = 24
    """task bits"""
    sets: tuple[tuple[int, ...], ...] = ((0, 1, 2), (3, 4, 5), (6, 7, 8))
    """index set of each atom"""
    composites: tuple[tuple[int, ...], ...] = ((0, 1, 2),)
    """atoms of each composite"""
    trained: tuple[str, ...] = ()
    """names of the trained subtasks; none stands for all"""
    watched: tuple[str, ...] = ()
    """subtasks that are evaluated besides the trained ones"""
    each: int = 250
    """examples per trained subtask and step"""
    width: int = 64
    """neurons per hidden layer"""
    depth: int = 3
    """linear layers"""
    steps: int = 3000
    """steps of Adam, at most"""
    lr: float = 5e-3
    """its rate"""
    eps: float = 1e-5
    """its constant"""
    evaluate_every: int = 250
    """steps between evaluations"""
    stop_on: tuple[str, ...] = ()
    """stop when all these subtasks are below `stop_below`"""
    stop_below: float = 0.02
    """loss in bits, on the selection split"""
    products: Literal["float32", "bfloat16"] = "float32"
    """type of the matrix products"""
    seed: int = 0
    """of the initial weights and of the examples"""

    def __post_init__(self) -> None:
        for name in ("each", "width", "steps", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; use at least 1")
        if self.products not in ("float32", "bfloat16"):
            raise ValueError(f'unknown `products` "{self.products}"; use float32 or bfloat16')


def train_parity(spec: Mapping[str, Any]) -> "tuple[dict[str, Any], dict[str, Labelled]]":
    """Train a network in a parity world.

    Args:
        spec: the fields of `ParityTraining`.

    Returns:
        The history (losses in nats on the selection split), the losses at the end in bits on the report split, and the
        number of steps; and the weights, by parameter name.
    """
    # Late: `skilloc sweep list` reads this file, and must not wait for torch.
    from skilloc.intervene import losses
    from skilloc.store import Labelled
    from skilloc.tasks.parity import parity_stream
    from skilloc.training import TrainConfig, train

    settings = _settings(spec)
    world = world_of(spec)
    trained = [world[name] for name in settings.trained or world]
    watched = [*trained, *(world[name] for name in settings.watched)]
    model = _network(settings)
    config = TrainConfig(
        steps=settings.steps,
        lr=settings.lr,
        eps=settings.eps,
        evaluate_every=settings.evaluate_every,
        until={name: settings.stop_below * math.log(2) for name in settings.stop_on},
        products=settings.products,
    )
    history = train(
        model,
        parity_stream(trained, settings.each, seed=settings.seed),
        config,
        evaluate={subtask.name: subtask.draw(EVALUATED, split="selection", seed=settings.seed) for subtask in watched},
    )
    held_out = {subtask.name: subtask.draw(EVALUATED, split="report", seed=settings.seed) for subtask in watched}
    metrics = {
        "steps": int(history.of("step")[-1]),
        "bits": {name: float(losses(model, batch).mean()) / math.log(2) for name, batch in held_out.items()},
        "history": history.record(),
    }
    weights = {
        name: Labelled(value.detach().numpy(), tuple(f"axis_{i}" for i in range(value.ndim)))
        for name, value in model.state_dict().items()
    }
    return metrics, weights


def world_of(spec: Mapping[str, Any]) -> "dict[str, Subtask]":
    """Return all subtasks of the world of a spec."""
    from skilloc.tasks.parity import parity_subtasks

    return parity_subtasks(spec["n"], atoms=spec["sets"], composites=spec["composites"])


def network_of(result: "Result") -> "MLP":
    """Return the network that a cell trained, from its stored result."""
    import torch

    model = _network(_settings(result.spec))
    model.load_state_dict({name: torch.from_numpy(array.values) for name, array in result.arrays.items()})
    return model


def _settings(spec: Mapping[str, Any]) -> ParityTraining:
    """Return what a spec says; a stored one also has what the sweep added, and an old one `bf16` for `products`."""
    names = {field.name for field in fields(ParityTraining)}
    old = {"products": "bfloat16" if spec["bf16"] else "float32"} if "bf16" in spec else {}
    return settings_of(ParityTraining, {**{name: value for name, value in spec.items() if name in names}, **old})


def _network(settings: ParityTraining) -> "MLP":
    from skilloc.models.mlp import MLP

    return MLP(len(settings.sets) + settings.n, 2, settings.width, settings.depth, seed=settings.seed)
