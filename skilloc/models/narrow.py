"""Build the same model with fewer units: other widths per layer, smaller matrices.

A copy is cut, never the model itself. Where a checkpoint fuses projections (GPT-2, GPT-NeoX), transformer-lens runs on
the parts that it split off, and the fused matrix goes stale when these are trained; here the fused one is written anew
from the parts, so that the bridge and the plain module inside it compute the same again.
"""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from skilloc.models.mlp import MLP
from skilloc.models.weights import component_of, group, output_weight, units_of, unwrapped
from skilloc.units import kind_of

Left = Mapping[str, Int[np.ndarray, " _"]]
"""Per hook: positions of the units that stay, rising."""

FUSED = "skilloc_fused_rows"
"""Attribute of a part whose projections are fused: per projection, the rows of the fused matrix that are its own."""

_HEADS = ("num_heads", "n_heads", "num_attention_heads", "n_head")
_SHARED = ("num_key_value_heads", "n_kv_heads", "num_kv_heads", "n_key_value_heads")
_REPEATS = ("num_key_value_groups", "kv_repeats")
_FLAT = ("split_size",)


def narrowed(model: Any, left: Left) -> Any:
    """Return a copy of a model that has only some of its units.

    Keys and values that several heads share stay as long as one of these heads does, and every group of heads that
    stays must keep equally many: implementations know one number of heads per key.

    Args:
        model: a `TransformerBridge` or an `MLP`; it is left as it was.
        left: the units that stay on each hook, at least one; hooks that are not named keep all.

    Raises:
        ValueError: if the units of a hook cannot be cut out (see `models.weights.group`), or groups of heads would keep
            different numbers.
    """
    if isinstance(model, MLP):
        return _narrowed_mlp(model, left)
    smaller = copied(model)
    widths = dict(zip(units_of(model).hooks, units_of(model).widths, strict=True))
    for hook, places in left.items():
        if len(places) == widths[hook]:
            continue
        if kind_of(hook) == "neuron":
            _cut_neurons(smaller, hook, torch.from_numpy(places))
        else:
            _cut_heads(smaller, hook, torch.from_numpy(places))
    return smaller


def copied(model: Any) -> Any:
    """Return a copy of a model, with weights of its own, that can be trained or cut apart from the first.

    The bridges of some attentions remember the pattern of their last pass, graph and all, which no copy can take along.
    """
    passed = [value for module in model.modules() for value in module.__dict__.values() if isinstance(value, Tensor)]
    return copy.deepcopy(model, {id(value): None for value in passed if not value.is_leaf})


def key_groups(model: Any, hook: str) -> int:
    """Return how many keys (and values) the heads of a hook share out among them; as many as heads if none is shared.

    Raises:
        ValueError: if heads cannot be cut out: queries normalised over all heads at once, or an unknown layout.
    """
    heads, part = len(next(iter(group(model, hook).values()))), component_of(model, hook)
    d_head = len(output_weight(model, hook)) // heads
    sizes = [_rows(unwrapped(part._modules[name])) for name in ("q", "k", "v")]
    if "q.weight" not in group(model, hook) or sizes[0] != heads * d_head or sizes[1] != sizes[2]:
        raise ValueError(
            f"heads of `model` cannot be cut out at {hook}: its queries belong to all heads at once, or its "
            'projections are laid out in an unknown way; prune kinds=("neuron",), or hold the mask instead'
        )
    shared = sizes[1] // d_head
    if sizes[1] % d_head or heads % shared:
        raise ValueError(
            f"{hook} has {heads} heads on {shared} keys, which do not share out evenly; hold the mask instead"
        )
    return shared


def _narrowed_mlp(model: MLP, left: Left) -> MLP:
    places = {hook: torch.from_numpy(left[hook]) if hook in left else None for hook in model.hook_dict}
    weights = [*model.layers, model.out]
    widths = [
        width if kept is None else len(kept) for width, kept in zip(model.cfg.widths, places.values(), strict=True)
    ]
    smaller = MLP(model.cfg.d_in, model.cfg.d_out, widths, len(weights), activation=model.cfg.activation)
    smaller.to(model.out.weight)
    before = [None, *places.values()]
    after = [*places.values(), None]
    with torch.no_grad():
        for old, new, columns, rows in zip(weights, [*smaller.layers, smaller.out], before, after, strict=True):
            weight, bias = old.weight, old.bias
            weight = weight if rows is None else weight[rows.to(weight.device)]
            bias = bias if rows is None else bias[rows.to(bias.device)]
            new.weight.copy_(weight if columns is None else weight[:, columns.to(weight.device)])
            new.bias.copy_(bias)
    return smaller


def _cut_neurons(model: Any, hook: str, places: Tensor) -> None:
    part = component_of(model, hook)
    names = [name for name in ("gate", "in") if name in part._modules]
    _remember_fused(part, names)
    _cut(unwrapped(part._modules["out"]), places, of_inputs=True)
    for name in names:
        _cut(unwrapped(part._modules[name]), places)
    _fuse(part, {name: places for name in names})


def _cut_heads(model: Any, hook: str, places: Tensor) -> None:
    part, shared = component_of(model, hook), key_groups(model, hook)
    heads = len(next(iter(group(model, hook).values())))
    d_head, each = len(output_weight(model, hook)) // heads, heads // shared
    found, counts = torch.unique(places // each, return_counts=True)
    if len(set(counts.tolist())) > 1:
        raise ValueError(
            f"{hook} would keep {counts.tolist()} heads on keys {found.tolist()}; keep equally many on each"
        )
    _remember_fused(part, ["q", "k", "v"])
    rows = {"q": _spread(places, d_head), "k": _spread(found, d_head), "v": _spread(found, d_head)}
    _cut(unwrapped(part._modules["o"]), rows["q"], of_inputs=True)
    for name, chosen in rows.items():
        _cut(unwrapped(part._modules[name]), chosen)
    _fuse(part, rows)
    _count_heads(part, (heads, shared), (len(places), len(found)), d_head)


def _spread(places: Tensor, size: int) -> Tensor:
    """Return the rows of units that have several each."""
    return (places[:, None] * size + torch.arange(size)).flatten()


def _transposed(projection: Any) -> bool:
    # GPT-2 keeps its projections as Conv1D, [d_in, d_out]; everything else is a Linear, [d_out, d_in].
    return type(projection).__name__ == "Conv1D"


def _rows(projection: Any) -> int:
    return int(projection.weight.shape[1 if _transposed(projection) else 0])


def _cut(projection: Any, places: Tensor, *, of_inputs: bool = False) -> None:
    """Keep some outputs, or inputs, of a linear map."""
    weight = projection.weight
    axis = int(of_inputs) if not _transposed(projection) else int(not of_inputs)
    places = places.to(weight.device)
    projection.weight = nn.Parameter(weight.detach().index_select(axis, places), requires_grad=weight.requires_grad)
    if projection.bias is not None and not of_inputs:
        bias = projection.bias
        projection.bias = nn.Parameter(bias.detach()[places], requires_grad=bias.requires_grad)
    for name in ("in_features", "nx") if of_inputs else ("out_features", "nf"):
        if hasattr(projection, name):
            setattr(projection, name, len(places))


def fused_of(part: Any) -> Any:
    """Return the projection that holds several of a part's projections in one matrix, or None."""
    for name in ("qkv", "gate_up"):
        if name in part._modules:
            return unwrapped(part._modules[name])
    found = getattr(part.original_component, getattr(part, "fused_attr", ""), None)
    return None if found is None else unwrapped(found)


def _remember_fused(part: Any, names: list[str]) -> None:
    """Find out which rows of the fused matrix each projection is, by splitting a matrix of row numbers."""
    fused = fused_of(part)
    if fused is None or hasattr(part, FUSED):
        return
    split = getattr(part, "split_qkv_matrix", None) or part.split_gate_up_matrix
    with torch.no_grad():
        kept = fused.weight.clone()
        numbers = torch.arange(_rows(fused), dtype=torch.float32, device=kept.device)
        # Rows are numbered in float32 halves that any floating type of the weights holds exactly.
        low, high = numbers % 128, numbers // 128
        found = []
        for digit in (low, high):
            fused.weight.copy_(digit if _transposed(fused) else digit[:, None])
            found.append([piece.weight[:, 0].detach().float().clone() for piece in split(part.original_component)])
        fused.weight.copy_(kept)
    rows = [(a + 128 * b).long().cpu() for a, b in zip(*found, strict=True)]
    setattr(part, FUSED, dict(zip(names, rows, strict=True)))


def _fuse(part: Any, places: Mapping[str, Tensor]) -> None:
    """Cut the fused matrix to the rows that its projections still have, and write it anew from them."""
    fused = fused_of(part)
    if fused is None:
        return
    rows = {name: own[places[name]] for name, own in getattr(part, FUSED).items()}
    left = torch.cat(list(rows.values())).sort().values
    _cut(fused, left)
    setattr(part, FUSED, {name: torch.searchsorted(left, own) for name, own in rows.items()})
    refused(part)


def refused(part: Any) -> None:
    """Write the fused matrix of a part anew from the projections that were split off it, if it has one."""
    fused = fused_of(part)
    if fused is None:
        return
    with torch.no_grad():
        for name, rows in getattr(part, FUSED).items():
            own = unwrapped(part._modules[name])
            target = fused.weight.T if _transposed(fused) else fused.weight
            target[rows.to(target.device)] = own.weight.T if _transposed(own) else own.weight
            if fused.bias is not None:
                fused.bias[rows.to(target.device)] = own.bias


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
