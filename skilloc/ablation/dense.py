"""The exact losses of an MLP without each of its neurons, by rank-1 changes.

Ablating neuron j of hidden layer i adds delta_j (x) w_j to what the next linear layer gives, where delta_j is its
reference minus its activation on each example and w_j its column of the next weights. So

    last hidden layer       logits + delta_j (x) w_j
    the layers before it    activation(p + delta_j (x) w_j), with p the next layer's pre-activation, pushed on

For a network of depth 3 that costs O(width) per neuron and example, where running the network again costs O(width^2).
With two classes, only the margin between them is computed. Work goes in chunks that stay in a core's cache. Everything
here has its axes in the order `neuron example`: a thin product then reads whole cache lines.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn import functional

from skilloc.intervene import Folded, Reference
from skilloc.models.mlp import MLP
from skilloc.models.weights import units_of
from skilloc.units import Units, layer_of

CHUNK = 2**20
"""Entries of the buffer of changed pre-activations: 4 MB in float32."""

ROWS = 2048
"""Examples per chunk, so that the pre-activations that all its neurons change are read from cache."""

Linear = tuple[Tensor, Tensor]
"""Weight on `d_out d_in` and bias on `d_out 1`."""


@dataclass(frozen=True)
class Layers:
    """What all ablations of one MLP on one batch share; safe to read from many threads.

    Attributes:
        model: the network.
        folded: the examples.
        reference: what neurons are held at.
        post: activations of each hidden layer, `neuron example`.
        pre: what each linear layer gives, `neuron example`; the last entry is the logits, or the margin of two classes.
        linears: all linear maps; the last one gives the logits, or the margin of two classes.
        signs: for two classes, +1 where the target is class 1 and -1 elsewhere; None otherwise.
        base: per-example losses of the untouched model, in nats.
    """

    model: MLP
    folded: Folded
    reference: Reference
    post: list[Float[Tensor, "_ example"]]
    pre: list[Float[Tensor, "_ example"]]
    linears: list[Linear]
    signs: Float[Tensor, "example"] | None
    base: Float64[Tensor, "example"]

    def cost(self, hook: str) -> float:
        """Cost of a neuron, in layers pushed on."""
        return 0.1 + len(self.post) - 1 - layer_of(hook)


@torch.no_grad()
def lay_layers(model: MLP, folded: Folded, units: Units, reference: Reference) -> Layers:
    """Run the network once and keep what its layers give.

    Raises:
        ValueError: if the units are not those of the model, or a hook changes what it computes.
    """
    own = units_of(model)
    if not set(zip(units.hooks, units.widths, strict=True)) <= set(zip(own.hooks, own.widths, strict=True)):
        raise ValueError(
            f"`units` are {len(units)} on {', '.join(units.hooks)} but `model` has {len(own)} on "
            f"{', '.join(own.hooks)}; build them with units_of(model)"
        )
    inputs, targets = folded.batch.inputs, folded.batch.targets
    linears: list[Linear] = [(map_.weight.detach(), map_.bias.detach()[:, None]) for map_ in [*model.layers, model.out]]
    signs = None
    if model.cfg.d_out == 2:
        weight, bias = linears[-1]
        linears[-1] = weight[1:] - weight[:1], bias[1:] - bias[:1]
        signs = (2 * targets - 1).to(weight)
    post: list[Tensor] = []
    pre = [torch.addmm(linears[0][1], linears[0][0], inputs.T)]
    for weight, bias in linears[1:]:
        post.append(model.activation(pre[-1]))
        pre.append(torch.addmm(bias, weight, post[-1]))
    logits = model(inputs[:ROWS]).T
    wanted = logits if signs is None else logits[1:] - logits[:1]
    if not torch.allclose(pre[-1][:, :ROWS], wanted, rtol=1e-4, atol=1e-4, equal_nan=True):
        raise ValueError("`model` has hooks that change what it computes; take them off with model.reset_hooks()")
    base = _losses(pre[-1][None], targets, signs)[0].double()
    return Layers(model, folded, reference, post, pre, linears, signs, base)


class LayersProber:
    """Measures ablated losses; every thread has its own, over the same `Layers`."""

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self._buffer = torch.empty(0)

    @torch.no_grad()
    def effects(self, hook: str, positions: list[int]) -> Float64[Tensor, "example unit"]:
        """Return, per example, the loss without each neuron minus the loss with it, in nats."""
        layers, i = self.layers, layer_of(hook)
        activation = layers.post[i][positions]
        held = layers.reference.on(hook, slice(None)).to(activation)
        # A scalar, one value per neuron, or one per example and neuron.
        held = held if held.ndim == 0 else held[positions, None] if held.ndim == 1 else held.T[positions]
        delta = held - activation
        write = layers.linears[i + 1][0].T[positions].contiguous()
        found = torch.empty_like(delta, dtype=torch.float64)
        each = max(1, CHUNK // (ROWS * write.shape[1]))
        for start in range(0, delta.shape[1], ROWS):
            rows = slice(start, min(start + ROWS, delta.shape[1]))
            targets, signs = layers.folded.batch.targets[rows], None if layers.signs is None else layers.signs[rows]
            for first in range(0, len(delta), each):
                some = slice(first, first + each)
                losses = _losses(self._pushed(i + 1, rows, delta[some, rows], write[some]), targets, signs)
                torch.sub(losses, layers.base[rows], out=found[some, rows])
        return found.T

    def _pushed(
        self, i: int, rows: slice, delta: Float[Tensor, "unit example"], write: Float[Tensor, "unit d_out"]
    ) -> Float[Tensor, "unit out example"]:
        """Return the outputs when linear map i gives pre[i] + delta (x) write, for each of some neurons."""
        size = delta.numel() * write.shape[1]
        if self._buffer.numel() < size or (self._buffer.dtype, self._buffer.device) != (delta.dtype, delta.device):
            self._buffer = torch.empty(size, dtype=delta.dtype, device=delta.device)
        value = self._buffer[:size].view(len(delta), write.shape[1], delta.shape[1])
        torch.addcmul(self.layers.pre[i][:, rows], write[..., None], delta[:, None], out=value)
        model = self.layers.model
        for weight, bias in self.layers.linears[i + 1 :]:
            value = value.relu_() if model.cfg.activation == "relu" else model.activation(value)
            value = (weight @ value).add_(bias)
        return value


def _losses(
    outputs: Float[Tensor, "unit out example"],
    targets: Int[Tensor, "example"],
    signs: Float[Tensor, "example"] | None,
) -> Float[Tensor, "unit example"]:
    """Return the loss in nats from the logits, or from the margin of two classes."""
    if signs is not None:
        return functional.softplus(-signs * outputs[:, 0])
    chosen = outputs.gather(1, targets.expand(len(outputs), 1, -1))
    return outputs.logsumexp(dim=1) - chosen[:, 0]
