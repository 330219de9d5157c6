"""A LayerNorm over some coordinates of a wider stream, the others of which are zero.

    mean = Σ x / full        variance = (Σ (x - mean)² + (full - width) mean²) / full

A stock LayerNorm of fewer entries divides by their number instead. (An RMSNorm needs nothing new: its gain and its
epsilon take up the change of width.)

This file imports transformer-lens, so it is imported only where a bridge is there already.
"""

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.model_bridge.generalized_components.normalization import NormalizationBridge

from skilloc.models.norms import Form
from skilloc.models.stream import Part
from skilloc.models.weights import unwrapped


class PartLayerNorm(nn.LayerNorm):
    """The LayerNorm of a stream of `full` coordinates, of which only some are there.

    Attributes:
        full: number of coordinates, those that are zero included.
        form: what it computes; the offset is that of its gain.
        stock: the norm that it stands for, without weights, and the class of its component in the bridge.
    """

    def __init__(self, norm: Any, bridge: type, form: Form, full: int) -> None:
        super().__init__(1, eps=float(getattr(norm, form.epsilon, 1e-5)), elementwise_affine=False)
        self._parameters.update({name: norm._parameters.get(name) for name in ("weight", "bias")})
        self.full = full
        self.form = form._replace(epsilon="eps")
        empty = copy.copy(norm)
        empty._parameters = dict.fromkeys(norm._parameters)
        self.stock = (empty, bridge)  # in a tuple, so that it is no submodule

    def normalised(
        self, x: Float[Tensor, "*rest width"]
    ) -> tuple[Float[Tensor, "*rest width"], Float[Tensor, "*rest 1"]]:
        """Return the centred coordinates, and what divides them."""
        mean = x.sum(dim=-1, keepdim=True) / self.full
        centred = x - mean
        missing = (self.full - x.shape[-1]) * mean.square()
        variance = (centred.square().sum(dim=-1, keepdim=True) + missing) / self.full
        return centred, (variance + self.eps).sqrt()

    def affine(self, x: Float[Tensor, "*rest width"]) -> Float[Tensor, "*rest width"]:
        """Apply gain and bias."""
        x = x if self.weight is None else x * (self.weight + self.form.offset)
        return x if self.bias is None else x + self.bias

    def forward(self, input: Float[Tensor, "*rest width"]) -> Float[Tensor, "*rest width"]:
        """Return the output of the whole norm at the coordinates that are there."""
        centred, scale = self.normalised(precise(input))
        return self.affine(centred / scale).to(input.dtype)


class PartNormBridge(NormalizationBridge):  # type: ignore[misc]
    """The bridge's component around a `PartLayerNorm`, with its hooks at the scale and at the normalised values."""

    def _python_norm_forward(self, hidden_states: Tensor) -> Tensor:
        norm = unwrapped(self)
        centred, scale = norm.normalised(precise(hidden_states))
        made: Tensor = norm.affine(self.hook_normalized(centred / self.hook_scale(scale)))
        return made.to(hidden_states.dtype)

    def _hf_autograd_forward_with_hooks(self, x: Tensor) -> Tensor:
        return self._python_norm_forward(x)


def precise(x: Tensor) -> Tensor:
    """Return x in float32, or in float64 if it is that."""
    return x if x.dtype == torch.float64 else x.float()


def in_part(part: Part, form: Form, before: int, after: int) -> None:
    """Put a `PartLayerNorm` in the place of a LayerNorm whose weights were cut, or the stock one back at full width."""
    norm = part.module
    if not isinstance(norm, PartLayerNorm):
        _replace(part.component, PartLayerNorm(norm, type(part.component), form, before), PartNormBridge)
        norm = unwrapped(part.component)
    norm.normalized_shape = (after,)
    if after == norm.full:
        stock, bridge = norm.stock
        whole = copy.copy(stock)
        whole._parameters = {name: norm._parameters.get(name) for name in stock._parameters}
        _replace(part.component, whole, bridge)


def _replace(component: Any, norm: nn.Module, bridge: type) -> None:
    holder = component
    while isinstance(getattr(holder.original_component, "original_component", None), nn.Module):
        holder = holder.original_component
    holder._modules["_original_component"] = norm.train(component.training)
    # What was built once (hooks, aliases, the registry of hook points) stays; only what is computed changes.
    object.__setattr__(component, "__class__", bridge)
