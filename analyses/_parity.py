"""Networks trained in a parity world: the cells of curricula, depths, and of whatever is measured on such networks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch

from skilloc import store
from skilloc.experiment import losses
from skilloc.models.mlp import MLP
from skilloc.store import Labelled
from skilloc.sweep.settings import settings_of
from skilloc.tasks import Subtask
from skilloc.tasks.parity import parity_stream, parity_subtasks
from skilloc.training import TrainConfig, train

LEARNED = 0.1
"""Bits, on held-out examples: a network that is below it at the end has learned a subtask [Michaud et al. 2025]."""

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
    examples: int = 250
    """examples per trained subtask and step"""
    width: int = 64
    """neurons per hidden layer"""
    depth: int = 3
    """linear layers"""
    steps: int = 3000
    """steps of Adam, at most"""
    rate: float = 5e-3
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
        for name in ("examples", "width", "steps", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; use at least 1")
        if self.products not in ("float32", "bfloat16"):
            raise ValueError(f'unknown `products` "{self.products}"; use float32 or bfloat16')


def train_parity(settings: ParityTraining) -> tuple[dict[str, Any], dict[str, Labelled]]:
    """Train a network in a parity world.

    Returns:
        The history (losses in nats on the selection split), the losses at the end in bits on the report split, and the
        number of steps; and the weights, by parameter name.
    """
    world = world_of(settings)
    trained = [world[name] for name in settings.trained or world]
    watched = [*trained, *(world[name] for name in settings.watched)]
    model = _network(settings)
    config = TrainConfig(
        steps=settings.steps,
        rate=settings.rate,
        eps=settings.eps,
        evaluate_every=settings.evaluate_every,
        until={name: settings.stop_below * math.log(2) for name in settings.stop_on},
        products=settings.products,
    )
    history = train(
        model,
        parity_stream(trained, settings.examples, seed=settings.seed),
        config,
        evaluate={subtask.name: subtask.draw(EVALUATED, split="selection", seed=settings.seed) for subtask in watched},
    )
    held_out = {subtask.name: subtask.draw(EVALUATED, split="report", seed=settings.seed) for subtask in watched}
    metrics = {
        "steps": int(history.of("step")[-1]),
        "bits": {name: float(losses(model, batch).mean()) / math.log(2) for name, batch in held_out.items()},
        "history": history.record(),
    }
    return metrics, weights_of(model)


def world_of(settings: ParityTraining) -> dict[str, Subtask]:
    """Return all subtasks of the world that a network is trained in."""
    return parity_subtasks(settings.n, atoms=settings.sets, composites=settings.composites)


def training_of(spec: Mapping[str, Any]) -> ParityTraining:
    """Return what a stored spec says; it also has what the sweep added, and an old one `bf16` for `products`."""
    names = {field.name for field in fields(ParityTraining)}
    old = {"products": "bfloat16" if spec["bf16"] else "float32"} if "bf16" in spec else {}
    return settings_of(ParityTraining, {**{name: value for name, value in spec.items() if name in names}, **old})


def network_of(result: store.Result) -> MLP:
    """Return the network that a cell trained, from its stored result."""
    return with_weights(_network(training_of(result.spec)), result.arrays)


def open_network(results: Path, key: str) -> tuple[MLP, dict[str, Subtask], int]:
    """Return a network that `train_parity` trained, its world, and its seed.

    Args:
        results: folder of a sweep.
        key: of the network's result there.
    """
    trained = store.read(results / key)
    training = training_of(trained.spec)
    return network_of(trained), world_of(training), training.seed


def weights_of(model: MLP, prefix: str = "") -> dict[str, Labelled]:
    """Return the weights of a network, to be stored."""
    return {
        f"{prefix}{name}": Labelled(value.detach().numpy(), tuple(f"axis_{i}" for i in range(value.ndim)))
        for name, value in model.state_dict().items()
    }


def with_weights(model: MLP, arrays: Mapping[str, Labelled], prefix: str = "") -> MLP:
    """Return a network with the weights that are stored, of all arrays those whose names begin with a prefix."""
    stored = {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
    model.load_state_dict({name: torch.from_numpy(array.values) for name, array in stored.items()})
    return model


def _network(settings: ParityTraining) -> MLP:
    return MLP(len(settings.sets) + settings.n, 2, settings.width, settings.depth, seed=settings.seed)
