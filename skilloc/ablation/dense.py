"""The exact losses of an MLP without each of its neurons, by rank-1 changes.

Ablating neuron j of hidden layer i adds delta_j (x) w_j to what the next linear layer gives, where delta_j is its
reference minus its activation on each example and w_j its column of the next weights. So

    last hidden layer       logits + delta_j (x) w_j
    the layers before it    activation(p + delta_j (x) w_j), with p the next layer's pre-activation, pushed on

For a network of depth 3 that costs O(width) per neuron and example, where running the network again costs O(width^2).
With two classes, only the margin between them is computed. Work goes in chunks that stay in cache. Everything here has
examples on the last axis: inner loops are then long whatever the width, and a thin product reads whole cache lines. For
wide networks, one compiled loop does what takes three passes over a chunk otherwise (see `fused`).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from torch.nn import functional

from skilloc.ablation.fused import Fused, fused_margin, large_empty
from skilloc.intervene import Folded, Reference
from skilloc.models.mlp import MLP
from skilloc.models.weights import units_of
from skilloc.units import Units, layer_of

CHUNK = 2**20
"""Entries of the buffer of changed pre-activations: 4 MB in float32."""

ROWS = 512
"""Examples per block: few enough for what is made per neuron to stay in cache, and many enough for long inner loops."""

Linear = tuple[Tensor, Tensor]
"""Weight on `d_out d_in` and bias on `d_out 1`."""


@dataclass(frozen=True)
class Layers:
    """What all ablations of one MLP on one batch share; safe to read from many threads.

    Attributes:
        model: the network.
        folded: the examples.
        reference: what neurons are held at.
        linears: all linear maps; the last one gives the logits, or the margin of two classes.
        pre: what each linear map gives, `neuron example`.
        signs: for two classes, -1 where the target is class 1 and +1 elsewhere; None otherwise.
        base: per-example losses of the untouched model, in nats.
        fused: gives the margins after changes of the last hidden layer's pre-activations, where that pays.
    """

    model: MLP
    folded: Folded
    reference: Reference
    linears: list[Linear]
    pre: list[Float[Tensor, "_ example"]]
    signs: Float[Tensor, "example"] | None
    base: Float64[Tensor, "example"]
    fused: Fused | None

    def cost(self, hook: str) -> float:
        """Cost of a neuron, in layers pushed on."""
        return 0.1 + len(self.pre) - 2 - layer_of(hook)


@torch.no_grad()
def lay_layers(
    model: MLP, folded: Folded, units: Units, reference: Reference, chosen: Bool[np.ndarray, "unit"]
) -> Layers:
    """Run the network once and keep what its layers give.

    Args:
        model: the network.
        folded: the examples.
        units: its units.
        reference: what they are held at.
        chosen: which will be measured; many of a wide network are worth a compiled loop.

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
        signs = (1 - 2 * targets).to(weight)
    pre = [large_empty(inputs, len(bias), len(inputs)) for _, bias in linears]
    for start in range(0, len(inputs), ROWS):
        value = inputs[start : start + ROWS].T
        for (weight, bias), found in zip(linears, pre, strict=True):
            value = model.activation(torch.addmm(bias, weight, value, out=found[:, start : start + ROWS]))
    logits = model(inputs[:ROWS]).T
    wanted = logits if signs is None else logits[1:] - logits[:1]
    if not torch.allclose(pre[-1][:, :ROWS], wanted, rtol=1e-4, atol=1e-4, equal_nan=True):
        raise ValueError("`model` has hooks that change what it computes; take them off with model.reset_hooks()")
    base = _losses(pre[-1][:, None], targets, signs)[0].double()
    pushed = sum(int(part.sum()) for hook, part in units.split(chosen).items() if layer_of(hook) == len(pre) - 3)
    terms = len(inputs) * pushed * linears[-1][0].shape[1]
    fused = None if signs is None else fused_margin(model.activation, pre[-2], *linears[-1], terms=terms)
    return Layers(model, folded, reference, linears, pre, signs, base, fused)


class LayersProber:
    """Measures ablated losses; every thread has its own, over the same `Layers`."""

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self._buffer = layers.pre[-1].new_empty(0)

    @torch.no_grad()
    def effects(self, hook: str, positions: list[int]) -> Float64[Tensor, "example unit"]:
        """Return, per example, the loss without each neuron minus the loss with it, in nats."""
        layers, i, targets = self.layers, layer_of(hook), self.layers.folded.batch.targets
        own = torch.tensor(positions, device=targets.device)
        write = layers.linears[i + 1][0].T[own].contiguous()
        found = torch.empty(len(own), len(targets), dtype=torch.float64, device=targets.device)
        # What is compiled takes a third of a millisecond to be called.
        size = ROWS if layers.fused is None else 8 * ROWS
        for start in range(0, len(targets), size):
            rows = slice(start, start + size)
            activation = layers.model.activation(layers.pre[i][:, rows].index_select(0, own))
            held = layers.reference.on(hook, rows).to(activation)
            # A scalar, one value per neuron, or one per example and neuron.
            held = held if held.ndim == 0 else held[own, None] if held.ndim == 1 else held.T[own]
            outputs = self._pushed(i + 1, rows, held - activation, write)
            losses = _losses(outputs, targets[rows], None if layers.signs is None else layers.signs[rows])
            found[:, rows] = losses.sub_(layers.base[rows].to(losses))
        return found.T

    def _pushed(
        self, i: int, rows: slice, delta: Float[Tensor, "unit example"], write: Float[Tensor, "unit d_out"]
    ) -> Float[Tensor, "out unit example"]:
        """Return the outputs when linear map i gives pre[i] + delta (x) write, for each of some neurons."""
        layers, pre = self.layers, self.layers.pre[i][:, rows].contiguous()
        if i == len(layers.pre) - 1:
            return torch.addcmul(pre[:, None], write.T[..., None], delta)
        if layers.fused is not None and i == len(layers.pre) - 2:
            return layers.fused(rows, delta, write)[None]
        each = max(1, CHUNK // pre.numel())
        parts = [self._outputs(i, pre, delta[j : j + each], write[j : j + each]) for j in range(0, len(delta), each)]
        return torch.cat(parts, dim=1)

    def _outputs(
        self,
        i: int,
        pre: Float[Tensor, "d_out example"],
        delta: Float[Tensor, "unit example"],
        write: Float[Tensor, "unit d_out"],
    ) -> Float[Tensor, "out unit example"]:
        size = write.numel() * delta.shape[1]
        if self._buffer.numel() < size:
            self._buffer = self._buffer.new_empty(size)
        value = self._buffer[:size].view(len(pre), *delta.shape)
        torch.addcmul(pre[:, None], write.T[..., None], delta, out=value)
        model = self.layers.model
        for weight, bias in self.layers.linears[i + 1 :]:
            value = value.relu_() if model.cfg.activation == "relu" else model.activation(value)
            value = torch.addmm(bias, weight, value.flatten(1)).view(-1, *delta.shape)
        return value


def _losses(
    outputs: Float[Tensor, "out unit example"],
    targets: Int[Tensor, "example"],
    signs: Float[Tensor, "example"] | None,
) -> Float[Tensor, "unit example"]:
    """Return the loss in nats from the logits, or from the margin of two classes."""
    if signs is not None:
        return functional.softplus(signs * outputs[0])
    chosen = outputs.gather(0, targets.expand(1, outputs.shape[1], -1))
    return outputs.logsumexp(dim=0) - chosen[0]
