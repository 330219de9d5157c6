"""Prune: build the smaller model without the dropped units."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from skilloc.intervene import Reference, as_reference, hold, logits_of
from skilloc.masks import Mask
from skilloc.models.mlp import MLP
from skilloc.models.narrow import key_groups, narrowed
from skilloc.models.weights import component_of, group, output_weight, unwrapped
from skilloc.pruning.keeping import check_mask
from skilloc.units import kind_of, layer_of

TOLERANCE = 1e-3
"""Logits that differ by more than this, relative to the largest, are not those of the same model."""


def prune(model: Any, mask: Mask, *, reference: Reference | Float[np.ndarray, "unit"] | None = None) -> Any:
    """Return a smaller model that computes what `model` computes with the dropped units held at their reference.

    Neurons lose their rows and columns, heads their query rows and output slices, and keys and values when no head
    reads them any more. What a reference other than zero adds, sum over dropped units u of reference[u] w_out[u], goes
    into the output bias. Widths may differ from layer to layer.

    Some dropped units stay, as zeros, because implementations count on them: the first unit of a layer that would
    lose all, and, where heads share keys, as many per key as the key with most kept heads has. `remaining` tells which.

    Args:
        model: a `TransformerBridge` or an `MLP` in evaluation mode; it is left as it was.
        mask: which units are kept; of some or all hooks of the model.
        reference: what dropped units are held at, the same for all examples: zero if not given, a mean, or one value
            per unit.

    Raises:
        ValueError: if the mask is not about units of the model, the reference needs a bias that the model does not
            have or differs from example to example, or units cannot be cut out of this architecture.
    """
    check_mask(model, mask)
    held = as_reference(reference, mask.units)
    left = remaining(model, mask)
    smaller = narrowed(model, {hook: np.flatnonzero(part) for hook, part in mask.units.split(left).items()})
    with torch.no_grad():
        for hook, kept in mask.units.split(mask.keep).items():
            stays = mask.units.split(left)[hook]
            blank = torch.from_numpy(np.flatnonzero(~kept[stays]))
            for view in group(smaller, hook).values() if len(blank) else ():
                view[blank.to(view.device)] = 0
            added = _written(model, hook, ~kept, held)
            if added is not None:
                _add(smaller, hook, added, mask.units.split(left))
    _check_same(model, smaller, mask, held)
    return smaller


def remaining(model: nn.Module, mask: Mask) -> Bool[np.ndarray, "unit"]:
    """Return which units of the mask `prune` leaves in the model: those kept, and the few that stay as zeros.

    The units of the pruned model, on these hooks, are those units, in the same order.

    Raises:
        ValueError: if the mask is not about units of the model, or heads cannot be cut out of it.
    """
    check_mask(model, mask)
    left = mask.keep.copy()
    for hook in mask.units.hooks:
        part = left[mask.units.span(hook)]  # a view
        if part.all():
            continue
        if kind_of(hook) == "head":
            shares = part.reshape(key_groups(model, hook), -1)
            most = max(1, int(shares.sum(axis=1).max()))
            read = shares.any(axis=1) if part.any() else np.arange(len(shares)) == 0
            for share in (shares[i] for i in np.flatnonzero(read)):
                share[np.flatnonzero(~share)[: most - int(share.sum())]] = True
        elif not part.any():
            part[0] = True
    return left


def _written(
    model: Any, hook: str, gone: Bool[np.ndarray, "unit"], held: Reference
) -> Float64[Tensor, "d_model"] | None:
    """Return what the dropped units of a hook write at their reference; None if it is nothing."""
    weights = output_weight(model, hook)
    values = torch.zeros(len(gone), len(weights) // len(gone), device=weights.device, dtype=torch.float64)
    for unit in np.flatnonzero(gone):
        value = held.of(hook, int(unit), slice(None))
        if value.ndim > (1 if kind_of(hook) == "head" else 0):
            raise ValueError(
                f'`reference` is "{held.name}", which differs from example to example; prune at zero or a mean, or '
                "hold the mask instead"
            )
        values[unit] = value.to(values)
    return values.flatten() @ weights.double() if bool(values.any()) else None


def _add(smaller: Any, hook: str, added: Float64[Tensor, "d_model"], left: Mapping[str, np.ndarray]) -> None:
    """Add to the bias of what follows a hook."""
    if isinstance(smaller, MLP):
        after = list(smaller.hook_dict)[layer_of(hook) + 1 :]
        bias: Any = [*smaller.layers, smaller.out][layer_of(hook) + 1].bias
        added = added[torch.from_numpy(left[after[0]]).to(added.device)] if after and after[0] in left else added
    else:
        name = "o" if kind_of(hook) == "head" else "out"
        bias = unwrapped(component_of(smaller, hook)._modules[name]).bias
    if bias is None:
        raise ValueError(
            f"`reference` is not zero, and {hook} has an output projection without a bias to take it up; prune at "
            "zero, or hold the mask instead"
        )
    bias += added.to(bias)


def _check_same(model: Any, smaller: Any, mask: Mask, held: Reference) -> None:
    """Compare on a few inputs: an unknown architecture may count its heads in a way that this file does not know."""
    parameter = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    if isinstance(model, MLP):
        inputs = torch.randint(2, (8, model.cfg.d_in), generator=generator).to(parameter)
    else:
        length = min(8, int(model.cfg.n_ctx))
        inputs = torch.randint(int(model.cfg.d_vocab), (2, length), generator=generator).to(parameter.device)
    with torch.no_grad():
        with hold(model, mask, held):
            wanted = logits_of(model(inputs))
        try:
            found = logits_of(smaller(inputs))
        except RuntimeError as error:
            found, said = None, str(error).partition("\n")[0]
    if found is None or (found - wanted).abs().max() > TOLERANCE * max(1.0, float(wanted.abs().max())):
        how = f"does not run ({said})" if found is None else "computes something else"
        raise ValueError(
            f"without its dropped units, this {type(getattr(model, 'original_model', model)).__name__} {how}, so they "
            "cannot be cut out; hold the mask, or keep it at zero with `keep`"
        )
