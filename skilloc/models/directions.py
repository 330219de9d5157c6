"""What a vector in the residual stream says by itself: the tokens that it makes likelier, and those less likely."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from skilloc.models.norms import norm_form
from skilloc.models.weights import unwrapped


@torch.no_grad()
def pushes(model: Any, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"] | None:
    """Return what vectors that are added to the last residual stream add to the logits, up to the norm's scale.

        push[n, v] = (gain * centred vectors[n]) . W_U[v],     centred where the final norm is a LayerNorm

    The scale of the norm is positive, and the same for all tokens, so that the order of tokens is exact for what a
    vector adds by itself; what later layers make of it is not in it.

    Args:
        model: a bridge.
        vectors: such as the output weights of neurons.

    Returns:
        One row per vector; None where the final norm or the unembedding has another form.
    """
    parts = model._modules
    weight = getattr(unwrapped(parts["unembed"]), "weight", None) if "unembed" in parts else None
    if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.shape[1] != vectors.shape[1]:
        return None
    found = vectors.to(weight)
    if "ln_final" in parts:
        norm = unwrapped(parts["ln_final"])
        form = norm_form(norm, vectors.shape[1])
        if form is None:
            return None
        found = found - found.mean(dim=-1, keepdim=True) if form.centred else found
        gain = getattr(norm, "weight", None)
        found = found if gain is None else found * (gain.to(found) + form.offset)
    return found @ weight.T
