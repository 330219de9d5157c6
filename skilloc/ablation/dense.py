"""The exact losses of an MLP without each of its neurons, by rank-1 changes.

Ablating neuron j of hidden layer i adds delta_j (x) w_j to what the next linear layer gives, where delta_j is its
reference minus its activation on each example and w_j its column of the next weights. So

    last hidden layer       logits + delta_j (x) w_j
    the layers before it    activation(p + delta_j (x) w_j), with p the next layer's pre-activation, pushed on

For a network of depth 3 that costs O(width) per neuron and example, where running the network again costs O(width^2).
With two classes, only the margin between them is computed. Work goes in chunks that stay in cache, over blocks of
examples that lie together in memory. Everything here has examples on the last axis: inner loops are then long whatever
the width, and a thin product reads whole cache lines. For the last hidden layer of ReLUs and two classes, one compiled
loop does what takes three passes over a chunk otherwise (see `fused`).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from skilloc.ablation.fused import FusedMargin, fusable
from skilloc.intervene import Folded, Reference
from skilloc.models.mlp import MLP
from skilloc.models.weights import units_of
from skilloc.units import Units, layer_of

CHUNK = 2**20
"""Entries of the buffer of changed pre-activations: 4 MB in float32."""

ROWS = 1000
"""Examples per block: few enough for what is made per neuron to stay in cache, and many enough for long inner loops.

No power of two: the rows that a product reads side by side would all fall on the same few places of the cache.
"""

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
        blocks: which examples belong together.
        pre: what each linear map gives for each block.
        signs: for two classes, -1 where the target is class 1 and +1 elsewhere; None otherwise.
        base: per-example losses of the untouched model, in nats.
        fused: gives the margins after changes of the last hidden layer's pre-activations, where it can.
    """

    model: MLP
    folded: Folded
    reference: Reference
    linears: list[Linear]
    blocks: list[slice]
    pre: list[list[Float[Tensor, "_ _"]]]
    signs: Float[Tensor, "example"] | None
    base: Float64[Tensor, "example"]
    fused: FusedMargin | None

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
    blocks = [slice(start, start + ROWS) for start in range(0, len(inputs), ROWS)]
    pre = [_in_blocks(_large_empty(inputs, len(bias) * len(inputs)), len(bias)) for _, bias in linears]
    for place, rows in enumerate(blocks):
        value = inputs[rows].T
        for (weight, bias), found in zip(linears, pre, strict=True):
            value = model.activation(torch.addmm(bias, weight, value, out=found[place]))
    logits = model(inputs[blocks[0]]).T
    wanted = logits if signs is None else logits[1:] - logits[:1]
    if not torch.allclose(pre[-1][0], wanted, rtol=1e-4, atol=1e-4, equal_nan=True):
        raise ValueError("`model` has hooks that change what it computes; take them off with model.reset_hooks()")
    outputs = torch.cat(pre[-1], dim=1)
    base = _losses(outputs[:, None], targets, signs)[0].double()
    fuses = len(pre) > 2 and fusable(model.cfg.activation, inputs, len(linears[-1][0]))
    fused = FusedMargin(pre[-2], pre[-1], *linears[-1]) if fuses else None
    return Layers(model, folded, reference, linears, blocks, pre, signs, base, fused)


class LayersProber:
    """Measures ablated losses; every thread has its own, over the same `Layers`."""

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self._scratch: dict[str, Tensor] = {}

    @torch.no_grad()
    def effects(self, hook: str, positions: list[int]) -> Float[Tensor, "example unit"]:
        """Return, per example, the loss without each neuron minus the loss with it, in nats."""
        layers, i, targets = self.layers, layer_of(hook), self.layers.folded.batch.targets
        own = torch.tensor(positions, device=targets.device)
        write = layers.linears[i + 1][0].T[own].contiguous()
        base = layers.base.to(write)
        found = _large_empty(write, len(own), len(targets))
        for place, rows in enumerate(layers.blocks):
            pre = layers.pre[i][place]
            delta = torch.index_select(pre, 0, own, out=self._empty("delta", len(own), pre.shape[1]))
            delta = _activated(layers.model, delta)
            held = layers.reference.on(hook, rows).to(delta)
            # A scalar, one value per neuron, or one per example and neuron.
            held = held if held.ndim == 0 else held[own, None] if held.ndim == 1 else held.T[own]
            outputs = self._pushed(i + 1, place, torch.sub(held, delta, out=delta), write)
            losses = _losses(outputs, targets[rows], None if layers.signs is None else layers.signs[rows])
            torch.sub(losses, base[rows], out=found[:, rows])
        return found.T

    def _pushed(
        self, i: int, place: int, delta: Float[Tensor, "unit example"], write: Float[Tensor, "unit d_out"]
    ) -> Float[Tensor, "out unit example"]:
        """Return the outputs when linear map i gives pre[i] + delta (x) write, for each of some neurons."""
        layers, pre = self.layers, self.layers.pre[i][place]
        outputs = self._empty("outputs", len(layers.linears[-1][0]), *delta.shape)
        if layers.fused is not None and i == len(layers.pre) - 2:
            layers.fused(place, delta, write, out=outputs[0])
            return outputs
        if i == len(layers.pre) - 1:
            return torch.addcmul(pre[:, None], write.T[..., None], delta, out=outputs)
        each = max(1, CHUNK // pre.numel())
        for j in range(0, len(delta), each):
            some = slice(j, j + each)
            value = self._empty("changed", len(pre), *delta[some].shape)
            torch.addcmul(pre[:, None], write[some].T[..., None], delta[some], out=value)
            *inner, (weight, bias) = layers.linears[i + 1 :]
            for linear, shift in inner:
                value = torch.addmm(shift, linear, _activated(layers.model, value).flatten(1))
            value = _activated(layers.model, value).flatten(1)
            torch.addmm(bias, weight, value, out=outputs[:, some].view(len(weight), -1))
        return outputs

    def _empty(self, name: str, *shape: int) -> Tensor:
        """Return scratch memory: what is asked of the system anew is slow to touch for the first time."""
        held = self._scratch.get(name)
        if held is None or held.numel() < math.prod(shape):
            held = self._scratch[name] = self.layers.linears[-1][0].new_empty(math.prod(shape))
        return held[: math.prod(shape)].view(shape)


def _large_empty(like: Tensor, *shape: int) -> Tensor:
    """Return a new tensor of the kind of another, for what is large and written once.

    On a CPU numpy makes it: it asks for large pages, whose first use takes a fifth of the time.
    """
    if like.device.type != "cpu" or like.dtype not in (torch.float32, torch.float64):
        return like.new_empty(shape)
    return torch.from_numpy(np.empty(shape, dtype=like.new_empty(0).numpy().dtype))


def _in_blocks(entries: Float[Tensor, "_"], neurons: int) -> list[Float[Tensor, "_ example"]]:
    """Return what belongs to each block of examples, `neuron example`."""
    return [part.view(neurons, -1) for part in torch.split(entries, neurons * ROWS)]


def _activated(model: MLP, value: Float[Tensor, "*_"]) -> Float[Tensor, "*_"]:
    """Return the activations, written over the pre-activations where that can be."""
    return value.relu_() if model.cfg.activation == "relu" else model.activation(value)


def _losses(
    outputs: Float[Tensor, "out unit example"],
    targets: Int[Tensor, "example"],
    signs: Float[Tensor, "example"] | None,
) -> Float[Tensor, "unit example"]:
    """Return the loss in nats from the logits, or from the margin of two classes, which is written over."""
    if signs is not None:
        margin = outputs[0].mul_(signs)
        return torch.logaddexp(margin, margin.new_zeros(()), out=margin)
    chosen = outputs.gather(0, targets.expand(1, outputs.shape[1], -1))
    return outputs.logsumexp(dim=0) - chosen[0]
