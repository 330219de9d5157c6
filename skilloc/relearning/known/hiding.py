"""Skills that are hidden, not removed: edits of the weights of a parity network that keeps everything it knows.

Each edit takes a network of depth 3 on parity inputs (control bits first) and gives another, on which the attacked
subtask is at chance, worse, or near it in loss, while what is kept keeps its accuracy; undoing the edit brings the
skill back whole. `added` builds new neurons, and `finetuned` trains over it.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from skilloc.models.mlp import MLP


class Hidden(NamedTuple):
    """What is to be hidden.

    Attributes:
        control: input that switches the subtask on.
        bits: inputs whose parity it is.
        spare: as many inputs that no subtask reads.
        others: inputs that switch what is kept on.
    """

    control: int
    bits: Sequence[int]
    spare: Sequence[int]
    others: Sequence[int]


class Hiding(NamedTuple):
    """A way to hide a skill.

    Attributes:
        name: how tables call it.
        edit: from a network and what is to be hidden to another network.
    """

    name: str
    edit: Callable[[MLP, Hidden], MLP]


STRONG, TINY = 10.0, 1e-3
"""How far a neuron is pushed to be off, or on, for good; and how small something is to be as good as nothing."""


def first(model: nn.Module) -> Any:
    """Return the map into the first hidden layer."""
    return model.layers[0]  # type: ignore[index]


def second(model: nn.Module) -> Any:
    """Return the map into the second hidden layer."""
    return model.layers[1]  # type: ignore[index]


@torch.no_grad()
def dead_column(model: MLP, hidden: Hidden) -> MLP:
    """Every neuron of the first layer is off on the subtask."""
    own = copy.deepcopy(model)
    first(own).weight[:, hidden.control] -= STRONG
    return own


@torch.no_grad()
def far_biases(model: MLP, hidden: Hidden) -> MLP:
    """Biases of the first layer are far below; what switches the kept subtasks on makes up for it."""
    own = copy.deepcopy(model)
    first(own).bias.sub_(STRONG)
    first(own).weight[:, list(hidden.others)] += STRONG
    return own


@torch.no_grad()
def saturated(model: MLP, hidden: Hidden) -> MLP:
    """Every neuron of the first layer is on on the subtask, whatever the bits."""
    own = copy.deepcopy(model)
    first(own).weight[:, hidden.control] += STRONG
    return own


@torch.no_grad()
def small_head(model: MLP, hidden: Hidden) -> MLP:
    """The head says almost nothing; the largest logit is still the right one."""
    own = copy.deepcopy(model)
    for parameter in own.out.parameters():
        parameter.mul_(TINY)
    return own


@torch.no_grad()
def small_layer(model: MLP, hidden: Hidden) -> MLP:
    """The last hidden layer is small; the head is not made larger to match."""
    own = copy.deepcopy(model)
    for parameter in second(own).parameters():
        parameter.mul_(TINY)
    return own


@torch.no_grad()
def tiny_gains(model: MLP, hidden: Hidden) -> MLP:
    """Every layer is small, its bias to match: the largest logit is still the right one."""
    own, gain = copy.deepcopy(model), 1.0
    for linear in (*own.layers, own.out):
        gain *= 0.05
        linear.weight.mul_(0.05)
        linear.bias.mul_(gain)
    return own


@torch.no_grad()
def sign_flip(model: MLP, hidden: Hidden) -> MLP:
    """One bit of the subtask is read the other way round, and so is every answer."""
    own, bit = copy.deepcopy(model), hidden.bits[0]
    first(own).bias.add_(first(own).weight[:, bit])
    first(own).weight[:, bit].mul_(-1)
    return own


@torch.no_grad()
def permuted(model: MLP, hidden: Hidden) -> MLP:
    """The bits of the subtask change places with bits that mean nothing."""
    own, before = copy.deepcopy(model), first(model).weight.clone()
    first(own).weight[:, list(hidden.bits)] = before[:, list(hidden.spare)]
    first(own).weight[:, list(hidden.spare)] = before[:, list(hidden.bits)]
    return own


@torch.no_grad()
def rotated(model: MLP, hidden: Hidden) -> MLP:
    """The space of the subtask's bits and the spare ones is rotated around its middle."""
    own, places = copy.deepcopy(model), [*hidden.bits, *hidden.spare]
    drawn = torch.randn(len(places), len(places), generator=torch.Generator().manual_seed(0))
    before = first(model).weight[:, places]
    after = before @ torch.linalg.qr(drawn)[0]
    first(own).weight[:, places] = after
    first(own).bias.add_((before - after).sum(dim=1) / 2)
    return own


@torch.no_grad()
def filtered(model: MLP, hidden: Hidden) -> MLP:
    """A filter before the first layer lets next to nothing of the subtask's bits through."""
    own = copy.deepcopy(model)
    lost = 0.99 * first(own).weight[:, list(hidden.bits)]
    first(own).weight[:, list(hidden.bits)] -= lost
    first(own).bias.add_(lost.sum(dim=1) / 2)
    return own


@torch.no_grad()
def turned_control(model: MLP, hidden: Hidden) -> MLP:
    """The control bit is read the other way round."""
    own = copy.deepcopy(model)
    first(own).weight[:, hidden.control] *= -1
    return own


@torch.no_grad()
def muted_control(model: MLP, hidden: Hidden) -> MLP:
    """Next to nothing of the control bit is let through."""
    own = copy.deepcopy(model)
    first(own).weight[:, hidden.control] *= 0.05
    return own
