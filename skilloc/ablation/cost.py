"""What an exact measurement costs: products and sums of each unit, and from these the size of items, hours and memory.

    flops[unit] = tokens (blocks run (2 weights of a block + 4 length d_model) + outputs (2 d_model + 20))

The first part are the blocks that run again, with attention over the length of an example; the second is the
unembedding, whose softmax costs some 20 operations per output. What blocks run is said by the unit's route.
"""

import math
from dataclasses import dataclass

SOFTMAX = 20
"""Operations of the softmax and the loss, per output."""

FLOPS_PER_ITEM = 2e12
"""An item has as many units as fit into this, at least one: half a minute of a core, which does 35 to 90 GFLOP/s. It is
a number of operations and no time, so that items are the same on every machine."""

PASSES = 4
"""Tensors of the size of a block's logits that are there at once."""


@dataclass(frozen=True)
class Sizes:
    """What the cost of a pass depends on.

    Attributes:
        depth: number of blocks.
        weights: of one block.
        d_model: width of the residual stream.
        outputs: number of logits per token.
        tokens: of all examples.
        length: tokens of an example.
        others: weights that are no part of a block.
    """

    depth: int
    weights: float
    d_model: int
    outputs: int
    tokens: int
    length: int
    others: float = 0.0

    def flops(self, blocks: int) -> float:
        """Return the operations of running some blocks and the unembedding again, on all tokens."""
        block = 2 * self.weights + 4 * self.length * self.d_model
        return self.tokens * (blocks * block + self.outputs * (2 * self.d_model + SOFTMAX))

    def closed(self) -> float:
        """Return the operations of a unit whose losses have a closed form: an exponential per output."""
        return float(self.tokens * self.outputs * SOFTMAX)

    def per_item(self, flops: float, most: int) -> int:
        """Return how many units, of so many operations each, are one item."""
        return int(min(max(FLOPS_PER_ITEM // flops, 1), most))

    def memory(self, entries: int, bytes_each: int = 4) -> float:
        """Return the bytes that a worker needs: weights, the residual stream before each block, and a block of logits.

        Args:
            entries: of the widest tensor of a pass.
            bytes_each: of a weight.
        """
        weights = (self.depth * self.weights + self.others) * bytes_each
        return weights + 4.0 * (self.tokens * self.d_model * (self.depth + 1) + PASSES * entries)


@dataclass(frozen=True)
class Exact:
    """An exact sweep over all neurons and heads of a transformer.

    Attributes:
        units: number of units.
        items: number of items.
        flops: operations.
    """

    units: int
    items: int
    flops: float

    def hours(self, pace: float) -> float:
        """Return the hours of one worker that does so many operations per second."""
        return self.flops / pace / 3600


def exact_sweep(sizes: Sizes, neurons: int, heads: int, *, closed: bool = True, most: int = 16) -> Exact:
    """Return what it takes to ablate every neuron and head.

    Args:
        sizes: of the model and the examples.
        neurons: of a layer.
        heads: of a layer.
        closed: whether the last layer's neurons have a closed form: under cross-entropy.
        most: units of an item, at most.

    Example:
        >>> from skilloc.ablation.cost import Sizes, exact_sweep
        >>> sizes = Sizes(depth=4, weights=262_144.0, d_model=128, outputs=2048, tokens=2304, length=96)
        >>> exact_sweep(sizes, neurons=512, heads=6).units
        2072
    """
    units, items, flops = 0, 0, 0.0
    for layer in range(sizes.depth):
        last = closed and layer == sizes.depth - 1
        neuron = sizes.closed() if last else sizes.flops(sizes.depth - 1 - layer)
        for count, each in ((neurons, neuron), (heads, sizes.flops(sizes.depth - layer))):
            units += count
            items += math.ceil(count / sizes.per_item(each, most))
            flops += count * each
    return Exact(units, items, flops)


def attribution_sweep(sizes: Sizes, curvature: int = 8) -> float:
    """Return the operations of an attribution of all units: a pass, and 1 + `curvature` passes back, each twice one."""
    return (1 + 2 * (1 + curvature)) * sizes.flops(sizes.depth)
