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
from jaxtyping import Float, Float64
from torch import Tensor

from skilloc.ablation.fused import FusedMargin, fusable
from skilloc.experiment import Experiment
from skilloc.models.face import Chain
from skilloc.tasks.losses.nll import log_normaliser, margin_nll

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
    """What all ablations of one chain of linear maps share; safe to read from many threads.

    Attributes:
        experiment: the network, its examples, and what neurons are held at.
        chain: the network's maps.
        linears: their weights and biases; the last one gives the logits, or the margin of two classes.
        blocks: which examples belong together.
        pre: what each linear map gives for each block.
        signs: where only the margin of two classes counts, -1 where the target is class 1 and +1 elsewhere; else None.
        base: per-example losses of the untouched model.
        fused: gives the margins after changes of the last hidden layer's pre-activations, where it can.
    """

    experiment: Experiment
    chain: Chain
    linears: list[Linear]
    blocks: list[slice]
    pre: list[list[Float[Tensor, "_ _"]]]
    signs: Float[Tensor, "example"] | None
    base: Float64[Tensor, "example"]
    fused: FusedMargin | None

    def cost(self, hook: str) -> float:
        """Cost of a neuron, in layers pushed on."""
        return 0.1 + len(self.pre) - 2 - self.chain.hooks.index(hook)


@torch.no_grad()
def lay_layers(experiment: Experiment, chain: Chain) -> Layers:
    """Run the network once and keep what its layers give."""
    inputs, targets = experiment.folded.examples.inputs, experiment.folded.examples.targets
    assert isinstance(inputs, Tensor)
    linears: list[Linear] = [(map_.weight.detach(), map_.bias.detach()[:, None]) for map_ in chain.linears]
    signs = None
    if len(linears[-1][1]) == 2 and experiment.metric.targets is not None:
        weight, bias = linears[-1]
        linears[-1] = weight[1:] - weight[:1], bias[1:] - bias[:1]
        signs = (1 - 2 * targets).to(weight)
    blocks = [slice(start, start + ROWS) for start in range(0, len(inputs), ROWS)]
    pre = [_in_blocks(_large_empty(inputs, len(bias) * len(inputs)), len(bias)) for _, bias in linears]
    for place, rows in enumerate(blocks):
        value = inputs[rows].T
        for (weight, bias), found in zip(linears, pre, strict=True):
            value = chain.activation(torch.addmm(bias, weight, value, out=found[place]))
    fuses = len(pre) > 2 and fusable(chain.name, inputs, len(linears[-1][0]), signs)
    fused = FusedMargin(pre[-2], pre[-1], *linears[-1]) if fuses else None
    bases = [_losses(experiment, signs, pre[-1][place][:, None].clone(), rows)[0] for place, rows in enumerate(blocks)]
    return Layers(experiment, chain, linears, blocks, pre, signs, torch.cat(bases).double(), fused)


class LayersProber:
    """Measures ablated losses; every thread has its own, over the same `Layers`."""

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self._scratch: dict[str, Tensor] = {}

    @torch.no_grad()
    def effects(self, hook: str, positions: list[int]) -> Float[Tensor, "example unit"]:
        """Return, per example, the loss without each neuron minus the loss with it."""
        layers, i = self.layers, self.layers.chain.hooks.index(hook)
        targets = layers.experiment.folded.examples.targets
        own = torch.tensor(positions, device=targets.device)
        write = layers.linears[i + 1][0].T[own].contiguous()
        base = layers.base.to(write)
        found = _large_empty(write, len(own), len(targets))
        for place, rows in enumerate(layers.blocks):
            pre = layers.pre[i][place]
            delta = torch.index_select(pre, 0, own, out=self._empty("delta", len(own), pre.shape[1]))
            delta = _activated(layers.chain, delta)
            held = layers.experiment.held.on(hook, rows).to(delta)
            # A scalar, one value per neuron, or one per example and neuron.
            held = held if held.ndim == 0 else held[own, None] if held.ndim == 1 else held.T[own]
            outputs = self._pushed(i + 1, place, torch.sub(held, delta, out=delta), write)
            losses = _losses(layers.experiment, layers.signs, outputs, rows)
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
                value = torch.addmm(shift, linear, _activated(layers.chain, value).flatten(1))
            value = _activated(layers.chain, value).flatten(1)
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


def _activated(chain: Chain, value: Float[Tensor, "*_"]) -> Float[Tensor, "*_"]:
    """Return the activations, written over the pre-activations where that can be."""
    return value.relu_() if chain.name == "relu" else chain.activation(value)


def _losses(
    experiment: Experiment, signs: Tensor | None, outputs: Float[Tensor, "out unit example"], rows: slice
) -> Float[Tensor, "unit example"]:
    """Return the losses from the logits, or from the margin of two classes, which is written over."""
    if signs is not None:
        return margin_nll(outputs[0].mul_(signs[rows]))
    if experiment.metric.targets is not None:
        targets = experiment.metric.targets(experiment.folded.examples)[rows]
        chosen = outputs.gather(0, targets.expand(1, outputs.shape[1], -1))
        return log_normaliser(outputs, 0)[0] - chosen[0]
    examples, known = experiment.part(rows)
    each = [experiment.metric(outputs[:, j].T, examples, known) for j in range(outputs.shape[1])]
    return torch.stack(each).to(outputs)
