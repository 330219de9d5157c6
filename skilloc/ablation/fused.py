"""One compiled loop for the margins of two classes after rank-1 changes of a layer of ReLUs.

    margin[j, e] = sum over o of v_o relu(p[e, o] + delta[j, e] w[j, o]) + b

As tensor operations these are three passes over `neuron unit example`. Compiled by numba it is one, which keeps nothing
in memory, and skips the examples on which delta is 0, where nothing changes: half of them, for ReLUs held at zero. A
whole sweep then takes half the time at width 128 and a quarter at 512. Compiling takes half a second, once per
process. The sums are the same up to their order. Without numba (the extra `fast`) the tensor operations do it.
"""

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from inspect import unwrap
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

TILE = 64
"""Examples whose pre-activations stay in the first cache while all neurons pass over them."""


_KINDS = torch.float32, torch.float64


class FusedMargin:
    """The compiled loop over the last hidden layer of a network of ReLUs on a CPU.

    Args:
        pre: p, the layer's pre-activations in each block of examples.
        margin: the margins in each block as they are.
        weight: v.
        bias: b.
    """

    def __init__(
        self,
        pre: Sequence[Float[Tensor, "neuron _"]],
        margin: Sequence[Float[Tensor, "1 _"]],
        weight: Float[Tensor, "1 neuron"],
        bias: Float[Tensor, "1 1"],
    ) -> None:
        # The loop goes along the neurons of one example.
        self._pre = [block.T.contiguous().numpy() for block in pre]
        self._margin = [block[0].numpy() for block in margin]
        self._weight, self._bias = weight[0].contiguous().numpy(), bias[0].numpy()

    def __call__(
        self,
        place: int,
        delta: Float[Tensor, "unit example"],
        write: Float[Tensor, "unit neuron"],
        out: Float[Tensor, "unit example"],
    ) -> None:
        """Write the margins in one block from delta and w."""
        arrays = self._pre[place], delta.numpy(), write.numpy(), self._weight, self._bias, self._margin[place]
        _compiled()(*arrays, out.numpy())


def fusable(activation: str, like: Tensor, outputs: int, signs: Tensor | None) -> bool:
    """Return whether the compiled loop does such a network: ReLUs, of which the margin of two classes is asked."""
    return (
        compiler()
        and activation == "relu"
        and outputs == 1
        and signs is not None
        and like.device.type == "cpu"
        and like.dtype in _KINDS
    )


@cache
def compiler() -> bool:
    """Return whether numba is installed."""
    return find_spec("numba") is not None


@cache
def _compiled() -> Callable[..., None]:
    from numba import njit  # takes a fifth of a second, which only those who sweep should pay

    # Sums in any order, so that they can be taken side by side; NaN and infinity stay what they are.
    # A run-time type checker may have wrapped the function, which cannot be compiled.
    compiled: Callable[..., None] = njit(unwrap(_margins), fastmath={"reassoc", "contract", "nsz"}, nogil=True)
    return compiled


def _margins(pre: Any, delta: Any, write: Any, weight: Any, bias: Any, margin: Any, found: Any) -> None:
    """Fill `found`. Four examples at a time share what is read of `write` and `weight`."""
    zero = pre.dtype.type(0)
    own = np.empty(TILE + 3, dtype=np.int64)
    for first in range(0, len(pre), TILE):
        for j in range(len(delta)):
            changed = 0
            for e in range(first, min(first + TILE, len(pre))):
                found[j, e] = margin[e]
                own[changed] = e
                changed += delta[j, e] != 0
            # Whole fours: the last example is done again.
            for k in range(changed, changed + 3):
                own[k] = own[max(changed - 1, 0)]
            for k in range(0, changed, 4):
                e0, e1, e2, e3 = own[k], own[k + 1], own[k + 2], own[k + 3]
                d0, d1, d2, d3 = delta[j, e0], delta[j, e1], delta[j, e2], delta[j, e3]
                sum0 = sum1 = sum2 = sum3 = zero
                for o in range(pre.shape[1]):
                    w, v = write[j, o], weight[o]
                    z0, z1, z2, z3 = pre[e0, o] + d0 * w, pre[e1, o] + d1 * w, pre[e2, o] + d2 * w, pre[e3, o] + d3 * w
                    # In this order a NaN stays one.
                    sum0 += v * (zero if z0 < zero else z0)
                    sum1 += v * (zero if z1 < zero else z1)
                    sum2 += v * (zero if z2 < zero else z2)
                    sum3 += v * (zero if z3 < zero else z3)
                found[j, e0], found[j, e1] = sum0 + bias[0], sum1 + bias[0]
                found[j, e2], found[j, e3] = sum2 + bias[0], sum3 + bias[0]
