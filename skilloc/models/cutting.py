"""Build the same model with fewer units: other widths per layer, smaller matrices.

A copy is cut, never the model itself: the projections that run, and the fused matrix that some of them were split off.
"""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skilloc.mistakes import WrongValue
from skilloc.models.copying import copied
from skilloc.models.face import Left
from skilloc.models.unwrapped import cut_fused, fused_of, fused_rows, outputs, transposed
from skilloc.models.weights import banks_of, component_of, group, norms_by_head, output_weight, place_of, unwrapped
from skilloc.units import NEURON

_HEADS = ("num_heads", "n_heads", "num_attention_heads", "n_head")
_SHARED = ("num_key_value_heads", "n_kv_heads", "num_kv_heads", "n_key_value_heads")
_REPEATS = ("num_key_value_groups", "kv_repeats")
_FLAT = ("split_size",)


def narrowed(model: Any, left: Left) -> Any:
    """Return a copy of a model that has only some of its units.

    Keys and values that several heads share stay as long as one of these heads does, and every group of heads that
    stays must keep equally many: implementations know one number of heads per key.

    Args:
        model: a `TransformerBridge`; it is left as it was.
        left: the units that stay on each hook, at least one; hooks that are not named keep all.

    Raises:
        ValueError: if the units of a hook cannot be cut out (see `models.weights.group`), or groups of heads would keep
            different numbers.
    """
    smaller = copied(model)
    widths = {bank.name: bank.width for bank in banks_of(model)}
    for hook, places in left.items():
        if len(places) == widths[hook]:
            continue
        if place_of(model, hook)[1] == NEURON:
            _cut_neurons(smaller, hook, torch.from_numpy(places))
        else:
            _cut_heads(smaller, hook, torch.from_numpy(places))
    return smaller


def places(model: Any, widths: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return units whose number, and number per key, are those of a smaller model: the first of each key.

    Args:
        model: a bridge with at least as many.
        widths: per hook, the number of units and of keys.
    """
    found = {}
    for hook, (width, keys) in widths.items():
        found[hook] = np.arange(width)
        if place_of(model, hook)[1] != NEURON:
            heads = next(bank.width for bank in banks_of(model) if bank.name == hook)
            each = heads // key_groups(model, hook)
            found[hook] = (np.arange(keys)[:, None] * each + np.arange(width // keys)).ravel()
    return found


def key_groups(model: Any, hook: str) -> int:
    """Return how many keys (and values) the heads of a hook share out among them; as many as heads if none is shared.

    Raises:
        ValueError: if heads cannot be cut out: queries normalised over all heads at once, or an unknown layout.
    """
    heads, part = len(next(iter(group(model, hook).values()))), component_of(model, hook)
    d_head = len(output_weight(model, hook)) // heads
    sizes = [outputs(unwrapped(part._modules[name])) for name in ("q", "k", "v")]
    if "q.weight" not in group(model, hook) or sizes[0] != heads * d_head or sizes[1] != sizes[2]:
        raise WrongValue(
            f"heads of `model` cannot be cut out at {hook}: its queries belong to all heads at once, or its "
            'projections are laid out in an unknown way; prune kinds=("neuron",), or hold the mask instead'
        )
    shared = sizes[1] // d_head
    if sizes[1] % d_head or heads % shared:
        raise WrongValue(
            f"{hook} has {heads} heads on {shared} keys, which do not share out evenly; hold the mask instead"
        )
    return shared


def _cut_neurons(model: Any, hook: str, places: Tensor) -> None:
    part = component_of(model, hook)
    names = [name for name in ("gate", "in") if name in part._modules]
    fused = fused_rows(part) if fused_of(part) is not None else None
    _cut(unwrapped(part._modules["out"]), places, of_inputs=True)
    for name in names:
        _cut(unwrapped(part._modules[name]), places)
    if fused is not None:
        cut_fused(part, dict.fromkeys(names, places), _cut, fused)


def _cut_heads(model: Any, hook: str, places: Tensor) -> None:
    part, shared = component_of(model, hook), key_groups(model, hook)
    heads = len(next(iter(group(model, hook).values())))
    d_head, each = len(output_weight(model, hook)) // heads, heads // shared
    found, counts = torch.unique(places // each, return_counts=True)
    if len(set(counts.tolist())) > 1:
        raise WrongValue(
            f"{hook} would keep {counts.tolist()} heads on keys {found.tolist()}; keep equally many on each"
        )
    fused = fused_rows(part) if fused_of(part) is not None else None
    rows = {"q": _spread(places, d_head), "k": _spread(found, d_head), "v": _spread(found, d_head)}
    _cut(unwrapped(part._modules["o"]), rows["q"], of_inputs=True)
    for name, chosen in rows.items():
        _cut(unwrapped(part._modules[name]), chosen)
    if fused is not None:
        cut_fused(part, rows, _cut, fused)
    for name, chosen in (("q", places), ("k", found)):
        norms = norms_by_head(part, name)
        if norms is not None:
            norms._modules = {str(i): norms[int(place)] for i, place in enumerate(chosen)}
    _count_heads(part, (heads, shared), (len(places), len(found)), d_head)


def _spread(places: Tensor, size: int) -> Tensor:
    """Return the rows of units that have several each."""
    return (places[:, None] * size + torch.arange(size)).flatten()


def _cut(projection: Any, places: Tensor, *, of_inputs: bool = False) -> None:
    """Keep some outputs, or inputs, of a linear map."""
    weight = projection.weight
    axis = int(of_inputs) if not transposed(projection) else int(not of_inputs)
    places = places.to(weight.device)
    projection.weight = nn.Parameter(weight.detach().index_select(axis, places), requires_grad=weight.requires_grad)
    if projection.bias is not None and not of_inputs:
        bias = projection.bias
        projection.bias = nn.Parameter(bias.detach()[places], requires_grad=bias.requires_grad)
    for name in ("in_features", "nx") if of_inputs else ("out_features", "nf"):
        if hasattr(projection, name):
            setattr(projection, name, len(places))


def _count_heads(part: Any, before: tuple[int, int], now: tuple[int, int], d_head: int) -> None:
    """Tell the attention, and the module that it wraps, how many heads they have now."""
    # One configuration serves all layers; this layer gets its own.
    part.config = copy.copy(part.config)
    repeats = before[0] // before[1], now[0] // now[1]
    flat = before[0] * d_head, now[0] * d_head
    changes = [(_HEADS, before[0], now[0]), (_SHARED, before[1], now[1]), (_REPEATS, *repeats), (_FLAT, *flat)]
    for owner in (part, part.config, part.original_component):
        for names, old, new in changes:
            for name in names:
                if owner.__dict__.get(name) == old:
                    setattr(owner, name, new)
    for name, count in (("q", now[0]), ("k", now[1]), ("v", now[1]), ("o", now[0])):
        point = part._modules[name].hook_in if name == "o" else part._modules[name].hook_out
        if hasattr(point.hook_conversion, "n_heads"):
            point.hook_conversion = copy.copy(point.hook_conversion)
            point.hook_conversion.n_heads = count
