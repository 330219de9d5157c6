"""The closed form for the neurons of the last block: only the final norm and the unembedding come after them.

Ablating neuron j adds delta[t] w to the residual r[t] before the final norm, with delta[t] = reference - activation and
w the neuron's output weights. With g the norm's gain, and r, w centred first where the norm is a LayerNorm,

    logits[t, v] = s[t] (G[t, v] + delta[t] U[v]) + c[v]
    G = (g r) W_U^T    U = (g w) W_U^T    s[t] = 1 / sqrt((|r|^2 + 2 delta r.w + delta^2 |w|^2) / d_model + eps)

G serves all neurons, U costs one vector-matrix product per neuron, and what is left is one exponential per token and
vocabulary entry: the limit of any exact method.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from skilloc.tasks.losses.nll import log_normaliser

BLOCK = 2**18
"""Logits per block of tokens: 1 MB in float32, which stays in a core's cache."""

LOG2_E = math.log2(math.e)


@dataclass(frozen=True)
class Tail:
    """Final norm and unembedding as formulas.

    Attributes:
        gain: g of the norm.
        centred: True where the norm subtracts the mean (LayerNorm).
        eps: added to the mean square.
        unembed: W_U.
        offset: c, what the norm's and the unembedding's biases add to the logits.
    """

    gain: Float[Tensor, "d_model"]
    centred: bool
    eps: float
    unembed: Float[Tensor, "d_vocab d_model"]
    offset: Float[Tensor, "d_vocab"]

    def centre(self, vectors: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """Subtract the mean over d_model where the norm does."""
        return vectors - vectors.mean(dim=-1, keepdim=True) if self.centred else vectors

    def logits(self, residual: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_vocab"]:
        """Return the logits of a residual stream."""
        r = self.centre(residual)
        scale = torch.rsqrt(r.square().mean(dim=-1, keepdim=True) + self.eps)
        return (r * scale * self.gain) @ self.unembed.T + self.offset


def read_tail(norm: Any, unembed: Any, residual: Tensor, logits: Callable[[Tensor], Tensor]) -> Tail | None:
    """Return the formulas of a model's final norm and unembedding, or None where they have another form.

    The reading is not trusted: among RMSNorm and LayerNorm, with gain g or 1 + g, the one is taken that gives the
    model's own logits on a real residual stream. Soft caps and other extras give None.
    """
    matrix = getattr(unembed, "weight", None)
    if not isinstance(matrix, Tensor) or matrix.ndim != 2 or matrix.shape[1] != residual.shape[-1]:
        return None
    ones = torch.ones_like(residual[0, 0])
    weight = getattr(norm, "weight", None)
    shift = getattr(norm, "bias", None)
    eps = next((float(getattr(norm, n)) for n in ("variance_epsilon", "eps", "epsilon") if hasattr(norm, n)), 0.0)
    gains = [ones] if weight is None else [weight.detach(), 1 + weight.detach()]
    wanted = logits(residual)
    with torch.no_grad():
        offset = torch.zeros(len(matrix)).to(matrix) if shift is None else matrix @ shift
        offset = offset if getattr(unembed, "bias", None) is None else offset + unembed.bias
        for centred in (False, True):
            for gain in gains:
                tail = Tail(gain, centred, eps, matrix.detach(), offset.detach())
                if torch.allclose(tail.logits(residual), wanted, rtol=1e-4, atol=1e-4):
                    return tail
    return None


def tail_losses(
    tail: Tail,
    residual: Float[Tensor, "token d_model"],
    targets: Int[Tensor, "token"],
    delta: Float[Tensor, "token unit"],
    weights: Float[Tensor, "unit d_model"],
) -> Float[Tensor, "token unit"]:
    """Return the loss of every token, in nats, with each neuron of the last block ablated in turn.

    Args:
        tail: the formulas.
        residual: the residual stream after the last block.
        targets: the next tokens; those that are not scored may be any valid token.
        delta: reference minus activation.
        weights: output weights of the neurons.
    """
    r, w = tail.centre(residual), tail.centre(weights)
    square = r.square().sum(dim=1, keepdim=True) + 2 * delta * (r @ w.T) + delta.square() * w.square().sum(dim=1)
    scale = torch.rsqrt(square.clamp(min=0) / r.shape[1] + tail.eps)
    moved = (w * tail.gain) @ tail.unembed.T
    # Logits are kept in units of log 2: on a CPU, exp2 costs a third of exp.
    offset = tail.offset * LOG2_E if bool(tail.offset.any()) else None
    bits = scale * LOG2_E
    rows = max(1, BLOCK // len(tail.unembed))
    losses = torch.empty_like(delta)
    for first in range(0, len(r), rows):
        part = slice(first, first + rows)
        still = (r[part] * tail.gain) @ tail.unembed.T
        # Shifting by the unchanged log-normaliser keeps exp2 within range; the shift leaves the result as it is.
        shift = log_normaliser(still * scale[part, :1] + tail.offset) * LOG2_E
        buffer = torch.empty_like(still)
        at_target = targets[part, None]
        for j in range(delta.shape[1]):
            torch.addcmul(still, delta[part, j, None], moved[j], out=buffer).mul_(bits[part, j, None])
            if offset is not None:
                buffer.add_(offset)
            score = buffer.gather(1, at_target) - shift
            total = buffer.sub_(shift).exp2_().sum(dim=1, keepdim=True)
            losses[part, j] = (total.log2() - score)[:, 0] / LOG2_E
        if not torch.isfinite(losses[part]).all():
            losses[part] = _careful(tail, still, moved, delta[part], scale[part], targets[part])
    return losses


def _careful(tail: Tail, still: Tensor, moved: Tensor, delta: Tensor, scale: Tensor, targets: Tensor) -> Tensor:
    """The same with a maximum of its own per token: slower, and never out of range."""
    columns = []
    for j in range(delta.shape[1]):
        logits = (still + delta[:, j, None] * moved[j]) * scale[:, j, None] + tail.offset
        columns.append((log_normaliser(logits) - logits.gather(1, targets[:, None]))[:, 0])
    return torch.stack(columns, dim=1)
