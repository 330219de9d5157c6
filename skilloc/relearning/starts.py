"""Ways to start an attack: what is done to a network before it is trained on what it is said to have lost.

A skill that is hidden, not gone, sits behind a gate, a silent layer, a tiny gain, or a unit that shouts it down.
Gradient descent from there can be slow or stand still, since nothing flows through what is off. Each function here
takes a model and what an attacker has, and returns another model to start from; or None where the operation makes no
sense for it. None of them changes the model that it is given.

For a chain of linear maps p_i = h_{i-1} W_i^T + b_i, h_i = f(p_i):

    revived:   b_i += mean of p_i on kept examples - mean of p_i on attacked ones, layer by layer from below
    rescaled:  W_i, b_i /= root mean square of h_i, layer by layer from below
    shrunk:    w -> keep * w + noise * fresh w
    evened:    columns of W_0, one per input, are brought to their median norm
    patched:   W_i, b_i of one layer are the original's
    quantised: w -> nearest of 2^bits - 1 levels of its row
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from skilloc.models.face import Chain
from skilloc.models.makers import face_of
from skilloc.tasks import Examples
from skilloc.tasks.losses import Loss

SMALL = 1e-6
"""Added to what is divided by."""


class Context(NamedTuple):
    """What an attacker has.

    Attributes:
        attacked: examples of what is attacked, from the train split.
        kept: examples of what was to be kept, from the train split; None if there is nothing.
        original: the network before anything was done to it.
        loss: what is lowered.
        seed: of what is drawn.
    """

    attacked: Examples
    kept: Examples | None
    original: nn.Module
    loss: Loss
    seed: int


Start = Callable[[nn.Module, Context], nn.Module | None]
"""From a model to another one; None where that makes no sense for it."""


def as_it_is(model: nn.Module, context: Context) -> nn.Module:
    """Return the model."""
    return model


@torch.no_grad()
def revived(model: nn.Module, context: Context) -> nn.Module | None:
    """Return the model with each unit's mean pre-activation on attacked inputs moved to its mean on kept ones.

    The kept means are those of the untouched network; layers are moved from below, each as those before it leave it.
    For chains of linear maps only: elsewhere, units have no bias of their own or share one with a norm.
    """
    return _moved(model, context, scaled=False)


@torch.no_grad()
def revived_and_scaled(model: nn.Module, context: Context) -> nn.Module | None:
    """Return the model with each unit's mean and spread on attacked inputs moved to those on kept ones; see `revived`.

    A unit that does not vary on the attacked inputs is moved only.
    """
    return _moved(model, context, scaled=True)


def _moved(model: nn.Module, context: Context, *, scaled: bool) -> nn.Module | None:
    if context.kept is None or face_of(model).chain is None:
        return None
    own = face_of(model).copy()
    chain = chain_of(own)
    wanted = list(pre_activations(chain_of(model), context.kept.first))
    below = context.attacked.first
    for linear, kept in zip(chain.linears[:-1], wanted, strict=True):
        before = linear(below)
        if scaled:
            spread = before.std(dim=0)
            factor = torch.where(spread > SMALL, kept.std(dim=0) / (spread + SMALL), 1.0).clamp(0.1, 10.0)
            linear.weight.mul_(factor[:, None])
            linear.bias.mul_(factor)
            before = before * factor
        linear.bias.add_(kept.mean(dim=0) - before.mean(dim=0))
        below = chain.activation(linear(below))
    return own


@torch.no_grad()
def rescaled(model: nn.Module, context: Context) -> nn.Module | None:
    """Return the model with layers of comparable scales.

    Of a chain of linear maps, each hidden layer is divided by the root mean square of what it gives. Of any other
    model, the gains of norms (weights with one axis, biases left out) are divided by the root mean square of all gains
    of that role, the block's number left out.
    """
    own = face_of(model).copy()
    chain = face_of(own).chain
    if chain is None:
        return _even_gains(own)
    below = context.attacked.first if context.kept is None else torch.cat([context.attacked.first, context.kept.first])
    for linear in chain.linears[:-1]:
        size = chain.activation(linear(below)).square().mean().sqrt() + SMALL
        linear.weight.div_(size)
        linear.bias.div_(size)
        below = chain.activation(linear(below))
    return own


def _even_gains(own: nn.Module) -> nn.Module | None:
    roles: dict[str, list[Tensor]] = {}
    for name, parameter in own.named_parameters():
        if name.endswith("weight") and parameter.ndim == 1:
            roles.setdefault(".".join(part for part in name.split(".") if not part.isdigit()), []).append(parameter)
    for gains in roles.values():
        sizes = torch.stack([gain.float().square().mean().sqrt() for gain in gains])
        for gain, size in zip(gains, sizes, strict=True):
            if size > 0:
                gain.mul_((sizes.median() / size).to(gain.dtype))
    return own if any(len(gains) > 1 for gains in roles.values()) else None


def shrunk(keep: float, noise: float) -> Start:
    """Return the way to start that shrinks all weights and adds some of a fresh network's [Ash & Adams 2020]."""

    @torch.no_grad()
    def start(model: nn.Module, context: Context) -> nn.Module | None:
        face = face_of(model)
        if face.fresh is None:
            return None
        own, fresh = face.copy(), face.fresh(context.seed)
        for parameter, other in zip(own.parameters(), fresh.parameters(), strict=True):
            parameter.mul_(keep).add_(noise * other.to(parameter))
        return own

    return start


def quantised(bits: int) -> Start:
    """Return the way to start that rounds every row of every matrix to 2^bits - 1 even levels."""

    @torch.no_grad()
    def start(model: nn.Module, context: Context) -> nn.Module:
        own = face_of(model).copy()
        for parameter in own.parameters():
            if parameter.ndim > 1:
                unit = parameter.abs().amax(dim=-1, keepdim=True) / (2 ** (bits - 1) - 1)
                parameter.copy_(torch.where(unit > 0, (parameter / unit).round() * unit, parameter))
        return own

    return start


def patched(layer: int) -> Start:
    """Return the way to start that takes one linear map from the original: what the others know then shows.

    For chains of linear maps; layers count from 0, and from -1 backwards. Where the model has more neurons than the
    original, its first ones are taken for the original's. Nothing is trained afterwards: what comes of the original's
    own map would be a gift to whoever trains on.
    """

    @torch.no_grad()
    def start(model: nn.Module, context: Context) -> nn.Module | None:
        if face_of(model).chain is None or face_of(context.original).chain is None:
            return None
        own = face_of(model).copy()
        mine, theirs = chain_of(own).linears, chain_of(context.original).linears
        if not -len(mine) <= layer < len(mine) or len(mine) != len(theirs):
            return None
        new, old = mine[layer], theirs[layer]
        rows, columns = old.weight.shape
        if rows > new.weight.shape[0] or columns > new.weight.shape[1]:
            return None
        new.weight[:rows, :columns] = old.weight
        new.bias[:rows] = old.bias
        return own

    return start


def then(first: Start, second: Start) -> Start:
    """Return the way to start that does two things one after the other; None where one of them makes no sense."""

    def start(model: nn.Module, context: Context) -> nn.Module | None:
        between = first(model, context)
        return None if between is None else second(between, context)

    return start


@torch.no_grad()
def evened(model: nn.Module, context: Context) -> nn.Module | None:
    """Return the model with the columns of its first map, one per input, at their median norm.

    Biases keep the mean pre-activation on attacked inputs. For chains of linear maps: a filter before the first layer
    is a set of small columns.
    """
    own = face_of(model).copy()
    if face_of(own).chain is None:
        return None
    first = chain_of(own).linears[0]
    norms = first.weight.norm(dim=0)
    factor = torch.where(norms > 0, norms.median() / (norms + SMALL * norms.max()), 1.0)
    before = first.weight @ context.attacked.first.mean(dim=0)
    first.weight.mul_(factor)
    first.bias.add_(before - first.weight @ context.attacked.first.mean(dim=0))
    return own


def chain_of(model: nn.Module) -> Chain:
    """Return the linear maps of a model that is a chain of them."""
    chain = face_of(model).chain
    assert chain is not None
    return chain


@torch.no_grad()
def pre_activations(chain: Chain, inputs: Float[Tensor, "example d_in"]) -> list[Float[Tensor, "example d_out"]]:
    """Return what every hidden layer of a chain gets, before its activation function."""
    found = []
    for linear in chain.linears[:-1]:
        found.append(linear(inputs))
        inputs = chain.activation(found[-1])
    return found
