"""Networks whose truth is known, with what they share, and how they are trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from skilloc.models.mlp import MLP
from skilloc.tasks import Subtask
from skilloc.tasks.streams import seed_of, stream
from skilloc.training import Sample, TrainConfig
from skilloc.training.many import retrain

WIDTH, STEPS, RATE, EXAMPLES = 48, 1500, 5e-3, 100
"""Of every network, and of its training."""

BITS, GRADED_BITS, GRADED_WIDTH = 16, 18, 64


@dataclass(frozen=True)
class Truth:
    """What is known of a network.

    Attributes:
        name: one of its own.
        kind: what was done to it.
        truth: the word that is right.
        left: share of the skill that is left, 0 to 1; None for a damaged one.
    """

    name: str
    kind: str
    truth: str
    left: float | None


@dataclass(frozen=True)
class Known(Truth):
    """A network whose truth is known.

    Attributes:
        model: the network.
    """

    model: nn.Module


class Shelf(NamedTuple):
    """Networks that share an original, a shape and so their controls.

    Attributes:
        original: before anything was done to it.
        attacked: the skill in question.
        kept: what was to be kept.
        new: what nobody has seen.
        known: the networks.
    """

    original: nn.Module
    attacked: Subtask
    kept: tuple[Subtask, ...]
    new: Subtask | None
    known: tuple[Known, ...]


def trained(
    subtasks: Sequence[Subtask], seed: int, count: int, *, of: int, width: int = WIDTH, sample: Sample | None = None
) -> list[MLP]:
    """Return networks that learned some subtasks; those of another number `of` share no seed."""
    d_in = subtasks[0].draw(1).first.shape[1]
    made = [MLP(d_in, 2, width, 3, seed=seed_of(seed, of, i) % 2**31) for i in range(count)]
    config = TrainConfig(steps=STEPS, rate=RATE)
    sample = sample or stream(subtasks, EXAMPLES, seed=1000 * seed + of)
    for _ in retrain(made, sample, config, lambda _: None):
        pass
    return made
