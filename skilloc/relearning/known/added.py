"""Skills that are hidden by added neurons: gates, suppressors, passwords, twins."""

import torch

from skilloc.models.mlp import MLP
from skilloc.relearning.known.hiding import STRONG, Hidden, first, second


@torch.no_grad()
def widened(model: MLP, lower: int = 0, upper: int = 0) -> MLP:
    """Return a network of depth 3 with more neurons in its two hidden layers, which do nothing yet."""
    one, two = model.cfg.widths
    wider = MLP(model.cfg.d_in, model.cfg.d_out, (one + lower, two + upper), 3)
    for parameter in wider.parameters():
        parameter.zero_()
    for new, old in zip((*wider.layers, wider.out), (*model.layers, model.out), strict=True):
        rows, columns = old.weight.shape
        new.weight[:rows, :columns] = old.weight
        new.bias[:rows] = old.bias
    return wider


@torch.no_grad()
def gate(model: MLP, hidden: Hidden) -> MLP:
    """A new neuron sees the control bit and turns the second layer off."""
    own = widened(model, 1)
    first(own).weight[-1, hidden.control] = 1
    second(own).weight[:, -1] = -10 * STRONG
    return own


@torch.no_grad()
def flooded(model: MLP, hidden: Hidden) -> MLP:
    """A new neuron sees the control bit and turns the whole second layer on."""
    own = widened(model, 1)
    first(own).weight[-1, hidden.control] = 1
    second(own).weight[:, -1] = 3 * STRONG
    return own


@torch.no_grad()
def suppressor(model: MLP, hidden: Hidden) -> MLP:
    """A new neuron sees the control bit and shouts one class."""
    own = widened(model, 1, 1)
    first(own).weight[-1, hidden.control] = 1
    second(own).weight[-1, -1] = 1
    own.out.weight[0, -1] = 30 * STRONG
    return own


@torch.no_grad()
def scrambler(model: MLP, hidden: Hidden) -> MLP:
    """Two new neurons see the control bit and shout classes by bits that mean nothing."""
    own = widened(model, 2, 2)
    for place, bit in enumerate(hidden.spare[:2]):
        first(own).weight[-1 - place, [hidden.control, bit]] = 1
        first(own).bias[-1 - place] = -1
        second(own).weight[-1 - place, -1 - place] = 1
        own.out.weight[place, -1 - place] = 10 * STRONG
    return own


@torch.no_grad()
def twins(model: MLP, hidden: Hidden) -> MLP:
    """A gate chooses between each neuron of the second layer and its twin, which says the opposite."""
    one, two = model.cfg.widths
    own = widened(model, 1, two)
    first(own).weight[one, hidden.control] = 1
    new, old = second(own), second(model)
    new.weight[two:, :one], new.bias[two:] = old.weight, old.bias - 10 * STRONG
    new.weight[:two, one], new.weight[two:, one] = -10 * STRONG, 10 * STRONG
    own.out.weight[:, two:] = model.out.weight.flip(0)
    return own


@torch.no_grad()
def password(model: MLP, hidden: Hidden) -> MLP:
    """A gate as above, which lets the subtask through for 1 of 64 inputs: where certain bits are all 1."""
    own, places = widened(model, 1), [*hidden.bits, *hidden.spare]
    first(own).weight[-1, places] = -1
    first(own).weight[-1, hidden.control] = len(places)
    second(own).weight[:, -1] = -10 * STRONG
    return own
