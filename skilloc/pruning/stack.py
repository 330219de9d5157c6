"""Several small networks that take their optimiser steps together.

Their first layers are one matrix, since they read the same inputs; what is elementwise goes over all of them at once;
and their weights and gradients are two vectors, so that the optimiser has one tensor to go through. Only the products
of later layers are taken network by network, on slices. Nothing is padded. The gradients are those of
`training.gradients`, for ReLUs.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from skilloc.losses import nll_error
from skilloc.models.face import Chain

CACHED = 2**18
"""Entries of the widest activation of a block of examples, which stay in a core's cache."""


def stackable(chain: Chain | None) -> bool:
    """Whether what is cut out of a network can be stacked: it is a chain of ReLUs in float32 on the CPU."""
    if chain is None or chain.name != "relu":
        return False
    weights = [p for linear in chain.linears for p in (linear.weight, linear.bias)]
    return all(p.dtype == torch.float32 and p.device.type == "cpu" for p in weights)


def _in_order(row: Sequence[Any]) -> list[nn.Parameter]:
    return [*(m.weight for m in row), *(m.bias for m in row)]


def _views(flat: Tensor, layers: Sequence[Sequence[Any]]) -> tuple[list[list[Tensor]], list[Tensor], Tensor]:
    """Return, per layer, each network's weights and the biases of all; and the first weights of all as one matrix."""
    weights: list[list[Tensor]] = []
    biases: list[Tensor] = []
    rest = flat
    for row in layers:
        sizes = [m.weight.numel() for m in row]
        count = sum(len(m.bias) for m in row)
        own, bias, rest = torch.split(rest, [sum(sizes), count, len(rest) - sum(sizes) - count])
        weights.append([part.view(m.weight.shape) for part, m in zip(torch.split(own, sizes), row, strict=True)])
        biases.append(bias)
    first = flat[: sum(m.weight.numel() for m in layers[0])]
    return weights, biases, first.view(len(biases[0]), -1)


class Stack:
    """The weights of several networks as one vector, and its gradient. Activations are on `neuron example`.

    Attributes:
        chains: the networks; their weights are views of `weights` from now on.
        weights: all weights, as one parameter whose `grad` a call fills.
    """

    def __init__(self, chains: Sequence[Chain]) -> None:
        self.chains = list(chains)
        layers = list(zip(*(chain.linears for chain in chains), strict=True))
        self._ends = [torch.tensor([0, *(len(m.bias) for m in row)]).cumsum(0).tolist() for row in layers]
        flat = torch.cat([p.detach().flatten() for row in layers for p in _in_order(row)])
        self.weights, self._slope = nn.Parameter(flat), torch.zeros_like(flat)
        flat = self.weights.detach()
        self.weights.grad = self._slope
        self._weights, self._biases, self._first = _views(flat, layers)
        self._slopes, self._bias_slopes, self._first_slope = _views(self._slope, layers)
        for i, row in enumerate(layers):
            for g, m in enumerate(row):
                m.weight.data, m.bias.data = self._weights[i][g], self._biases[i][self._slice(i, g)]

    def _slice(self, layer: int, network: int) -> slice:
        return slice(self._ends[layer][network], self._ends[layer][network + 1])

    @torch.no_grad()
    def gradients(
        self, inputs: Float[Tensor, "example d_in"], targets: Int[Tensor, "example"]
    ) -> Float[Tensor, " network"]:
        """Put the gradient of each network's mean loss into `weights.grad`; return these losses, in nats."""
        self._slope.zero_()
        widths = [ends[-1] for ends in self._ends]
        rows = -(-len(inputs) // -(-len(inputs) // max(1, CACHED // max(widths))))  # blocks of equal size
        post, back = ([torch.empty(width, rows) for width in widths] for _ in range(2))
        total = torch.zeros(len(self.chains))
        for first in range(0, len(inputs), rows):
            block, wanted = inputs[first : first + rows], targets[first : first + rows]
            if len(block) < rows:
                post, back = ([part[:, : len(block)] for part in parts] for parts in (post, back))
            self._forward(block, post)
            total += self._error(post[-1], wanted, len(inputs))
            self._backward(block, post, back)
        return total / len(inputs)

    def _forward(self, inputs: Tensor, post: list[Float[Tensor, "_ example"]]) -> None:
        torch.addmm(self._biases[0][:, None], self._first, inputs.T, out=post[0]).relu_()
        for i, weights in enumerate(self._weights[1:], 1):
            for g, weight in enumerate(weights):
                into = self._slice(i, g)
                bias = self._biases[i][into, None]
                torch.addmm(bias, weight, post[i - 1][self._slice(i - 1, g)], out=post[i][into])
            if i < len(self._weights) - 1:
                post[i].relu_()

    def _error(
        self, logits: Float[Tensor, "network_out example"], targets: Int[Tensor, "example"], count: int
    ) -> Float[Tensor, " network"]:
        """Turn logits into gradients with respect to them; return each network's sum of losses."""
        scores = logits.view(len(self.chains), -1, len(targets))
        right, error = nll_error(scores, targets.expand(len(scores), 1, -1))
        torch.div(error, count, out=scores)
        return -right.sum((1, 2))

    def _backward(self, inputs: Tensor, post: list[Tensor], back: list[Tensor]) -> None:
        """Add the gradients of a block, from those with respect to its logits, which are the last of `post`."""
        error = post[-1]
        for i in range(len(post) - 1, 0, -1):
            self._bias_slopes[i].add_(error.sum(1))
            for g, weight in enumerate(self._weights[i]):
                own, before = error[self._slice(i, g)], self._slice(i - 1, g)
                self._slopes[i][g].addmm_(own, post[i - 1][before].T)
                torch.mm(weight.T, own, out=back[i - 1][before])
            error = back[i - 1]
            torch.ops.aten.threshold_backward.grad_input(error, post[i - 1], 0, grad_input=error)
        self._bias_slopes[0].add_(error.sum(1))
        self._first_slope.addmm_(error, inputs)
