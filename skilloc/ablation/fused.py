"""One compiled loop for the margins of two classes after rank-1 changes.

    margin[e, j] = sum over o of v_o activation(p[e, o] + delta[e, j] w[j, o]) + b

Written as tensor operations this is three passes over `example unit neuron`; torch.compile makes it one that keeps
nothing in memory, about four times as fast. Compiling takes some ten seconds, so it is done for much work alone, and
only where there is a C++ compiler. The sums are the same up to their order.
"""

import logging
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

COMPILED_FROM = 2**35
"""Terms of all sums together from which compiling takes less time than it saves."""

_log = logging.getLogger(__name__)


def worth_compiling(activation: Callable[[Tensor], Tensor], like: Tensor, terms: int) -> bool:
    """Return whether so many terms should be summed in a compiled loop, and can be; this compiles it."""
    if terms < COMPILED_FROM or like.dtype != torch.float32 or like.device.type != "cpu":
        return False
    return _compiled(activation) is not None


class FusedMargin:
    """The compiled loop over the last hidden layer of a network.

    Args:
        activation: of the last hidden layer.
        pre: p, its pre-activations in each block of examples.
        weight: v.
        bias: b.
    """

    def __init__(
        self,
        activation: Callable[[Tensor], Tensor],
        pre: Sequence[Float[Tensor, "neuron example"]],
        weight: Float[Tensor, "1 neuron"],
        bias: Float[Tensor, "1 1"],
    ) -> None:
        self.activation, self.weight, self.bias = activation, weight, bias
        # The loop goes along the neurons of one example.
        self.rows = [large_empty(block, *block.T.shape).copy_(block.T) for block in pre]

    def __call__(
        self, place: int, delta: Float[Tensor, "unit example"], write: Float[Tensor, "unit neuron"]
    ) -> Float[Tensor, "unit example"]:
        """Return the margins in one block from delta and w."""
        compiled = _compiled(self.activation)
        # A size of 1 would be compiled for itself, which takes seconds.
        margin = _margin if compiled is None or 1 in (*delta.shape, len(self.weight.T)) else compiled
        return margin(self.activation, self.rows[place], delta.T.contiguous(), write, self.weight, self.bias).T


def _margin(
    activation: Callable[[Tensor], Tensor], pre: Tensor, delta: Tensor, write: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    return (activation(pre[:, None] + delta[..., None] * write) * weight).sum(-1) + bias


def large_empty(like: Tensor, *shape: int) -> Tensor:
    """Return a new tensor of the kind of another, for what is large and written once.

    On a CPU numpy makes it: it asks for large pages, whose first use takes a fifth of the time.
    """
    if like.device.type != "cpu" or like.dtype not in (torch.float32, torch.float64):
        return like.new_empty(shape)
    return torch.from_numpy(np.empty(shape, dtype=like.new_empty(0).numpy().dtype))


@cache
def _compiled(activation: Callable[[Tensor], Tensor]) -> Callable[..., Tensor] | None:
    """Compile the loop for tensors of any sizes above 1."""
    zeros = torch.zeros
    try:
        compiled: Callable[..., Tensor] = torch.compile(_margin, dynamic=True)
        compiled(activation, zeros(500, 1000), zeros(500, 60), zeros(60, 1000), zeros(1, 1000), zeros(1, 1))
    except Exception as error:  # whatever keeps a compiler from working, the other way gives the same
        first = str(error).strip().partition("\n")[0]
        _log.warning("wide networks are measured without a compiled loop (%s); with a C++ compiler it is faster", first)
        return None
    return compiled
