"""The gradients of chains of linear maps and ReLUs by hand, over the same memory at every step.

With layers p_i = h_{i-1} W_i^T + b_i and h_i = max(p_i, 0), logits z, and N scored examples,

    dz = (softmax(z) - one hot target) / N
    dp_i = dh_i where h_i > 0, and 0 elsewhere
    dW_i = dp_i^T h_{i-1},    db_i = sum of dp_i over examples,    dh_{i-1} = dp_i W_i

It is what autograd computes, product by product and, with products in bfloat16, rounding by rounding. But autograd
takes new memory for every tensor and gives it back, and more time can go into that than into the arithmetic. Here, the
activations of a block of examples stay in memory, and so in a core's cache; and only what is needed is written.

Several networks on the same examples are one whose maps read parts of the layer before: what is elementwise goes over
all of them at once, and the first maps, which read the same, are one matrix. Nothing is padded.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from skilloc.models.face import Face
from skilloc.tasks import IGNORE, Examples
from skilloc.tasks.losses.nll import nll_error
from skilloc.training.settings import Products


def by_hand(face: Face, examples: Examples, targets: Tensor | None) -> bool:
    """Whether the gradients of this model on these examples can be computed by hand.

    It must be a chain of linear maps and ReLUs in float32 on the CPU, with all weights trained and no function on any
    hook; the loss must be the negative log-likelihood of targets, and every example scored.
    """
    chain, inputs = face.chain, examples.inputs
    if chain is None or chain.activation is not functional.relu or targets is None:
        return False
    parameters = face.module.parameters()
    trained = [p for p in parameters if p.requires_grad and p.dtype == torch.float32 and p.device.type == "cpu"]
    own = [p for linear in chain.linears for p in (linear.weight, linear.bias)]
    if len(trained) != len(own) or any(a is not b for a, b in zip(trained, own, strict=True)):
        return False
    # Both are None until a function is attached for the first time.
    if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in own):
        return False
    if any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in face.module.modules()):
        return False
    if not isinstance(inputs, Tensor) or inputs.requires_grad or inputs.ndim != 2:
        return False
    plain = inputs.dtype == torch.float32 and inputs.device == targets.device == own[0].device
    return plain and not bool((targets == IGNORE).any())


class Layer(NamedTuple):
    """A layer of one network, or of several side by side.

    Attributes:
        weights: its linear maps. If there are several, each reads its own part of what the layer before gives.
        bias: what is added to what all maps give, one after the other.
    """

    weights: Sequence[Float[Tensor, "_ _"]]
    bias: Float[Tensor, " d_out"]


def cut(vector: Float[Tensor, " weight"], like: Sequence[Layer]) -> list[Layer]:
    """Return views of a vector in the shapes of some layers: of each layer the maps, and then the bias."""
    parts = iter(torch.split(vector, [part.numel() for layer in like for part in (*layer.weights, layer.bias)]))
    return [Layer([_laid(next(parts), *w.shape) for w in layer.weights], next(parts)) for layer in like]


def _laid(part: Float[Tensor, " weight"], d_out: int, d_in: int) -> Float[Tensor, "d_out d_in"]:
    # Sums of products are faster with the longer side in one piece.
    return part.view(d_in, d_out).T if d_out > d_in else part.view(d_out, d_in)


class Gradients:
    """Computes the gradients of one network, or of several on the same examples; it holds the memory for all of it.

    Attributes:
        layers: the weights, `d_out d_in`.
        slopes: the gradients of the mean losses, in the same shapes.
        slope: the same as one vector, as by `cut`.
        products: type of the matrix products; their sums over blocks are in float32.
    """

    def __init__(self, layers: Sequence[Layer], *, products: Products) -> None:
        self.layers, self.products = list(layers), products
        self.slope = torch.zeros(sum(part.numel() for layer in layers for part in (*layer.weights, layer.bias)))
        self.slopes = cut(self.slope, layers)
        self._kind = getattr(torch, products)
        rounded = self.slopes if products == "bfloat16" else []
        self._rounded = [[torch.empty_like(part, dtype=self._kind) for part in layer.weights] for layer in rounded]
        self._room: _Room | None = None

    @torch.no_grad()
    def __call__(
        self, inputs: Float[Tensor, "example d_in"], targets: Int[Tensor, "example"], *, rows: int
    ) -> Float[Tensor, " network"]:
        """Put the gradients into `slope`, and return each network's mean loss, in nats.

        Args:
            inputs: what all networks read.
            targets: the right classes.
            rows: examples per block.
        """
        self.slope.zero_()
        if self._room is None or self._room.rows != rows:
            self._room = _Room(self.layers, rows, self.products)
        layers = [Layer([w.to(self._kind) for w in weights], bias.to(self._kind)) for weights, bias in self.layers]
        networks = len(layers[-1].weights)
        total = torch.zeros(networks)
        for first in range(0, len(inputs), rows):
            wanted = targets[first : first + rows]
            post, back = self._room.spaces(inputs[first : first + rows].T)
            self._forward(layers, post)
            logits = post[-1].whole.float().view(networks, -1, len(wanted))
            right, error = nll_error(logits, wanted.expand(networks, 1, -1))
            total -= right.sum((1, 2))
            torch.div(error.view(-1, len(wanted)), len(inputs), out=post[-1].whole)
            self._backward(layers, post, [*back, post[-1]])
        return total.double() / len(inputs)

    def _forward(self, layers: Sequence[Layer], post: Sequence["_Space"]) -> None:
        for i, (weights, bias) in enumerate(layers):
            after = post[i + 1]
            after.whole.copy_(bias[:, None])
            for weight, into, before in zip(weights, after.given, post[i].read, strict=True):
                into.addmm_(weight, before)
            if i < len(layers) - 1:
                after.whole.relu_()

    def _backward(self, layers: Sequence[Layer], post: Sequence["_Space"], back: Sequence["_Space"]) -> None:
        """Add the gradients of a block, from those with respect to its logits, which are the last of `back`."""
        for i in range(len(layers) - 1, -1, -1):
            error = back[i]
            self.slopes[i].bias.add_(error.whole.sum(1))
            for j, (own, before) in enumerate(zip(error.given, post[i].read, strict=True)):
                self._add(i, j, own, before)
            if i:
                for weight, own, into in zip(layers[i].weights, error.given, back[i - 1].read, strict=True):
                    torch.mm(weight.T, own, out=into)
                whole = back[i - 1].whole
                torch.ops.aten.threshold_backward.grad_input(whole, post[i].whole, 0, grad_input=whole)

    def _add(self, layer: int, place: int, error: Tensor, before: Tensor) -> None:
        slope = self.slopes[layer].weights[place]
        if self.products == "bfloat16":
            slope += torch.mm(error, before.T, out=self._rounded[layer][place])
        else:
            slope.addmm_(error, before.T)


class _Space(NamedTuple):
    """Memory for what a layer gives, or for gradients with respect to it, on `neuron example`.

    Attributes:
        whole: of all networks.
        given: the part of each of the layer's maps.
        read: the part that each of the next layer's maps reads.
    """

    whole: Tensor
    given: Sequence[Tensor]
    read: Sequence[Tensor]


class _Room:
    """The spaces for blocks of examples. To cut memory takes longer than small products do, so it is done once."""

    def __init__(self, layers: Sequence[Layer], rows: int, products: Products) -> None:
        self.rows, self._rounds = rows, products == "bfloat16"
        kind = getattr(torch, products)
        self._given = [[len(weight) for weight in layer.weights] for layer in layers]
        self._read = [*([weight.shape[1] for weight in layer.weights] for layer in layers), []]
        d_in, *hidden, d_out = sum(self._read[0]), *map(sum, self._given)
        # Of one network, the neurons of an example lie in one piece, for the rounding of autograd and for speed in
        # bfloat16; of several, the examples of a neuron do, and so each network's part.
        one = len(layers[-1].weights) == 1
        self._inputs, *post = (
            torch.empty(rows, width, dtype=kind).T if one else torch.empty(width, rows, dtype=kind)
            for width in (d_in, *hidden)
        )
        self._post = [*post, torch.empty(d_out, rows, dtype=kind)]
        # Gradients of a layer can go where the activations of the next hidden one were: those have been used by then.
        self._back = [b if a.shape == b.shape else torch.empty_like(a) for a, b in pairwise(post)]
        self._back += [torch.empty_like(part) for part in post[-1:]]
        self._cuts: dict[int, tuple[list[_Space], list[_Space]]] = {}

    def spaces(self, inputs: Float[Tensor, "d_in example"]) -> tuple[list[_Space], list[_Space]]:
        """Return those of the inputs and what each layer gives, and those of gradients but for the last layer's."""
        n = inputs.shape[1]
        if n not in self._cuts:
            self._cuts[n] = self._cut(self._post, n), self._cut(self._back, n)
        post, back = self._cuts[n]
        block = self._inputs[:, :n].copy_(inputs) if self._rounds else inputs
        return [_Space(block, (), (block,)), *post], back

    def _cut(self, memory: Sequence[Tensor], n: int) -> list[_Space]:
        return [
            _Space(part[:, :n], torch.split(part[:, :n], given), torch.split(part[:, :n], read) if read else ())
            for part, given, read in zip(memory, self._given, self._read[1:], strict=False)
        ]
