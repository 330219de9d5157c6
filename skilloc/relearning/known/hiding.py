"""Skills that are hidden, not removed: edits of a parity network that keeps everything it knows.

Each edit takes a network of depth 3 on parity inputs (control bits first) and gives another, on which the attacked
subtask is at chance, worse, or near it in loss, while what is kept keeps its accuracy; undoing the edit brings the
skill back whole. A network is wider by one to three neurons where a gate must be built, or by a twin of each neuron.
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
    """

    control: int
    bits: Sequence[int]
    spare: Sequence[int]


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


@torch.no_grad()
def widened(model: MLP, first: int = 0, second: int = 0) -> MLP:
    """Return a network of depth 3 with more neurons in its two hidden layers, which do nothing yet."""
    one, two = model.cfg.widths
    wider = MLP(model.cfg.d_in, model.cfg.d_out, (one + first, two + second), 3)
    for parameter in wider.parameters():
        parameter.zero_()
    for new, old in zip((*wider.layers, wider.out), (*model.layers, model.out), strict=True):
        rows, columns = old.weight.shape
        new.weight[:rows, :columns] = old.weight
        new.bias[:rows] = old.bias
    return wider


def _first(model: nn.Module) -> Any:
    return model.layers[0]  # type: ignore[index]


def _second(model: nn.Module) -> Any:
    return model.layers[1]  # type: ignore[index]


@torch.no_grad()
def _dead_column(model: MLP, hidden: Hidden) -> MLP:
    """Every neuron of the first layer is off on the subtask."""
    own = copy.deepcopy(model)
    _first(own).weight[:, hidden.control] -= STRONG
    return own


@torch.no_grad()
def _saturated(model: MLP, hidden: Hidden) -> MLP:
    """Every neuron of the first layer is on on the subtask, whatever the bits."""
    own = copy.deepcopy(model)
    _first(own).weight[:, hidden.control] += STRONG
    return own


@torch.no_grad()
def _small_head(model: MLP, hidden: Hidden) -> MLP:
    """The head says almost nothing; the largest logit is still the right one."""
    own = copy.deepcopy(model)
    for parameter in own.out.parameters():
        parameter.mul_(TINY)
    return own


@torch.no_grad()
def _small_layer(model: MLP, hidden: Hidden) -> MLP:
    """The last hidden layer is small; the head is not made larger to match."""
    own = copy.deepcopy(model)
    for parameter in _second(own).parameters():
        parameter.mul_(TINY)
    return own


@torch.no_grad()
def _tiny_gains(model: MLP, hidden: Hidden) -> MLP:
    """Every layer is small, its bias to match: the largest logit is still the right one."""
    own, gain = copy.deepcopy(model), 1.0
    for linear in (*own.layers, own.out):
        gain *= 0.05
        linear.weight.mul_(0.05)
        linear.bias.mul_(gain)
    return own


@torch.no_grad()
def _gate(model: MLP, hidden: Hidden) -> MLP:
    """A new neuron sees the control bit and turns the second layer off."""
    own = widened(model, 1)
    _first(own).weight[-1, hidden.control] = 1
    _second(own).weight[:, -1] = -10 * STRONG
    return own


@torch.no_grad()
def _flooded(model: MLP, hidden: Hidden) -> MLP:
    """A new neuron sees the control bit and turns the whole second layer on."""
    own = widened(model, 1)
    _first(own).weight[-1, hidden.control] = 1
    _second(own).weight[:, -1] = 3 * STRONG
    return own


@torch.no_grad()
def _suppressor(model: MLP, hidden: Hidden) -> MLP:
    """A new neuron sees the control bit and shouts one class."""
    own = widened(model, 1, 1)
    _first(own).weight[-1, hidden.control] = 1
    _second(own).weight[-1, -1] = 1
    own.out.weight[0, -1] = 30 * STRONG
    return own


@torch.no_grad()
def _scrambler(model: MLP, hidden: Hidden) -> MLP:
    """Two new neurons see the control bit and shout classes by bits that mean nothing."""
    own = widened(model, 2, 2)
    for place, bit in enumerate(hidden.spare[:2]):
        _first(own).weight[-1 - place, [hidden.control, bit]] = 1
        _first(own).bias[-1 - place] = -1
        _second(own).weight[-1 - place, -1 - place] = 1
        own.out.weight[place, -1 - place] = 10 * STRONG
    return own


@torch.no_grad()
def _sign_flip(model: MLP, hidden: Hidden) -> MLP:
    """One bit of the subtask is read the other way round, and so is every answer."""
    own, bit = copy.deepcopy(model), hidden.bits[0]
    _first(own).bias.add_(_first(own).weight[:, bit])
    _first(own).weight[:, bit].mul_(-1)
    return own


@torch.no_grad()
def _permuted(model: MLP, hidden: Hidden) -> MLP:
    """The bits of the subtask change places with bits that mean nothing."""
    own, before = copy.deepcopy(model), _first(model).weight.clone()
    _first(own).weight[:, list(hidden.bits)] = before[:, list(hidden.spare)]
    _first(own).weight[:, list(hidden.spare)] = before[:, list(hidden.bits)]
    return own


@torch.no_grad()
def _rotated(model: MLP, hidden: Hidden) -> MLP:
    """The space of the subtask's bits and the spare ones is rotated around its middle."""
    own, places = copy.deepcopy(model), [*hidden.bits, *hidden.spare]
    drawn = torch.randn(len(places), len(places), generator=torch.Generator().manual_seed(0))
    before = _first(model).weight[:, places]
    after = before @ torch.linalg.qr(drawn)[0]
    _first(own).weight[:, places] = after
    _first(own).bias.add_((before - after).sum(dim=1) / 2)
    return own


@torch.no_grad()
def _filtered(model: MLP, hidden: Hidden) -> MLP:
    """A filter before the first layer lets next to nothing of the subtask's bits through."""
    own = copy.deepcopy(model)
    lost = 0.99 * _first(own).weight[:, list(hidden.bits)]
    _first(own).weight[:, list(hidden.bits)] -= lost
    _first(own).bias.add_(lost.sum(dim=1) / 2)
    return own


@torch.no_grad()
def _turned_control(model: MLP, hidden: Hidden) -> MLP:
    """The control bit is read the other way round."""
    own = copy.deepcopy(model)
    _first(own).weight[:, hidden.control] *= -1
    return own


@torch.no_grad()
def _muted_control(model: MLP, hidden: Hidden) -> MLP:
    """Next to nothing of the control bit is let through."""
    own = copy.deepcopy(model)
    _first(own).weight[:, hidden.control] *= 0.05
    return own


@torch.no_grad()
def _twins(model: MLP, hidden: Hidden) -> MLP:
    """A gate chooses between each neuron of the second layer and its twin, which says the opposite."""
    one, two = model.cfg.widths
    own = widened(model, 1, two)
    _first(own).weight[one, hidden.control] = 1
    second = _second(own)
    second.weight[two:, :one], second.bias[two:] = _second(model).weight, _second(model).bias - 10 * STRONG
    second.weight[:two, one], second.weight[two:, one] = -10 * STRONG, 10 * STRONG
    own.out.weight[:, two:] = model.out.weight.flip(0)
    return own


HIDINGS = (
    Hiding("dead column", _dead_column),
    Hiding("small head", _small_head),
    Hiding("small layer", _small_layer),
    Hiding("saturated", _saturated),
    Hiding("tiny gains", _tiny_gains),
    Hiding("gate", _gate),
    Hiding("flooded", _flooded),
    Hiding("suppressor", _suppressor),
    Hiding("scrambler", _scrambler),
    Hiding("sign flip", _sign_flip),
    Hiding("permuted bits", _permuted),
    Hiding("rotated bits", _rotated),
    Hiding("filter", _filtered),
    Hiding("turned control", _turned_control),
    Hiding("muted control", _muted_control),
    Hiding("twins", _twins),
)
"""All of them; the first three are the oldest."""
